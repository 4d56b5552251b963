"""Pooling, padding and cropping carry channels: later readers lose their inputs."""

import keras
import pytest
from keras import layers as L

import secateurs as sec

BEHIND = {
    # layer -> number of positions left of 8 x 8
    "max": (lambda: L.MaxPooling2D(2), 16),
    "average": (lambda: L.AveragePooling2D((2, 4)), 8),
    "up": (lambda: L.UpSampling2D(2), 256),
    "pad": (lambda: L.ZeroPadding2D(1), 100),
    "crop": (lambda: L.Cropping2D(1), 36),
    "global": (L.GlobalMaxPooling2D, 1),
    "global, axes kept": (lambda: L.GlobalAveragePooling2D(keepdims=True), 1),
}


@pytest.mark.parametrize("name", BEHIND)
def test_each_channel_is_as_many_inputs_as_there_are_positions(name):
    make, positions = BEHIND[name]
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), L.Conv2D(5, 1, name="a"), make(), L.Flatten(), L.Dense(2)]
    )
    network = sec.trace(model)
    small = sec.apply(model, network.cut({"a": [0, 3]}), network=network)
    assert tuple(small.layers[-1].kernel.shape) == (positions * 3, 2)


def test_sequences_are_cropped_and_repeated_along_their_steps():
    model = keras.Sequential(
        [
            keras.Input((7, 3)),
            L.Conv1D(5, 1, name="a"),
            L.Cropping1D((1, 2)),
            L.UpSampling1D(3),
            L.Flatten(),
            L.Dense(2),
        ]
    )
    small = sec.delete_channels(model, {"a": [4]})
    assert tuple(small.layers[-1].kernel.shape) == ((7 - 3) * 3 * 4, 2)


def test_positions_are_not_channels():
    """A dense layer along the steps makes units there; pooling over them needs every one."""
    i = keras.Input((6, 3))
    x = L.Permute((2, 1))(L.Dense(4, name="steps")(L.Permute((2, 1))(i)))
    model = keras.Model(i, L.Dense(2)(L.MaxPooling1D(2)(x)))
    reasons = {one.name: one.reasons for one in sec.trace(model).frozen}
    assert "reads every position" in reasons["steps"][0]


LEFT_ALONE = {
    "average": lambda: L.AveragePooling2D((6, 1)),
    "max, padded": lambda: L.MaxPooling2D((3, 1), strides=(2, 1), padding="same"),
    "up": lambda: L.UpSampling2D((2, 1)),
    "pad": lambda: L.ZeroPadding2D(((1, 2), (0, 0))),
    "crop": lambda: L.Cropping2D(((1, 2), (0, 0))),
}
CHANGED = {
    "average": lambda: L.AveragePooling2D((6, 2)),
    "steps": lambda: L.MaxPooling2D((3, 1), strides=(2, 2)),
    "up": lambda: L.UpSampling2D((1, 2)),
    "pad": lambda: L.ZeroPadding2D(((0, 0), (1, 0))),
    "crop": lambda: L.Cropping2D(((0, 0), (0, 1))),
}


def reader(pool):
    """A convolution, its channels moved to a spatial axis, pooling over others, a dense layer."""
    i = keras.Input((6, 6, 3))
    x = L.Permute((1, 3, 2))(L.Conv2D(8, 3, padding="same", activation="relu", name="a")(i))
    return keras.Model(i, L.Dense(5, name="b")(keras.ops.mean(pool(x), axis=(1, 3))))


@pytest.mark.parametrize("kind", LEFT_ALONE)
def test_pooling_leaves_axes_with_neutral_settings_free(kind):
    model = reader(LEFT_ALONE[kind]())
    network = sec.trace(model)
    cut = network.cut({"a": [0, 3, 5]})
    small = sec.apply(model, cut, network=network, proof="independent")
    assert small.get_layer("b").kernel.shape[0] == 5


@pytest.mark.parametrize("kind", CHANGED)
def test_pooling_freezes_the_axes_along_which_it_reads(kind):
    network = sec.trace(reader(CHANGED[kind]()))
    assert "a" not in {group.name for group in network.groups}
