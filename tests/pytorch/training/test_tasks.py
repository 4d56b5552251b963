"""Ready tasks and metrics by name."""

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
import torchvision_on_cpu  # noqa: F401 - before torchmetrics and transformers

TRAINING = sec.Training(fine_tune_batches=6, batch_size=8, learning_rate=0.01)


ONE_ROUND = {"stop": sec.Stop(rounds=1, tolerance=None), "step": 0.25, "training": TRAINING}


def network(outputs=1):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, outputs))


def values(count=48, seed=0):
    x = np.random.default_rng(seed).standard_normal((count, 6)).astype(np.float32)
    return x, (x[:, :1] - 2 * x[:, 1:2]).astype(np.float32)


def values_of(result):
    """The metric at each evaluation, the dense model's first."""
    key = "accuracy" if "metric" not in result.history[0] else "value"
    return [record[key] for record in result.history if record["kind"] == "train"]


def by_hand(model, x):
    state = [tensor.numpy().astype(np.float64) for tensor in model.state_dict().values()]
    return np.maximum(x @ state[0].T + state[1], 0) @ state[2].T + state[3]


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
    ("told", "said"),
    [
        ({"task": "regresion"}, "did you mean 'regression'"),
        ({"metric": "acuracy"}, "did you mean 'accuracy'"),
        ({"evaluate": lambda model: "good"}, "expected a number"),
        ({"train_step": lambda model, batch: 3}, "loss that is a tensor"),
        ({"metric": "mse"}, "Pass loss="),
    ],
)
def test_what_is_wrong_with_a_task_is_one_line(told, said):
    x, y = values()
    with pytest.raises(sec.SecateursError, match=said):
        sec.iterate(network(), (x, y), (x, y), **told, **ONE_ROUND)
