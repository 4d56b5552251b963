"""One step of a task: which loss it uses, and invalid losses."""

import math

import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.pytorch.training.steps import TaskStep
from secateurs.pytorch.training.tasks import TASKS

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


def test_an_invalid_loss_is_refused():
    with pytest.raises(sec.ModelError, match="expected outputs that hold their loss"):
        TaskStep(sec.LearningTask()).loss(model(), BATCH)
    with pytest.raises(sec.SecateursError, match="expected a loss tensor"):
        TaskStep(sec.LearningTask("mine", train_step=lambda *_: 1.0)).loss(model(), BATCH)


TOKENS = torch.tensor([[1, 2, 0, 1], [2, 2, 1, 0]])


def test_a_language_models_targets_are_its_tokens_without_padding():
    class Speaks(nn.Module):
        def forward(self, input_ids, attention_mask=None):
            return torch.nn.functional.one_hot(input_ids, 3).float()

    task = TASKS["language-modelling"]
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    found = TaskStep(task).loss(Speaks(), {"input_ids": TOKENS, "attention_mask": mask})
    # 1 2 0: the next is another twice. 2 2 1 0: once the same, then another twice.
    total = math.e + 2
    same, other = -math.log(math.e / total), -math.log(1 / total)
    expected = ((0 * same + 2 * other) / 2 + (1 * same + 2 * other) / 3) / 2
    assert found.item() == pytest.approx(expected, rel=1e-6)
    assert TaskStep(task).loss(Speaks(), TOKENS).item() > 0


def test_a_ready_task_that_learns_from_targets_asks_for_them():
    with pytest.raises(sec.DataError, match=r"regression: .* without targets \(x\)"):
        TaskStep(TASKS["regression"]).loss(model(), {"x": BATCH[0]})
