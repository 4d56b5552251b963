"""Removing one channel changes the loss as a real cut does."""

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.needs import Need
from secateurs.keras.ablation.removal import Removals
from secateurs.keras.statistics.collector import start_pass

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(8, 5)).astype("float32")
Y = RANDOM.integers(0, 3, 8)


def removals(*between):
    model = keras.Sequential(
        [keras.Input((5,)), L.Dense(4, "relu", name="a"), *between, L.Dense(3)]
    )
    network = sec.trace(model)
    work, _ = start_pass(network, Need.ABLATION, (X, Y), None, "test")
    return model, network, Removals(work)


def losses(model):
    scores = keras.ops.convert_to_numpy(model(X)).astype(np.float64)
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return -logs[np.arange(8), Y], scores.argmax(axis=1) == Y


@pytest.mark.parametrize("mixes", [False, True])
def test_each_images_loss_changes_as_by_a_real_cut(mixes):
    model, network, removal = removals(*([L.LayerNormalization()] if mixes else []))
    dense = removal.dense(CalibrationBatch(X, Y))
    before, right = losses(model)
    assert np.allclose(dense.losses, before, atol=1e-5)
    assert np.array_equal(dense.right, right)
    (group,) = network.groups
    changes = removal.ablate(dense, group, np.array([1, 3]))
    for place, channel in enumerate((1, 3)):
        small = sec.apply(model, network.cut({group.name: [channel]}), network=network)
        after, now = losses(small)
        assert np.allclose(changes.loss[place], after - before, atol=1e-4)
        assert np.array_equal(changes.right[place], now.astype(int) - right)


def test_calls_before_the_channel_are_not_run_again():
    _, network, removal = removals()
    (group,) = network.groups
    assert not removal.supports_subsets(group)
    whole = keras.backend.backend() == "jax"
    assert removal.cost_per_image(group) == (3.0 if whole else 2.0)  # the second of two calls
