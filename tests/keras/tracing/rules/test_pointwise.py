from dataclasses import dataclass

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import secateurs as sec
from contract.zoo import noisy


def model(*layers, shape=(8, 8, 3)):
    return noisy(keras.Sequential([keras.Input(shape), *layers, L.Flatten(), L.Dense(2)]))


def why_frozen(network, layer):
    return [reason for f in network.frozen if layer in f.members for reason in f.reasons]


@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
def test_a_softmax_over_channels_freezes_them(function):
    network = sec.trace(model(L.Dense(4, activation=function, name="d"), shape=(6,)))
    assert "softmax over these channels in d (Dense)" in why_frozen(network, "d")[0]


def test_an_activation_of_the_users_that_mixes_channels_freezes_them():
    def mixing(x):
        return x - ops.mean(x, axis=-1, keepdims=True)

    network = sec.trace(model(L.Dense(4, activation=lambda x: x * x, name="d"), shape=(6,)))
    assert [group.name for group in network.groups] == ["d"]
    network = sec.trace(model(L.Dense(4, activation=mixing, name="d"), shape=(6,)))
    assert not network.groups
    assert "mixes these channels inside another layer" in why_frozen(network, "d")[0]


@dataclass
class Scaled:
    """A callable without a hash, as a dataclass that may change is."""

    by: float
    mixes: bool = False

    def __call__(self, x):
        x = self.by * ops.relu(x)
        return x - ops.mean(x, axis=-1, keepdims=True) if self.mixes else x


def test_an_activation_without_a_hash_is_followed_like_any_other():
    dense = model(L.Dense(6, activation=Scaled(2.0), name="d"), shape=(4,))
    small = sec.delete_channels(dense, {"d": [1, 4]})
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    kernel, bias = dense.get_layer("d").get_weights()
    head, shift = dense.layers[-1].get_weights()
    kept = [0, 2, 3, 5]
    by_hand = 2 * np.maximum(x @ kernel + bias, 0)[:, kept] @ head[kept] + shift
    np.testing.assert_allclose(small.predict(x, verbose=0), by_hand, atol=1e-5)


@pytest.mark.parametrize("layer", [L.Dense, L.SimpleRNN])
@pytest.mark.parametrize("mixes", [False, True])
def test_one_without_a_hash_that_mixes_channels_freezes_them(layer, mixes):
    shape = (4,) if layer is L.Dense else (5, 4)
    activation = Scaled(2.0, mixes)
    network = sec.trace(model(layer(6, activation=activation, name="d"), shape=shape))
    assert [group.name for group in network.groups] == ([] if mixes else ["d"])
