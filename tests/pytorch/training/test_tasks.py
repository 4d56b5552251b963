"""Predefined tasks and metrics by name."""

import numpy as np
import pytest
import torch

import secateurs as sec
import torchvision_on_cpu  # noqa: F401 - before torchmetrics and transformers
from secateurs.errors import DataError
from secateurs.pytorch.training.tasks import TASKS, MetricTally
from secateurs.training.task import LearningTask
from support.regression import ONE_ROUND, by_hand, network, values, values_of


@pytest.mark.parametrize("metric", ["accuracy", "f1", "top5"])
def test_metrics_by_name_are_torchmetrics(metric):
    x, _ = values()
    y = np.arange(48) % 7
    result = sec.iterate(network(7), (x, y), (x, y), task="classification", metric=metric,
                         **ONE_ROUND)  # fmt: skip
    found = by_hand(result.model, x)
    best = found.argsort(1)[:, ::-1]
    if metric == "f1":
        right = [((best[:, 0] == c) & (y == c)).sum() for c in range(7)]
        all_of = [(best[:, 0] == c).sum() + (y == c).sum() for c in range(7)]
        expected = np.mean([2 * r / max(1, a) for r, a in zip(right, all_of, strict=True)])
    else:
        expected = (best[:, : 5 if metric == "top5" else 1] == y[:, None]).any(1).mean()
    assert max(values_of(result)[1:]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "regresion"}, "did you mean 'regression'"),
        ({"metric": "acuracy"}, "did you mean 'accuracy'"),
        ({"evaluate": lambda model: "good"}, "expected a number"),
        ({"train_step": lambda model, batch: 3}, "loss tensor"),
        ({"metric": "mse"}, "Pass loss="),
    ],
)
def test_errors_of_a_task_are_one_line(options, message):
    x, y = values()
    with pytest.raises(sec.SecateursError, match=message):
        sec.iterate(network(), (x, y), (x, y), **options, **ONE_ROUND)


@pytest.mark.parametrize("metric", ["mse", "mae"])
def test_classes_are_refused_as_regression_targets(metric):
    scores, classes = torch.zeros(6, 3), torch.arange(6) % 3
    with pytest.raises(DataError, match=r"shape \(6, 3\); received targets of shape \(6,\)"):
        TASKS["regression"].loss(scores, classes)
    with pytest.raises(DataError, match="Classes are for task='classification'"):
        MetricTally(LearningTask(metric=metric)).add(scores, classes, None, 6)
