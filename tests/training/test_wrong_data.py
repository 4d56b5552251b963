"""Unusable data and evaluation functions raise a one-line error before training starts."""

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from support.regression import ONE_ROUND

X = torch.randn(48, 8, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(48) % 3


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(zip(X, CLASSES, strict=True))


WRONG = {
    "fewer targets": ((X, torch.zeros(40, 3)), "regression", "as many targets as inputs"),
    "one-hot": ((X, nn.functional.one_hot(CLASSES).float()), "classification", "labels.argmax"),
    "a class too many": ((X, CLASSES + 1), "classification", "labels of 0 to 2.*received 3"),
}


@pytest.mark.parametrize("case", WRONG)
def test_targets_that_do_not_fit(case):
    data, task, message = WRONG[case]
    with pytest.raises(sec.DataError, match=message) as caught:
        sec.iterate(net(), data, data, task=task, **ONE_ROUND)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("task", [None, "classification"])
def test_a_loader_that_does_not_know_its_length(task):
    loader = torch.utils.data.DataLoader(Stream(), 16)
    found = sec.iterate(net(), loader, loader, task=task, **ONE_ROUND)
    scores = found.model(X).argmax(1)
    accuracy = found.history.last("stop")["accuracy"]
    assert accuracy == pytest.approx(float((scores == CLASSES).float().mean()))


@pytest.mark.parametrize("name", ["metric", "evaluate"])
def test_an_evaluation_without_a_number_for_the_dense_model_is_refused(name):
    judge = {"metric": lambda outputs, targets: np.nan, "evaluate": lambda model: np.nan}[name]
    data = (X, CLASSES)
    with pytest.raises(sec.DataError, match="of the dense model that is a finite number"):
        sec.iterate(net(), data, data, task="classification", **{name: judge}, **ONE_ROUND)


@pytest.mark.parametrize("value", ["x", None, float("nan")])
def test_a_drop_is_told_by_finite_numbers(value):
    with pytest.raises(sec.DataError, match=r"expected validation\(model\) to return a finite"):
        sec.prune(net(), X[:1], "drop=0.1", validation=lambda model: value)


@pytest.mark.parametrize("given", ["0.5", None, {"accuracy": 0.5}])
@pytest.mark.parametrize("name", ["metric", "evaluate"])
def test_an_evaluation_that_returns_no_number_is_refused(name, given):
    judge = {"metric": lambda outputs, targets: given, "evaluate": lambda model: given}[name]
    data = (X, CLASSES)
    with pytest.raises(sec.DataError, match=f"{name}: expected a number") as raised:
        sec.iterate(net(), data, data, task="classification", **{name: judge}, **ONE_ROUND)
    assert str(raised.value).endswith(f"received {type(given).__name__}")


def test_a_boolean_evaluation_is_refused():
    data = (X, CLASSES)
    with pytest.raises(sec.DataError, match=r"evaluate: expected a number .* received bool"):
        sec.iterate(net(), data, data, evaluate=lambda model: True, **ONE_ROUND)


def test_a_metric_may_give_one_value_for_each_example():
    data = (X, CLASSES)
    found = sec.iterate(
        net(),
        data,
        data,
        task="classification",
        metric=lambda outputs, targets: outputs.argmax(1) == targets,
        **ONE_ROUND,
    )
    right = (found.model(X).argmax(1) == CLASSES).float().mean()
    assert found.history.last("stop")["value"] == pytest.approx(float(right))
