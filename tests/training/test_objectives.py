from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.calibration.examples import StepLoss
from secateurs.errors import UnknownNameError
from secateurs.training.objectives import label_batch, label_tokens, loss_of, objective_of
from secateurs.training.task import LearningTask


def network(framework="pytorch"):
    """What of a network is looked at: its framework, and the model."""
    return SimpleNamespace(source=SimpleNamespace(framework=framework, model=torch.nn.Linear(1, 1)))


def mean_distance(outputs, targets):
    return (outputs - targets).abs().sum(1)


def test_the_default_loss_is_cross_entropy():
    assert objective_of(network(), None, None) is None
    assert loss_of(network(), None, None) is None
    assert objective_of(network(), None, mean_distance) is None  # the loss goes its own way


def test_a_tasks_loss_is_used_unless_the_user_gives_one():
    outputs, targets = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [1.0]])
    found = loss_of(network(), "regression", None)
    assert found(outputs, targets).flatten().tolist() == [1.0, 4.0]
    assert loss_of(network(), "regression", mean_distance) is mean_distance
    assert objective_of(network(), None, mean_distance, metric="mae").metric == "mae"


def test_a_users_step_is_a_loss_that_takes_the_model():
    found = loss_of(network(), LearningTask(train_step=len), None)
    assert isinstance(found, StepLoss)


def test_unknown_task_names_are_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'regression'"):
        objective_of(network(), "regresion", None)


def test_a_language_models_tokens_are_its_labels():
    tokens = np.array([[3, 7, 1], [4, 0, 0]])
    mask = np.array([[1, 1, 1], [1, 0, 0]])
    shown = [[3, 7, 1], [4, -100, -100]]
    named = {"input_ids": tokens, "attention_mask": mask}
    assert label_tokens("language-modelling", named)["labels"].tolist() == shown
    batches = label_tokens(sec.LearningTask("language-modelling"), [named, named])
    assert [one["labels"].tolist() for one in batches] == [shown, shown]
    assert len(batches) == 2
    assert label_tokens("language-modelling", tokens)[1] is tokens
    labelled = {"input_ids": tokens, "labels": tokens + 1}
    assert label_tokens("language-modelling", labelled)["labels"] is labelled["labels"]
    assert label_tokens("regression", named) is named
    pair = (tokens, tokens + 1)
    assert label_tokens("language-modelling", pair) is pair
    assert next(iter(label_tokens("language-modelling", [pair]))) is pair
    assert label_batch("language-modelling", [tokens])[1] is tokens


def test_tokens_alone_are_ablated_and_scored_as_with_labels():
    class Speaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.inner = nn.Embedding(9, 4), nn.Linear(4, 6)
            self.out = nn.Linear(6, 9)

        def forward(self, input_ids):
            return self.out(torch.relu(self.inner(self.embed(input_ids))))

    torch.manual_seed(0)
    tokens = np.random.default_rng(0).integers(0, 9, (8, 5))
    traced = sec.trace(Speaks(), {"input_ids": tokens[:1]})
    bare, labelled = {"input_ids": tokens}, (tokens, tokens)
    task = "language-modelling"
    ablations = [sec.ablate(traced, data, task=task) for data in (bare, labelled)]
    scores = [sec.score(traced, "taylor", data=data, task=task) for data in (bare, labelled)]
    for group in traced.groups:
        both = [one.estimate[group.name] for one in ablations]
        np.testing.assert_allclose(*both, rtol=1e-6)
        assert np.abs(both[0]).max() > 1e-4
        np.testing.assert_allclose(scores[0][group.name], scores[1][group.name], rtol=1e-6)
