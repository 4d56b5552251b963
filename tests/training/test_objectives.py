from types import SimpleNamespace

import pytest
import torch

from secateurs.calibration.examples import StepLoss
from secateurs.errors import ModelError, UnknownNameError
from secateurs.training.objectives import loss_of, objective_of
from secateurs.training.task import LearningTask


def network(framework="pytorch"):
    """What of a network is looked at: its framework, and the model."""
    return SimpleNamespace(source=SimpleNamespace(framework=framework, model=torch.nn.Linear(1, 1)))


def own(outputs, targets):
    return (outputs - targets).abs().sum(1)


def test_nothing_asked_for_is_cross_entropy():
    assert objective_of(network(), None, None) is None
    assert loss_of(network(), None, None) is None
    assert objective_of(network(), None, own) is None  # the loss goes its own way


def test_a_tasks_loss_is_taken_and_replaced_by_ones_own():
    outputs, targets = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [1.0]])
    found = loss_of(network(), "regression", None)
    assert found(outputs, targets).flatten().tolist() == [1.0, 4.0]
    assert loss_of(network(), "regression", own) is own
    assert objective_of(network(), None, own, metric="mae").metric == "mae"


def test_a_step_of_ones_own_is_a_loss_that_takes_the_model():
    found = loss_of(network(), LearningTask(train_step=len), None)
    assert isinstance(found, StepLoss)


def test_what_there_is_none_of_is_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'regression'"):
        objective_of(network(), "regresion", None)
    with pytest.raises(ModelError, match="expected no task= or metric= for a Keras model"):
        objective_of(network("keras"), "regression", None)
