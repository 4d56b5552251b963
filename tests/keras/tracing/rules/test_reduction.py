"""A sum over channels ignores removed ones, a mean does not; over other axes both carry them."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import secateurs as sec

X = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")


def over_channels(reduce):
    i = keras.Input((3,))
    made = L.Dense(5, name="a")(i)
    return keras.Model(i, L.Dense(2)(reduce(made)))


@pytest.mark.parametrize(
    "reduce", [pytest.param("sum", marks=pytest.mark.read_without_weights), "mean", "max"]
)
def test_operations_that_mix_channels_are_reported(reduce):
    model = over_channels(lambda x: getattr(ops, reduce)(x, axis=-1, keepdims=True))
    small = sec.delete_channels(model, {"a": [1, 2]})
    inexact = sec.report_of(small).proof.inexact
    assert bool(inexact) == (reduce != "sum")
    made = ops.convert_to_numpy(keras.Model(model.input, model.get_layer("a").output)(X))
    given = getattr(np, reduce)(made[:, [0, 3, 4]], axis=1, keepdims=True)
    head = model.layers[-1]
    kernel, bias = (ops.convert_to_numpy(one) for one in (head.kernel, head.bias))
    assert np.allclose(ops.convert_to_numpy(small(X)), given @ kernel + bias, atol=1e-5)


@pytest.mark.parametrize("keepdims", [False, True])
def test_over_positions_channels_are_carried(keepdims):
    i = keras.Input((4, 4, 3))
    x = ops.mean(L.Conv2D(5, 1, name="a")(i), axis=(1, 2), keepdims=keepdims)
    small = sec.delete_channels(keras.Model(i, L.Dense(2)(x)), {"a": [0]})
    assert small.layers[-1].kernel.shape[0] == 4
    assert sec.report_of(small).proof.inexact == ()


def test_a_running_sum_over_channels_freezes_them():
    network = sec.trace(over_channels(lambda x: ops.cumsum(x, axis=-1)))
    (reasons,) = [one.reasons for one in network.frozen if one.name == "a"]
    assert "accumulated over these channels" in reasons[0]
