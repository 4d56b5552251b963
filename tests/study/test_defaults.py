"""Default settings of rounds."""

import numpy as np
import torch
from torch import nn

import secateurs as sec
from secateurs import pytorch
from secateurs.study.defaults import complete_pruning, complete_training
from secateurs.study.learning import learning_of

IMAGES = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
DATA = IMAGES, (IMAGES[:, 0] > 0).astype(np.int64)


def net():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))


def settle(**asked):
    """What is made of what was left open."""
    training = sec.Training(batches=0, batch_size=asked.pop("batch_size", 64), fine_tune_batches=1)
    learner = pytorch.Learner(net(), DATA, DATA, None, training)
    pruning = complete_pruning(sec.Pruning(**asked), learner, learner.trace())
    return pruning.repair, pruning.allocation, pruning.ranked_by, pruning.scope


def test_cuts_are_repaired_wherever_there_are_images_for_it():
    assert settle() == (True, "curves", "obs", "group")
    # Four batches of fifteen are too few to fit a network to.
    assert settle(batch_size=15) == (False, "scope", "l1", "group")
    assert settle(batch_size=16) == (True, "curves", "obs", "group")
    assert settle(repair=False) == (False, "scope", "l1", "group")
    assert settle(scope="network") == (True, "scope", "l1", "network")
    assert settle(criterion="auto") == (True, "scope", "auto", "group")
    assert settle(criterion="taylor") == (True, "curves", "taylor", "group")
    assert settle(rewind="weights") == (False, "scope", "l1", "group")
    assert settle(rewind="learning-rate") == (True, "curves", "obs", "group")
    assert settle(repair=False, allocation="curves") == (False, "curves", "obs", "group")


def test_rounds_follow_the_dense_model_where_images_are_classified():
    def share(training=(), pruning=(), learning=None):
        asked = sec.Training(**dict(training)), sec.Pruning(**dict(pruning))
        return complete_training(*asked, learning).distillation

    assert share() == 0.5
    assert share({"distillation": 0.0}) == 0.0
    assert share({"distillation": 0.9}, {"rewind": "weights"}) == 0.9
    assert share(pruning={"rewind": "learning-rate"}) == 0.0
    assert share({"optimizer": "compiled"}) == 0.0
    regression = learning_of(net(), "regression")
    assert share(learning=regression) == 0.0


class NeedsTargets(nn.Module):
    """Gives its loss, and nothing without what it is to be held against."""

    def __init__(self):
        super().__init__()
        self.inner = net()

    def forward(self, inputs, labels=None):
        if self.training and labels is None:
            raise KeyError("labels")
        return self.inner(inputs)


class Counts(NeedsTargets):
    """A model that cannot be fitted to what it gives."""

    def forward(self, inputs):
        return super().forward(inputs).argmax(1)


def test_what_a_model_cannot_be_fitted_to_it_is_not():
    def kind_of_task(model):
        task = learning_of(
            model,
            None,
            train_step=lambda model, batch: model.inner(batch[0]).square().mean(),
            metric=lambda outputs, targets: 0.0,
        )
        training = sec.Training(fine_tune_batches=1)
        learner = pytorch.TaskLearner(model, DATA, DATA, None, training, task)
        return complete_pruning(sec.Pruning(), learner, learner.trace()).repair

    assert kind_of_task(NeedsTargets()) is True
    assert kind_of_task(Counts()) is False


def test_few_batches_are_few_images():
    torch.manual_seed(0)
    assert settle(calibration_batches=1, batch_size=64)[0]
    assert not settle(calibration_batches=1, batch_size=63)[0]
