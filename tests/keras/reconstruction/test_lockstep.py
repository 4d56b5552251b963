"""Where redundancy is exact, repair restores the outputs, through every kind of Keras layer."""

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec


def images(*shape, count=96):
    return np.random.default_rng(1).normal(size=(count, *shape)).astype(np.float32)


def numbers(tensor):
    return np.array(keras.ops.convert_to_numpy(tensor), np.float32)


def twins(layer, one=0, other=3, axis=-1):
    """Make two filters of a layer equal."""
    for variable in layer.weights:
        values = numbers(variable)
        at = axis if values.ndim > 1 else 0
        moved = np.moveaxis(values, at, 0)
        moved[other] = moved[one]
        variable.assign(values)


def draw_norm(**options):
    """Set batch normalisation to statistics as after training, not to its initial ones."""
    uniform = keras.initializers.RandomUniform
    return L.BatchNormalization(
        gamma_initializer=uniform(0.5, 1.5, seed=1),
        beta_initializer=uniform(-0.3, 0.3, seed=2),
        moving_mean_initializer=uniform(-0.1, 0.1, seed=3),
        moving_variance_initializer=uniform(0.5, 1.5, seed=4),
        **options,
    )


def chain(shape, *layers):
    """A layer 'first', whose filter 3 is a copy of filter 0, and its reader."""
    keras.utils.set_random_seed(0)
    made = [layer() if isinstance(layer, type(lambda: 0)) else layer for layer in layers]
    model = keras.Sequential([keras.Input(shape), *made])
    twins(model.get_layer("first"))
    return model


def first(rank=2, filters=8, kernel=3, **options):
    return getattr(L, f"Conv{rank}D")(filters, kernel, name="first", **options)


def tail():
    return L.AveragePooling2D(2), L.Flatten(), L.Dense(5)


CHAINS = {
    "dense": lambda: chain((7,), L.Dense(9, "relu", name="first"), L.Dense(5)),
    "without a bias": lambda: chain(
        (7,), L.Dense(9, "relu", name="first"), L.Dense(5, use_bias=False)
    ),
    "sequence": lambda: chain((4, 7), L.Dense(9, "gelu", name="first"), L.Dense(5)),
    "batch norm": lambda: chain(
        (9, 9, 3),
        first(use_bias=False),
        L.ReLU(),
        L.Conv2D(6, 3, padding="same", use_bias=False),
        draw_norm(),
        L.ReLU(),
        *tail(),
    ),
    "stride, dilation": lambda: chain(
        (11, 11, 3),
        first(activation="silu"),
        L.Conv2D(6, (3, 2), dilation_rate=(1, 2), activation="relu"),
        L.Conv2D(6, (3, 2), strides=(2, 1), padding="same"),
        *tail(),
    ),
    "same padding": lambda: chain(
        (10, 9, 3), first(activation="tanh"), L.Conv2D(6, 4, strides=2, padding="same"), *tail()
    ),
    "transposed": lambda: chain(
        (7, 7, 3),
        first(activation="relu"),
        L.Conv2DTranspose(6, 3, strides=2, padding="same"),
        *tail(),
    ),
    "transposed, overlapping": lambda: chain(
        (7, 7, 3), first(activation="relu"), L.Conv2DTranspose(6, (4, 3), strides=(2, 3)), *tail()
    ),
    "transposed, apart": lambda: chain(
        (8, 3),
        first(1, activation="relu"),
        L.Conv1DTranspose(6, 2, strides=4),
        L.Flatten(),
        L.Dense(5),
    ),
    "flatten": lambda: chain(
        (5, 5, 3), first(filters=6, activation="relu"), L.Flatten(), L.Dense(5)
    ),
    "causal": lambda: chain(
        (8, 3),
        first(1, activation="relu"),
        L.Conv1D(6, 3, padding="causal", dilation_rate=2),
        L.Flatten(),
        L.Dense(5),
    ),
    "three dimensions": lambda: chain(
        (5, 4, 5, 2),
        first(3, 6, 2, activation="relu"),
        L.Conv3D(4, 2, strides=(1, 2, 1)),
        L.Flatten(),
        L.Dense(5),
    ),
    "depthwise": lambda: chain(
        (8, 8, 3),
        first(kernel=1, activation="relu6"),
        L.DepthwiseConv2D(3, padding="same", depth_multiplier=2),
        L.Conv2D(6, 1, activation="relu"),
        *tail(),
    ),
    "separable": lambda: chain(
        (8, 8, 3),
        first(kernel=1, activation="relu"),
        L.SeparableConv2D(6, 3, strides=2, padding="same", activation="relu"),
        L.Flatten(),
        L.Dense(5),
    ),
    "separable, one dimension": lambda: chain(
        (8, 3), first(1, activation="relu"), L.SeparableConv1D(6, 3), L.Flatten(), L.Dense(5)
    ),
    "einsum": lambda: chain(
        (4, 7),
        L.Dense(9, "relu", name="first"),
        L.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de"),
        L.EinsumDense("abcd,cde->abe", (None, 5), bias_axes="e"),
    ),
}


def answers(model, data):
    return numbers(model(data, training=False))


def after_repair(model, data, channels):
    """Return the outputs of the (dense, cut, repaired) model."""
    example = {k: x[:1] for k, x in data.items()} if isinstance(data, dict) else data[:1]
    cut = sec.delete_channels(model, channels, example)
    repaired = sec.repair(cut, model, data)
    return answers(model, data), answers(cut, data), answers(repaired, data)


def check(model, data, channels, tolerance=1e-4):
    dense, cut, repaired = after_repair(model, data, channels)
    scale = np.abs(dense).max()
    assert np.abs(cut - dense).max() > 1e-2 * scale
    assert np.abs(repaired - dense).max() < tolerance * scale


@pytest.mark.parametrize("name", CHAINS)
def test_removing_a_duplicate_channel_changes_no_output(name):
    model = CHAINS[name]()
    if name in ("depthwise", "separable", "separable, one dimension"):
        second = model.layers[1]
        kernel = second.kernel if name == "depthwise" else second.depthwise_kernel
        values = numbers(kernel)
        values[..., 3, :] = values[..., 0, :]
        kernel.assign(values)
    check(model, images(*model.input_shape[1:]), {"first": [3]})


def build_grouped():
    """Each group of the second convolution reads four channels; the last is a copy of the first."""
    i = keras.Input((6, 6, 3))
    x = L.Conv2D(8, 1, activation="relu", name="first")(i)
    x = L.Conv2D(6, 3, padding="same", groups=2, use_bias=False)(x)
    x = L.GlobalAveragePooling2D()(L.ReLU()(draw_norm()(x)))
    model = keras.Model(i, L.Dense(5)(x))
    twins(model.get_layer("first"))
    twins(model.get_layer("first"), 4, 7)
    return model


def build_concatenation():
    i = keras.Input((6, 6, 3))
    one = L.Conv2D(8, 1, activation="relu", name="first")(i)
    x = L.Conv2D(6, 3, activation="relu")(L.Concatenate()([L.Conv2D(4, 1)(i), one]))
    model = keras.Model(i, L.Dense(5)(L.GlobalAveragePooling2D()(x)))
    twins(model.get_layer("first"))
    return model


def stream(dtype="float32"):
    """A residual stream, read and written several times; its channel 3 is a copy of channel 0."""
    keras.config.set_dtype_policy(dtype)
    try:
        i = keras.Input((6, 6, 3))
        x = L.Conv2D(8, 1, activation="relu", name="first")(i)
        for number in range(2):
            y = L.Conv2D(5, 3, padding="same", activation="relu")(x)
            y = L.Conv2D(8, 3, padding="same", use_bias=False, name=f"outer{number}")(y)
            x = L.ReLU()(draw_norm()(y) + x)
        model = keras.Model(i, L.Dense(5)(L.GlobalAveragePooling2D()(x)))
    finally:
        keras.config.set_dtype_policy("float32")
    for name in ("first", "outer0", "outer1"):
        twins(model.get_layer(name))
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            twins(layer)
    return model


def build_gate():
    i = keras.Input((4, 6))
    gate = L.Dense(8, "silu", name="gate")(i)
    x = L.Multiply()([gate, L.Dense(8, name="up")(i)])
    model = keras.Model(i, L.Add()([i, L.Dense(6, use_bias=False)(x)]))
    twins(model.get_layer("gate"))
    twins(model.get_layer("up"))
    return model


def attention():
    """Two identical heads: one of them can be removed."""
    i = keras.Input((5, 8))
    layer = L.MultiHeadAttention(2, 4, name="attention")
    model = keras.Model(i, L.Add()([i, layer(i, i)]))
    for name in ("query", "key", "value"):
        for variable in getattr(layer, f"_{name}_dense").weights:
            values = numbers(variable)
            values[..., 1, :] = values[..., 0, :]
            variable.assign(values)
    return model


def before_attention():
    """The input of attention has a duplicate channel; its three projections compensate."""
    i = keras.Input((5, 8))
    x = L.Dense(9, "relu", name="first")(i)
    model = keras.Model(i, L.MultiHeadAttention(2, 4, output_shape=8)(x, x))
    twins(model.get_layer("first"))
    return model


OTHERS = {
    "grouped": (build_grouped, {"first": [3, 7]}),
    "concatenated": (build_concatenation, {"first": [3]}),
    "residual stream": (stream, {"first": [3]}),
    "gated": (build_gate, {"up": [3]}),
    "attention": (attention, None),
    "before attention": (before_attention, {"first": [3]}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_removing_a_duplicate_channel_changes_no_output_in_other_networks(name):
    keras.utils.set_random_seed(0)
    build, channels = OTHERS[name]
    model = build()
    data = images(*model.input_shape[1:])
    if channels is not None:
        return check(model, data, channels, 1e-3)
    network = sec.trace(model, data[:1])
    heads = next(group for group in network.groups if len(group) == 2)
    cut = sec.apply(model, network.cut({heads.name: [1]}), data[:1])
    repaired = sec.repair(cut, model, data)
    dense, small, again = (answers(one, data) for one in (model, cut, repaired))
    scale = np.abs(dense).max()
    assert np.abs(small - dense).max() > 1e-2 * scale
    assert np.abs(again - dense).max() < 1e-3 * scale
    return None


def relative(found, right):
    return np.square(found - right).sum() / np.square(right - right.mean(0)).sum()


NORMS = {
    "layer": L.LayerNormalization,
    "group": lambda: L.GroupNormalization(1, axis=-1),
    **({"rms": L.RMSNormalization} if hasattr(L, "RMSNormalization") else {}),
}


@pytest.mark.parametrize("norm", NORMS)
def test_norms_compensate_for_channels_that_they_no_longer_average(norm):
    keras.utils.set_random_seed(0)
    i = keras.Input((4, 6))
    x = L.Dense(16, name="embed")(i)
    for _ in range(2):
        y = L.Dense(24, "gelu")(NORMS[norm]()(x))
        x = L.Add()([x, L.Dropout(0.5)(L.Dense(16)(y))])
    model = keras.Model(i, L.Dense(5)(NORMS[norm]()(x)))
    dense, cut, repaired = after_repair(model, images(4, 6, count=256), {"embed": [1, 5, 9]})
    assert relative(repaired, dense) < 0.25 * relative(cut, dense)


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "mixed_float16"])
def test_half_precision_is_solved_in_double(kind):
    keras.utils.set_random_seed(0)
    model, data = stream(kind), images(6, 6, 3)
    cut = sec.delete_channels(model, {"first": [3]}, data[:1])
    repaired = sec.repair(cut, model, data)
    assert repaired.get_layer("first").dtype_policy.name == kind
    dense, small, again = (answers(one, data) for one in (model, cut, repaired))
    assert np.abs(again - dense).max() < 0.02 * np.abs(dense).max() < np.abs(small - dense).max()


def test_channels_first_is_repaired_the_same():
    keras.utils.set_random_seed(0)
    options = {"data_format": "channels_first"}
    i = keras.Input((3, 8, 8))
    x = L.Conv2D(8, 3, activation="relu", name="first", **options)(i)
    x = L.ReLU()(draw_norm(axis=1)(L.Conv2D(6, 3, padding="same", use_bias=False, **options)(x)))
    model = keras.Model(i, L.Dense(5)(L.GlobalAveragePooling2D(**options)(x)))
    twins(model.get_layer("first"))
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow has no convolution of channels first on a CPU")
    check(model, images(3, 8, 8), {"first": [3]})


def test_a_layer_that_is_called_twice_is_not_refitted():
    keras.utils.set_random_seed(0)
    i = keras.Input((6,))
    second = L.Dense(8, name="second")
    x = second(L.Activation("tanh")(second(L.Dense(8, name="first")(i))))
    model = keras.Model(i, L.Dense(3, name="head")(x))
    data = images(6)
    cut = sec.delete_channels(model, {"first": [3]}, data[:1])
    repaired = sec.repair(cut, model, data)
    one, other = (numbers(m.get_layer("second").kernel) for m in (repaired, cut))
    assert np.array_equal(one, other)
    one, other = (numbers(m.get_layer("head").kernel) for m in (repaired, cut))
    assert not np.array_equal(one, other)


def test_a_model_with_two_named_inputs_is_repaired():
    keras.utils.set_random_seed(0)
    one, other = keras.Input((6,), name="one"), keras.Input((4,), name="other")
    left, right = L.Dense(8, name="left")(one), L.Dense(8, name="right")(other)
    x = L.Activation("tanh")(L.Add()([left, right]))
    model = keras.Model({"one": one, "other": other}, {"scores": L.Dense(3)(x)})
    twins(model.get_layer("left"))
    twins(model.get_layer("right"))
    data = {"one": images(6), "other": images(4)}
    cut = sec.delete_channels(model, {"left": [3]}, {key: x[:1] for key, x in data.items()})
    repaired = sec.repair(cut, model, data)
    right, found = (numbers(m(data, training=False)["scores"]) for m in (model, repaired))
    assert np.abs(found - right).max() < 1e-4 * np.abs(right).max()


def test_composite_layers_are_repaired_inside():
    @keras.saving.register_keras_serializable(package="repair_tests")
    class Block(L.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.up, self.down = L.Dense(9, "relu", name="up"), L.Dense(5, name="down")

        def build(self, shape):
            self.up.build(shape)
            self.down.build((*shape[:-1], 9))
            self.built = True

        def call(self, x):
            return self.down(self.up(x))

    keras.utils.set_random_seed(0)
    i = keras.Input((7,))
    block = Block(name="block")
    model = keras.Model(i, block(i))
    twins(block.up)
    check(model, images(7), {"block.up": [3]})
