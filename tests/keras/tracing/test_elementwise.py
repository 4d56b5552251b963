"""Activation functions are traced or tested on values, never guessed."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import secateurs as sec
from contract import backend
from secateurs.keras.tracing.elementwise import passes_on_values

WORKS = {
    "relu": ops.relu,
    "tanh": ops.tanh,
    "own": lambda x: ops.maximum(x, 0) * ops.sigmoid(1.7 * x),
    "steps": lambda x: ops.where(x > 1, x, 0.1 * x),
}
MIXES = {
    "softmax": ops.softmax,
    "minus the mean": lambda x: x - ops.mean(x, axis=-1, keepdims=True),
    "times the largest": lambda x: x * (1 + 1e-2 * ops.max(x)),
    "by its place": lambda x: x * ops.cast(ops.arange(x.shape[-1]) + 1, x.dtype),
    "over how many": lambda x: x / x.shape[-1],
    "the other way round": lambda x: ops.flip(x, axis=-1),
    "over the batch": lambda x: x - ops.mean(x, axis=0, keepdims=True),
    "at large ones only": lambda x: ops.where(ops.max(ops.abs(x)) > 80, 2 * x, x),
    "of another shape": lambda x: ops.sum(x, axis=-1),
}


@pytest.mark.parametrize("rank", [2, 3, 4])
def test_functions_are_tested_on_values(rank):
    assert [name for name, f in WORKS.items() if not passes_on_values(f, rank)] == []
    assert [name for name, f in MIXES.items() if passes_on_values(f, rank)] == []


def test_a_random_function_is_assumed_to_mix():
    drawn = np.random.default_rng(0)
    assert not passes_on_values(lambda x: x + drawn.standard_normal(), 2)


def hide_code(function):
    """A function that only works on values."""

    def of_values(x):
        if isinstance(x, keras.KerasTensor):
            raise TypeError("tensors with data only")
        return function(x)

    return of_values


def groups(function):
    i = keras.Input((4,))
    x = L.Dense(6, activation=function, name="d")(i)
    network = sec.trace(keras.Model(i, L.Dense(2, name="head")(x)))
    return [group.name for group in network.groups]


@pytest.mark.parametrize("seen", [True, False])
def test_layers_with_such_activations(seen):
    wrapped = (lambda f: f) if seen else hide_code
    for name, function in WORKS.items():
        assert groups(wrapped(function)) == ["d"], name
    for name in ("minus the mean", "times the largest", "by its place"):
        assert groups(wrapped(MIXES[name])) == [], name


def test_a_cut_is_that_of_the_named_activation():
    def build_with(activation):
        keras.utils.set_random_seed(0)
        parts = [keras.Input((5, 4)), L.LSTM(6, activation=activation, name="r"), L.Dense(2)]
        return keras.Sequential(parts)

    x = np.random.default_rng(0).standard_normal((3, 5, 4)).astype("float32")
    expected = sec.delete_channels(build_with("relu"), {"r": [1, 4]}, x)
    received = sec.delete_channels(build_with(hide_code(ops.relu)), {"r": [1, 4]}, x)
    np.testing.assert_allclose(
        received.predict(x, verbose=0), expected.predict(x, verbose=0), atol=1e-6
    )


def test_a_backends_own_function_is_recognised():
    kind = backend.load_backend()
    if kind == "torch":
        from torch.nn.functional import gelu
    elif kind == "jax":
        from jax.nn import gelu
    else:
        from tensorflow.nn import gelu
    assert groups(gelu) == ["d"]
