"""The parts of a call, run in sequence, give the output of the call."""

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
def test_parts_in_sequence_give_the_output_of_the_call(name):
    make, shape, names = CALLS[name]
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    layer = make()
    expected = keras.ops.convert_to_numpy(layer(x))
    tensor = keras.ops.convert_to_tensor(x)
    parts = parts_of(layer, [tensor], {}, [keras.KerasTensor(x.shape)], {})
    assert [part.name for part in parts] == names
    assert np.allclose(run(parts), expected, atol=1e-5)


def test_attention_is_split_into_projections_and_attention():
    x = np.random.default_rng(0).normal(size=(2, 5, 6)).astype("float32")
    layer = L.MultiHeadAttention(2, 3)
    expected = keras.ops.convert_to_numpy(layer(x, x))
    tensor, spec = keras.ops.convert_to_tensor(x), keras.KerasTensor(x.shape)
    parts = parts_of(layer, [tensor, tensor], {}, [spec, spec], {})
    assert [part.name for part in parts] == ["projection"] * 3 + ["attention", "output"]
    assert np.allclose(run(parts), expected, atol=1e-5)


def test_replaced_attributes_are_restored_after_an_error():
    layer = L.Dense(2, activation="relu")

    def fail():
        with replace_attributes(layer, activation=None, other=1):
            assert layer.activation is None
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert layer.activation is keras.activations.relu
    assert not hasattr(layer, "other")
