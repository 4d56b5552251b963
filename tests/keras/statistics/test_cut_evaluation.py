import inspect

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.keras.statistics.cut_evaluation import evaluate_cut, recalibrate_

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(12, 4)).astype("float32")
Y = RANDOM.integers(0, 3, 12)


def test_losses_are_those_of_the_small_model():
    model = keras.Sequential([keras.Input((4,)), L.Dense(6, "relu", name="a"), L.Dense(3)])
    network = sec.trace(model)
    cut = network.cut({"a": [0, 5]})
    batches = [CalibrationBatch(X[:8], Y[:8]), CalibrationBatch(X[8:], Y[8:])]
    losses, accuracy = evaluate_cut(network, cut, batches)
    (w, b), (v, c) = (layer.get_weights() for layer in model.layers)
    scores = np.maximum(X @ w + b, 0)[:, 1:5] @ v[1:5] + c
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    assert np.allclose(losses, -logs[np.arange(12), Y], atol=1e-5)
    assert accuracy == (scores.argmax(axis=1) == Y).mean()


def test_moments_are_the_plain_mean_over_batches():
    norm = L.BatchNormalization()
    model = keras.Sequential([keras.Input((4,)), norm, L.Dense(2)])
    recalibrate_(model, [CalibrationBatch(X[:4], None), CalibrationBatch(X[4:], None)])
    means = np.mean([X[:4].mean(0), X[4:].mean(0)], axis=0)
    spreads = np.mean([X[:4].var(0), X[4:].var(0)], axis=0)
    assert np.allclose(keras.ops.convert_to_numpy(norm.moving_mean), means, atol=1e-5)
    assert np.allclose(keras.ops.convert_to_numpy(norm.moving_variance), spreads, atol=1e-5)


@pytest.mark.skipif(
    "renorm" not in inspect.signature(L.BatchNormalization).parameters, reason="a newer Keras"
)
def test_renormalisation_goes_on_from_the_new_moments():
    norm = L.BatchNormalization(renorm=True, momentum=0.75)
    model = keras.Sequential([keras.Input((4,)), norm])
    recalibrate_(model, [CalibrationBatch(X, None)])
    batch = X[:6]
    model(batch, training=True)
    deviation = 0.75 * np.sqrt(X.var(0) + 1e-3) + 0.25 * np.sqrt(batch.var(0) + 1e-3)
    after = keras.ops.convert_to_numpy(norm.moving_variance)
    assert np.allclose(after, deviation**2 - 1e-3, atol=1e-5)
