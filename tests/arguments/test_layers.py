import keras
import pytest
from torch import nn

from secateurs.arguments.layers import are_layers, is_layer, layer_names
from secateurs.errors import UnknownNameError


def test_layers_are_told_by_their_names():
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU(), nn.Linear(3, 2)))
    inner = model[1][1]
    assert layer_names(model, inner) == ("1.1",)
    assert layer_names(model, ["a", model[0], inner]) == ("a", "0", "1.1")
    assert layer_names(model, "a") == ("a",)
    with pytest.raises(UnknownNameError, match="a layer of Sequential; received a Linear"):
        layer_names(model, nn.Linear(2, 3))


def test_keras_layers_are_told_by_their_own():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="a")])
    assert layer_names(model, model.layers[0]) == ("a",)


def test_what_a_layer_is():
    assert is_layer(nn.ReLU())
    assert is_layer(keras.layers.ReLU())
    assert not is_layer("a")
    assert are_layers(["a", nn.ReLU()])
    assert not are_layers([""])
    assert not are_layers(b"ab")
