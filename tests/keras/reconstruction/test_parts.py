"""A call's parts, run one after the other, give what the call gives."""

import keras
import numpy as np
import pytest
from keras import layers as L

from secateurs.keras.reconstruction.parts import parts_of, replace_attributes

CALLS = {
    "activated": (lambda: L.Conv2D(4, 3, activation="relu"), (5, 5, 3), ["Conv2D", "relu"]),
    "plain": (lambda: L.Dense(4), (3,), ["Dense"]),
    "separable": (
        lambda: L.SeparableConv2D(4, 3, depth_multiplier=2, activation="tanh"),
        (5, 5, 3),
        ["depthwise", "pointwise", "tanh"],
    ),
}


def run(parts):
    made = []
    for part in parts:
        made.append(part.run(*part.arguments(made)))
    return keras.ops.convert_to_numpy(made[-1])


@pytest.mark.parametrize("name", CALLS)
def test_in_turn_they_do_what_the_call_does(name):
    make, shape, names = CALLS[name]
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    layer = make()
    expected = keras.ops.convert_to_numpy(layer(x))
    tensor = keras.ops.convert_to_tensor(x)
    parts = parts_of(layer, [tensor], {}, [keras.KerasTensor(x.shape)], {})
    assert [part.name for part in parts] == names
    assert np.allclose(run(parts), expected, atol=1e-5)


def test_attention_is_its_projections_and_what_is_between():
    x = np.random.default_rng(0).normal(size=(2, 5, 6)).astype("float32")
    layer = L.MultiHeadAttention(2, 3)
    expected = keras.ops.convert_to_numpy(layer(x, x))
    tensor, spec = keras.ops.convert_to_tensor(x), keras.KerasTensor(x.shape)
    parts = parts_of(layer, [tensor, tensor], {}, [spec, spec], {})
    assert [part.name for part in parts] == ["projection"] * 3 + ["attention", "output"]
    assert np.allclose(run(parts), expected, atol=1e-5)


def test_attributes_come_back_after_an_error():
    layer = L.Dense(2, activation="relu")

    def fail():
        with replace_attributes(layer, activation=None, other=1):
            assert layer.activation is None
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert layer.activation is keras.activations.relu
    assert not hasattr(layer, "other")
