"""Names of sublayers and variables are the same whenever and wherever a model is built."""

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from secateurs.keras.model.layer_tree import snake_case
from secateurs.keras.model.tensors import list_tensors


class Block(L.Layer):
    """Unnamed parts, parts with the same name, parts in a list, an unnamed variable."""

    def __init__(self, **options):
        super().__init__(**options)
        self.conv = L.Conv2D(4, 1)
        self.value, self.gate = (L.Dense(4, name="part") for _ in range(2))
        self.rest = [L.Dense(4), L.Dense(4)]

    def build(self, shape):
        self.slope = self.add_weight(shape=(4,), initializer="ones")
        super().build(shape)

    def call(self, x):
        x = self.conv(x)
        x = self.value(x) * keras.ops.tanh(self.gate(x)) * self.slope
        for layer in self.rest:
            x = layer(x)
        return x

    def get_config(self):
        return super().get_config()


def make():
    i = keras.Input((5, 5, 3))
    x = L.Flatten()(Block(name="block")(i))
    return keras.Model(i, L.Dense(2, name="head")(L.Dense(6, name="hidden")(x)))


EXPECTED = [
    *("block.slope", "block.conv.kernel", "block.conv.bias", "block.value.kernel"),
    *("block.value.bias", "block.gate.kernel", "block.gate.bias", "block.rest.0.kernel"),
    *("block.rest.0.bias", "block.rest.1.kernel", "block.rest.1.bias"),
    *("hidden.kernel", "hidden.bias", "head.kernel", "head.bias"),
]


def test_names_are_the_same_however_many_layers_were_made_before():
    for _ in range(3):
        assert sorted(leaf.name for leaf in list_tensors(make())) == sorted(EXPECTED)


@pytest.mark.parametrize(
    "name",
    ["Conv2D", "BatchNormalization", "MyLayer", "ABCLayer", "GELU", "Conv1DTranspose"],
)
def test_automatic_names_are_those_of_keras(name):
    keras.utils.clear_session()
    layer = type(name, (L.Layer,), {})()
    assert layer.name == snake_case(name)


@pytest.mark.parametrize("call", ["cut", "saved", "edited"])
def test_every_weight_of_a_composite_layer_is_kept(call, tmp_path):
    model = make()
    if call == "cut":
        made = sec.delete_channels(model, {"hidden": [2]})
    elif call == "edited":
        made = sec.keras.insert_layer(model, "hidden", L.Dropout(0.5, name="drop"))
    else:
        sec.save(model, tmp_path / "model.safetensors")
        made = sec.load(make(), tmp_path / "model.safetensors")
    before = {leaf.name: leaf.array() for leaf in list_tensors(model)}
    for leaf in list_tensors(made):
        expected = before[leaf.name]
        if call == "cut" and leaf.name.startswith(("hidden", "head.kernel")):
            axis = 0 if leaf.name in ("head.kernel", "hidden.bias") else 1
            expected = np.delete(expected, 2, axis)
        np.testing.assert_array_equal(leaf.array(), expected, err_msg=leaf.name)


def test_trainable_flags_in_a_composite_layer_are_kept():
    model = make()
    block = model.get_layer("block")
    block.gate.trainable = block.rest[1].trainable = False
    small = sec.delete_channels(model, {"hidden": [2]}).get_layer("block")
    assert [small.value.trainable, small.gate.trainable] == [True, False]
    assert [layer.trainable for layer in small.rest] == [True, False]


def test_names_in_a_bidirectional_layer_are_the_same_when_it_is_rebuilt(tmp_path):
    def both_ways():
        i = keras.Input((5, 3))
        x = L.Bidirectional(L.LSTM(4), name="b")(i)
        return keras.Model(i, L.Dense(2, name="head")(x))

    model, later = both_ways(), both_ways()
    small = sec.delete_channels(model, {"b": [1]})
    sec.save(small, tmp_path / "small.safetensors")
    again = sec.load(later, tmp_path / "small.safetensors")
    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype("float32")
    np.testing.assert_array_equal(again.predict(x, verbose=0), small.predict(x, verbose=0))
