import keras
import numpy as np
from keras import layers as L

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.keras.reconstruction.trials import judge_trials
from secateurs.planning.error_curves import GroupTrial

X = np.random.default_rng(0).normal(size=(16, 5)).astype("float32")


def test_a_trial_gives_the_outputs_of_the_cut_and_changed_model():
    layers = [keras.Input((5,)), L.Dense(6, "relu", name="a"), L.Dense(3, name="head")]
    model = keras.Sequential(layers)
    network = sec.trace(model)
    (group,) = network.groups
    (w, b), (v, c) = (layer.get_weights() for layer in model.layers)
    changed = 2 * v
    removed = np.asarray(group.channels)[[0, 4]]
    trials = [
        GroupTrial("a", 6, removed[:0], (), dict),
        GroupTrial("a", 4, removed, (), dict),
        GroupTrial("a", 4, removed, ("head.kernel",), lambda: {"head.kernel": changed}),
    ]
    found = judge_trials(network, CalibrationBatch(X, None), trials, "relative")
    hidden = np.maximum(X @ w + b, 0)
    dense = hidden @ v + c
    hidden[:, [0, 4]] = 0
    spread = np.square(dense - dense.mean(axis=0)).sum(axis=1).mean()
    for one, answers in zip(found, (dense, hidden @ v + c, hidden @ changed + c), strict=True):
        expected = np.square(answers - dense).sum(axis=1).mean() / spread
        assert np.isclose(one.distance, expected, rtol=1e-3, atol=1e-9)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), (w, b, v, c), strict=True))
