"""Attention that gives the model's output: the layer that makes its query can still be cut."""

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec

X = np.random.default_rng(0).standard_normal((4, 6, 5)).astype("float32")
GONE = [1, 4, 6]


def _model(attention, *, itself=False):
    keras.utils.set_random_seed(0)
    start = keras.Input((6, 5))
    query = L.Dense(8, "relu", name="q")(start)
    given = [query] if itself else [L.Dense(8, name="v")(start)]
    return keras.Model(start, attention(query, *given))


def _predict(model):
    return np.asarray(model.predict(X, verbose=0))


def _silence(model):
    """Zero the channels of ``q``, which gives the outputs that a cut must give."""
    silent = keras.models.clone_model(model)
    silent.set_weights(model.get_weights())
    kernel, bias = silent.get_layer("q").get_weights()
    kernel[:, GONE], bias[GONE] = 0, 0
    silent.get_layer("q").set_weights([kernel, bias])
    return silent


@pytest.mark.parametrize("itself", [False, True])
def test_the_query_can_be_cut_where_attention_gives_the_output(itself):
    model = _model(L.MultiHeadAttention(2, 4), itself=itself)
    small = sec.delete_channels(model, {"q": GONE})
    assert small.get_layer("q").units == 5
    assert small.output_shape == model.output_shape == (None, 6, 8)
    np.testing.assert_allclose(_predict(small), _predict(_silence(model)), atol=1e-5)


def test_a_query_that_must_be_as_wide_as_the_values_is_cut_with_them():
    attention = L.GroupQueryAttention(4, 4, 2)
    network = sec.trace(_model(attention))
    assert not {"q", "v"} & {group.name for group in network.groups}
    start = keras.Input((6, 5))
    query, value = L.Dense(8, "relu", name="q")(start), L.Dense(8, "relu", name="v")(start)
    model = keras.Model(
        start, L.Dense(3)(attention.from_config(attention.get_config())(query, value))
    )
    small = sec.delete_channels(model, {"q": GONE})
    assert small.get_layer("q").units == small.get_layer("v").units == 5
