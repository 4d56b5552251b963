import copy

import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.channels.cut import Cut
from secateurs.errors import ModelError
from secateurs.pytorch.training.optimizers import (
    make_optimizer,
    optimizer_values,
    restore_optimizer_,
)
from secateurs.training.learner import Snapshot


def take_steps(model, optimizer, times=1):
    for number in range(times):
        optimizer.zero_grad()
        (model(torch.full((2, 3), 1.0 + number)) ** 2).sum().backward()
        optimizer.step()


def test_sgd_uses_nesterov_momentum_and_weight_decay():
    training = sec.Training(optimizer="sgd", learning_rate=0.1, momentum=0.9, weight_decay=0.5)
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    optimizer = make_optimizer(model, training)
    model(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    gradient = 1 + 0.5 * 2.0
    assert model.weight.item() == pytest.approx(2.0 - 0.1 * (gradient + 0.9 * gradient))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_state_that_is_brought_back_goes_on_as_if_nothing_had_been(name):
    torch.manual_seed(0)
    training = sec.Training(optimizer=name, learning_rate=0.01)
    model = nn.Linear(3, 2)
    optimizer = make_optimizer(model, training)
    take_steps(model, optimizer, 2)
    kept, values = copy.deepcopy(model), optimizer_values(optimizer)
    take_steps(model, optimizer)
    again = make_optimizer(kept, training)
    restore_optimizer_(again, Snapshot(kept.state_dict(), Cut(), *values))
    take_steps(kept, again)
    assert torch.equal(kept.weight, model.weight)
    assert torch.equal(kept.bias, model.bias)


def test_a_frozen_model_has_nothing_to_train():
    model = nn.Linear(3, 2).requires_grad_(False)
    with pytest.raises(ModelError, match="all of them are frozen"):
        make_optimizer(model, sec.Training())
