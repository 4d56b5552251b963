import pytest
import torch

from secateurs.errors import DataError, ModelError, UnknownNameError
from secateurs.training.objectives import loss_of, objective_of
from secateurs.training.task import LearningTask


def own(outputs, targets):
    return (outputs - targets).abs().sum(1)


def test_nothing_asked_for_is_cross_entropy():
    assert objective_of("pytorch", None, None) is None
    assert loss_of("pytorch", None, None) is None
    assert objective_of("pytorch", None, own) is None  # the loss goes its own way


def test_a_tasks_loss_is_taken_and_replaced_by_ones_own():
    outputs, targets = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [1.0]])
    found = loss_of("pytorch", "regression", None)
    assert found(outputs, targets).flatten().tolist() == [1.0, 4.0]
    assert loss_of("pytorch", "regression", own) is own
    assert objective_of("pytorch", None, own, metric="mae").metric == "mae"


def test_what_has_no_loss_of_outputs_is_refused():
    with pytest.raises(DataError, match="task 'own': expected one with a loss"):
        objective_of("pytorch", LearningTask(train_step=len), None)
    with pytest.raises(UnknownNameError, match="did you mean 'regression'"):
        objective_of("pytorch", "regresion", None)
    with pytest.raises(ModelError, match="expected no task= or metric= for a Keras model"):
        objective_of("keras", "regression", None)
