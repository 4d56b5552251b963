"""One step of a task: whose loss it is, and what is no loss."""

import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.pytorch.training.steps import TaskStep

BATCH = (torch.ones(2, 3), torch.tensor([[1.0], [3.0]]))


def model():
    made = nn.Linear(3, 1, bias=False)
    nn.init.constant_(made.weight, 0.5)  # gives 1.5 for ones
    return made


def test_the_loss_is_the_tasks_the_steps_or_the_outputs_own():
    def squares(outputs, targets):
        return (outputs - targets).square().flatten(1).mean(1)

    assert TaskStep(sec.LearningTask(loss=squares)).loss(model(), BATCH).item() == 1.25

    def step(net, batch):
        return {"loss": net(batch[0]).sum()}

    assert TaskStep(sec.LearningTask(train_step=step)).loss(model(), BATCH).item() == 3

    class Holds(nn.Linear):
        def forward(self, x, labels=None):
            return {"loss": super().forward(x).sum() * (1 if labels is None else 2)}

    given = {"x": BATCH[0], "labels": BATCH[1]}
    made = Holds(3, 1, bias=False)
    nn.init.constant_(made.weight, 0.5)
    assert TaskStep(sec.LearningTask()).loss(made, given).item() == 6


def test_what_is_no_loss_is_said():
    with pytest.raises(sec.ModelError, match="expected outputs that hold their loss"):
        TaskStep(sec.LearningTask()).loss(model(), BATCH)
    with pytest.raises(sec.SecateursError, match="expected a loss that is a tensor"):
        TaskStep(sec.LearningTask("mine", train_step=lambda *_: 1.0)).loss(model(), BATCH)
