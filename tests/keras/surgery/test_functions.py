"""Functions held by layers are kept as they are, though no configuration can express them."""

import functools

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import secateurs as sec
import secateurs.keras
from secateurs.errors import CheckpointError

X = np.random.default_rng(0).standard_normal((4, 5)).astype("float32")
FRAMES = np.random.default_rng(1).standard_normal((3, 6, 5)).astype("float32")


class Leaky:
    """A callable that cannot be serialised."""

    def __init__(self, slope):
        self.slope = slope

    def __call__(self, x):
        return ops.leaky_relu(x, self.slope)


def of_two_names(kind):
    """Two functions with the same name."""

    def f(x):
        return ops.sigmoid(x) if kind else ops.relu(x)

    return f


FUNCTIONS = {
    "partial": functools.partial(ops.leaky_relu, negative_slope=0.3),
    "object": Leaky(0.3),
    "lambda": lambda x: ops.leaky_relu(x, 0.3),
}


def leaky(x, slope=0.3):
    return np.where(x > 0, x, slope * x)


@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_function_that_no_configuration_holds_is_kept(kind, wrapped):
    dense = L.Dense(7, activation=FUNCTIONS[kind], name="a")
    i = keras.Input((6, 5))
    x = (L.TimeDistributed(dense, name="outer") if wrapped else dense)(i)
    model = keras.Model(i, L.Dense(2, name="out")(L.GlobalAveragePooling1D()(x)))
    gone = [1, 4]
    small = sec.delete_channels(model, {"outer.a" if wrapped else "a": gone}, FRAMES)
    (kernel, bias), (head, last) = dense.get_weights(), model.get_layer("out").get_weights()
    hidden = leaky(np.delete(FRAMES @ kernel + bias, gone, -1)).mean(1)
    expected = hidden @ np.delete(head, gone, 0) + last
    np.testing.assert_allclose(small.predict(FRAMES, verbose=0), expected, atol=1e-5)
    assert dense.activation is FUNCTIONS[kind]


@pytest.mark.parametrize("stacked", [False, True])
def test_two_functions_with_one_name_in_a_cell_stay_distinct(stacked):
    cell = L.GRUCell(
        4, activation=of_two_names(0), recurrent_activation=of_two_names(1), name="cell"
    )
    cells = [cell, L.SimpleRNNCell(3, activation=FUNCTIONS["partial"])] if stacked else cell
    i = keras.Input((6, 5))
    x = L.Dropout(0.5, name="drop")(L.RNN(cells, name="r")(i))
    model = keras.Model(i, L.Dense(2, name="out")(x))
    made = secateurs.keras.delete_layer(model, "drop")
    expected = model.predict(FRAMES, verbose=0)
    np.testing.assert_allclose(made.predict(FRAMES, verbose=0), expected, atol=1e-6)


def test_a_layer_with_weights_as_the_activation_of_two():
    slope = L.PReLU(alpha_initializer="uniform", name="slope")
    i = keras.Input((5,))
    x = L.Dense(6, activation=slope, name="b")(L.Dense(6, activation=slope, name="a")(i))
    model = keras.Model(i, L.Dense(2, name="out")(x))
    model(X)
    gone = [2, 5]
    small = sec.delete_channels(model, {"a": gone}, X)
    alpha = slope.get_weights()[0]
    hidden = X
    for name in "ab":
        kernel, bias = model.get_layer(name).get_weights()[:2]
        rows = np.arange(len(kernel)) if name == "a" else np.delete(np.arange(6), gone)
        hidden = hidden @ np.delete(kernel[rows], gone, 1) + np.delete(bias, gone)
        hidden = np.where(hidden > 0, hidden, np.delete(alpha, gone) * hidden)
    head, last = model.get_layer("out").get_weights()
    expected = hidden @ np.delete(head, gone, 0) + last
    np.testing.assert_allclose(small.predict(X, verbose=0), expected, atol=1e-5)
    assert small.get_layer("a").activation is small.get_layer("b").activation  # still shared
    assert small.get_layer("a").activation is not slope


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_a_keras_file_without_the_function_is_refused(tmp_path, kind):
    cell = L.SimpleRNNCell(4, activation=FUNCTIONS[kind])
    i = keras.Input((6, 5))
    model = keras.Model(i, L.Dense(2)(L.RNN(cell)(i)))
    with pytest.raises(CheckpointError, match=r"a\.keras: expected .*a\.safetensors"):
        sec.save(model, tmp_path / "a.keras")
    assert not list(tmp_path.iterdir())
    sec.save(model, tmp_path / "a.safetensors")
    again = sec.load(model, tmp_path / "a.safetensors")
    expected = model.predict(FRAMES, verbose=0)
    np.testing.assert_allclose(again.predict(FRAMES, verbose=0), expected, atol=1e-6)
