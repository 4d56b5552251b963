"""Random functional Keras models for property tests, from recipes that hypothesis generates."""

from dataclasses import dataclass

import keras
import numpy as np
from hypothesis import strategies as st
from keras import layers as L

from contract.zoo import noisy

KINDS = (
    "conv",
    "norm",
    "residual",
    "through",
    "concat",
    "grouped",
    "depthwise",
    "separable",
    "transposed",
    "gate",
    "excite",
    "pool",
    "shared",
    "shuffle",
)
ENDS = ("mean", "flatten", "lstm", "gru", "map")


@dataclass(frozen=True)
class Recipe:
    kinds: tuple[str, ...]
    width: int
    end: str
    seed: int


@st.composite
def recipes(draw):
    return Recipe(
        tuple(draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))),
        draw(st.sampled_from([4, 8])),
        draw(st.sampled_from(ENDS)),
        draw(st.integers(0, 2**16)),
    )


def _conv(x, width, size=3, **options):
    return L.Conv2D(width, size, padding="same", **options)(x)


def _block(kind, x, width):
    """One step of a recipe."""
    if kind == "norm":
        return L.ReLU()(L.BatchNormalization()(_conv(x, width)))
    if kind == "residual":
        y = L.BatchNormalization()(_conv(x, 2 * width, activation="relu"))
        return L.Add()([x, _conv(y, x.shape[-1], use_bias=False)])
    if kind == "through":
        return L.Activation("gelu")(L.Average()([_conv(x, width), _conv(x, width, 1)]))
    if kind == "concat":
        return L.Concatenate()([_conv(x, width), L.PReLU(shared_axes=[1, 2])(_conv(x, 2, 1))])
    if kind == "grouped":
        return _conv(_conv(x, width), 2 * width, groups=width // 2, activation="silu")
    if kind == "depthwise":
        return L.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x)
    if kind == "separable":
        return L.SeparableConv2D(width, 3, padding="same", activation="relu")(x)
    if kind == "transposed":
        return L.MaxPooling2D(2)(L.Conv2DTranspose(width, 2, strides=2)(x))
    if kind == "gate":
        return L.Multiply()([_conv(x, width), _conv(x, width, 1, activation="sigmoid")])
    if kind == "excite":
        s = L.Dense(3, activation="relu")(L.GlobalAveragePooling2D()(x))
        s = L.Reshape((1, 1, x.shape[-1]))(L.Dense(x.shape[-1], activation="sigmoid")(s))
        return L.Multiply()([x, s])
    if kind == "pool":
        return L.Cropping2D(((1, 0), (0, 1)))(
            L.AveragePooling2D(2, strides=1)(L.ZeroPadding2D()(x))
        )
    if kind == "shared":
        again = L.Conv2D(x.shape[-1], 3, padding="same")
        return again(L.ReLU()(again(x)))
    if kind == "shuffle":
        height, width, channels = x.shape[1:]
        y = L.Permute((1, 2, 4, 3))(L.Reshape((height, width, 2, channels // 2))(x))
        return L.Add()([L.Reshape((height, width, channels))(y), _conv(x, channels)])
    return _conv(x, width, activation="relu")


def network(recipe):
    """The model of a recipe, with weights that show a wrong channel."""
    inputs = keras.Input((4, 4, 3))
    x = _conv(inputs, recipe.width)
    for kind in recipe.kinds:
        x = _block(kind, x, recipe.width)
    if recipe.end == "map":
        return noisy(keras.Model(inputs, _conv(x, 5, 1)))
    if recipe.end == "mean":
        x = L.GlobalAveragePooling2D()(x)
    elif recipe.end == "flatten":
        x = L.Dense(6, activation="relu")(L.Flatten()(x))
    else:
        steps = L.Reshape((x.shape[1], -1))(x)
        x = L.LSTM(4)(steps) if recipe.end == "lstm" else L.GRU(4)(steps)
    return noisy(keras.Model(inputs, L.Dense(5)(x)))


def example():
    return np.random.default_rng(0).standard_normal((2, 4, 4, 3)).astype("float32")


def random_cut(network, seed):
    random = np.random.default_rng(seed)
    return network.cut(
        {
            group.name: random.permutation(len(group))[: random.integers(0, len(group))]
            for group in network.groups
        }
    )
