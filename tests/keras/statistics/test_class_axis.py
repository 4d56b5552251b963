"""The class axis of a model's outputs, against PyTorch's cross-entropy."""

import keras
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from secateurs.keras.statistics.class_axis import ClassAxis, tally_of
from secateurs.training.task import LearningTask

RANDOM = np.random.default_rng(0)
MAPS = RANDOM.normal(size=(3, 4, 5, 6)).astype("float32")
MASKS = RANDOM.integers(0, 6, (3, 4, 5))
MASKS[1, :2] = 255


@pytest.mark.parametrize("axis", [-1, 1])
def test_cross_entropy_of_pixels_is_pytorchs(axis):
    given = np.moveaxis(MAPS, -1, axis)
    loss = ClassAxis(axis, probabilities=False, two=False).cross_entropy
    mine = keras.ops.convert_to_numpy(loss(keras.ops.convert_to_tensor(given), MASKS))
    by_channel = torch.tensor(np.moveaxis(MAPS, -1, 1))
    theirs = F.cross_entropy(by_channel, torch.tensor(MASKS), reduction="none", ignore_index=255)
    assert mine == pytest.approx(theirs.flatten(1).mean(1).numpy(), rel=1e-5)


def test_probabilities_rows_and_columns():
    scores = RANDOM.normal(size=(4, 3)).astype("float32")
    shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    labels = np.array([0, 2, 1, 1])
    wanted = -np.log(shares[np.arange(4), labels])
    for probabilities, given in ((True, shares), (False, scores)):
        loss = ClassAxis(-1, probabilities=probabilities, two=False).cross_entropy
        for targets in (labels, np.eye(3)[labels], labels[:, None]):
            found = keras.ops.convert_to_numpy(loss(keras.ops.convert_to_tensor(given), targets))
            assert found == pytest.approx(wanted, rel=1e-4)


def test_a_single_output_that_scores_the_second_of_two_classes():
    scores, labels = np.array([[2.0], [-1.0], [0.3]], "float32"), np.array([1, 0, 0])
    axis = ClassAxis(-1, probabilities=False, two=True)
    found = keras.ops.convert_to_numpy(axis.cross_entropy(scores, labels))
    wanted = np.log1p(np.exp(-scores[:, 0] * (2 * labels - 1)))
    assert found == pytest.approx(wanted, rel=1e-5)
    both, classes = axis.read(scores, labels[:, None])
    assert (both.argmax(-1) == classes).tolist() == [True, True, False]


def test_a_tally_reads_outputs_as_the_model_gives_them():
    x = keras.Input((4,))
    model = keras.Model(x, keras.layers.Dense(1, "sigmoid")(x))
    tally = tally_of(LearningTask(metric="accuracy"), model)
    tally.add(np.array([[0.9], [0.2], [0.6]]), np.array([1, 0, 0]), None)
    assert tally.value() == pytest.approx(2 / 3)
