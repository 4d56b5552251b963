"""Metrics of NumPy arrays, against torchmetrics and by hand."""

import math

import numpy as np
import pytest
import torch

import torchvision_on_cpu  # noqa: F401 - before torchmetrics, which looks for torchvision

import torchmetrics  # isort: skip

from secateurs.errors import DataError, UnknownNameError
from secateurs.training.tally import Tally
from secateurs.training.task import LearningTask

RANDOM = np.random.default_rng(0)
SCORES = RANDOM.normal(size=(40, 7))
CLASSES = RANDOM.integers(0, 6, 40)  # the last one never occurs, and is found at times


def in_two_batches(metric, outputs, targets, losses=None):
    tally = Tally(LearningTask(metric=metric))
    half = len(outputs) // 3
    for rows in (slice(0, half), slice(half, None)):
        tally.add(outputs[rows], targets[rows], None if losses is None else losses[rows])
    return tally.value()


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("accuracy", torchmetrics.Accuracy("multiclass", num_classes=7, average="micro")),
        ("top5", torchmetrics.Accuracy("multiclass", num_classes=7, average="micro", top_k=5)),
        ("f1", torchmetrics.F1Score("multiclass", num_classes=7, average="macro")),
        ("iou", torchmetrics.classification.MulticlassJaccardIndex(num_classes=7)),
    ],
)
def test_of_classes_as_torchmetrics(name, theirs):
    expected = theirs(torch.tensor(SCORES), torch.tensor(CLASSES))
    assert in_two_batches(name, SCORES, CLASSES) == pytest.approx(float(expected), abs=1e-6)


def test_pixels_and_tokens_that_are_ignored_are_left_out():
    scores = RANDOM.normal(size=(4, 3, 3, 5))
    classes = RANDOM.integers(0, 5, (4, 3, 3))
    classes[:, 0] = 255
    counted = classes != 255
    right = (scores.argmax(-1) == classes)[counted].mean()
    assert in_two_batches("accuracy", scores, classes) == pytest.approx(right)
    tokens, words = RANDOM.normal(size=(4, 6, 300)), RANDOM.integers(0, 300, (4, 6))
    words[0, 0], words[1, :3] = 255, -100  # a token's number may be 255
    counted = words != -100
    right = (tokens.argmax(-1) == words)[counted].mean()
    assert in_two_batches("accuracy", tokens, words) == pytest.approx(right)


def test_of_values_whatever_their_shape():
    outputs, targets = RANDOM.normal(size=(9, 1)), RANDOM.normal(size=9)
    apart = outputs[:, 0] - targets
    assert in_two_batches("mae", outputs, targets) == pytest.approx(np.abs(apart).mean())
    assert in_two_batches("mse", outputs, targets) == pytest.approx((apart**2).mean())


def test_perplexity_and_the_loss_itself():
    losses = RANDOM.random(9)
    none = np.zeros((9, 1))
    assert in_two_batches("perplexity", none, none, losses) == pytest.approx(
        math.exp(losses.mean())
    )
    assert in_two_batches(None, none, none, losses) == pytest.approx(losses.mean())


def test_recall_looks_at_the_nearest_of_the_whole_split():
    vectors, like = RANDOM.normal(size=(20, 4)), RANDOM.integers(0, 3, 20)
    near = torch.nn.functional.normalize(torch.tensor(vectors), dim=1)
    near = near @ near.T - 9 * torch.eye(20)
    expected = (like[near.argmax(1).numpy()] == like).mean()
    assert in_two_batches("recall1", vectors, like) == pytest.approx(expected)


def test_a_function_of_ones_own_and_something_of_keras():
    def apart(outputs, targets):
        return np.abs(outputs[:, 0] - targets)

    outputs, targets = RANDOM.normal(size=(9, 1)), RANDOM.normal(size=9)
    expected = np.abs(outputs[:, 0] - targets).mean()
    assert in_two_batches(apart, outputs, targets) == pytest.approx(expected)
    mean = lambda o, t: np.abs(o[:, 0] - t).mean()  # noqa: E731 - of a batch, by its length
    assert in_two_batches(mean, outputs, targets) == pytest.approx(expected)

    class Sum:
        def reset_state(self):
            self.total = 0.0

        def update_state(self, targets, outputs):
            self.total += float(np.abs(outputs[:, 0] - targets).sum())

        def result(self):
            return self.total

    assert in_two_batches(Sum(), outputs, targets) == pytest.approx(9 * expected)


@pytest.mark.parametrize(("metric", "failure"), [("map", DataError), ("mao", UnknownNameError)])
def test_metrics_that_cannot_be_computed_are_refused_at_once(metric, failure):
    with pytest.raises(failure):
        Tally(LearningTask(metric=metric))


def test_unfitting_or_missing_targets_are_refused():
    with pytest.raises(DataError, match=r"expected classes of shape \(40,\).*\(40, 2\)"):
        Tally(LearningTask(metric="accuracy")).add(SCORES, np.zeros((40, 2), int), None)
    with pytest.raises(DataError, match="batches without targets"):
        Tally(LearningTask(metric="accuracy")).add(SCORES, None, None)
    with pytest.raises(DataError, match="a target for each value that the model gives"):
        Tally(LearningTask(metric="mse")).add(SCORES, CLASSES, None)
