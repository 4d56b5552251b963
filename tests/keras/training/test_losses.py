import keras
import numpy as np
import pytest

import secateurs as sec
from secateurs.keras.training.losses import ClassScores, cross_entropy


@pytest.mark.parametrize("probabilities", [False, True])
def test_its_loss_is_smoothed_cross_entropy(probabilities):
    scores, labels = np.random.default_rng(1).normal(size=(5, 3)), np.array([0, 2, 1, 1, 0])
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    wanted = 0.8 * np.eye(3)[labels] + 0.2 / 3
    loss = cross_entropy(
        sec.Training(label_smoothing=0.2), ClassScores(3, two=False, probabilities=probabilities)
    )
    found = loss(labels, keras.ops.convert_to_tensor(shares if probabilities else scores))
    expected = -(wanted * np.log(shares)).sum(axis=1)
    assert np.allclose(keras.ops.convert_to_numpy(found), expected, rtol=1e-5)
