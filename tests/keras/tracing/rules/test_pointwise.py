import keras
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
