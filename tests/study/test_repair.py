"""A loop that repairs each cut before it fine-tunes."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import secateurs as sec
from secateurs.channels.cut import Cut
from secateurs.study.goals import Goals
from secateurs.study.round_cutter import repairs
from secateurs.study.rounds import plan_round_by_curves
from secateurs.training.metric import Metric

X, Y = load_digits(return_X_y=True)
X, Y = (X.reshape(-1, 1, 8, 8) / 8 - 0.6).astype(np.float32), Y.astype(np.int64)
TRAIN, VALIDATION = (X[:1200], Y[:1200]), (X[1200:], Y[1200:])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 24, 3, stride=2, padding=1)
        self.head = nn.Linear(24, 10)

    def forward(self, x):
        x = self.second(self.first(x).relu()).relu()
        return self.head(x.mean((2, 3)))


def after_cuts(**pruning):
    """Validation accuracy just after each cut of a study without fine-tuning to speak of."""
    return [record["accuracy"] for record in study(**pruning).history.of("prune")]


def study(stop=None, **pruning):
    torch.manual_seed(0)
    return sec.iterate(
        Net(),
        TRAIN,
        VALIDATION,
        training=sec.Training(
            batches=200, batch_size=64, optimizer="adamw", learning_rate=5e-3, fine_tune_batches=1
        ),
        stop=stop or sec.Stop(rounds=2, tolerance=None),
        measure_speed=False,
        calibration_batches=6,
        **{"step": 0.3, **pruning},
    )


def test_a_repaired_cut_needs_less_training():
    repaired, dropped = after_cuts(repair=True, scope="group"), after_cuts(repair=False)
    assert repaired[0] > dropped[0] + 0.2


def test_a_round_that_repair_recovers_is_not_trained():
    stop = sec.Stop(rounds=2, tolerance=0.1)
    result = study(stop, repair=True, allocation="curves")
    history = result.history
    recovered = list(history.of("recovered"))
    assert [record["round"] for record in recovered] == [1, 2]
    assert {record["batch"] for record in recovered} == {200}  # those of the dense model
    dense = history.of("stop")[0]["dense_accuracy"]
    assert all(record["accuracy"] >= dense - 0.1 for record in recovered)
    assert history.of("stop")[0]["best_round"] == 2
    # Where repair brings back too little, the round is trained.
    strict = study(sec.Stop(rounds=1, tolerance=0), repair=True, allocation="curves", step=0.8)
    assert not list(strict.history.of("recovered"))
    assert strict.history.of("train")[-1]["batch"] == 201


def test_inside_groups_that_curves_cut_the_criterion_chooses():
    def last_first(facts):
        return -np.arange(len(facts))

    result = study(sec.Stop(rounds=1, tolerance=None), criterion=last_first, allocation="curves")
    for removed in result.cut.channels.values():
        assert removed.removed == tuple(range(removed.of - len(removed.removed), removed.of))


def test_curves_spare_what_is_needed_and_stop_at_the_budget():
    network = sec.trace(Net(), X[:1])
    first, second = (group.name for group in network.groups)
    orders = {first: np.arange(16)[::-1], second: np.arange(24)}
    losses = {first: np.linspace(100, 0, 17), second: np.linspace(0.1, 0, 25)}
    pruning = sec.Pruning(step=0.25, floor=0.25)
    cut = plan_round_by_curves(network, orders, losses, pruning, Cut(), Goals())
    assert network.cost(cut).channels == 30
    assert list(cut.channels) == [second]
    assert list(cut.channels[second].removed) == list(range(10))
    # A floor is of the dense model; then the other group's turn comes, last in its order first.
    deep = sec.Pruning(step=0.6, floor=0.25)
    cut = plan_round_by_curves(network, orders, losses, deep, Cut(), Goals())
    assert len(cut.channels[second].removed) == 18
    assert 15 in cut.channels[first].removed
    # The last round goes no further than the budget.
    macs = network.macs()
    goals = Goals.of(network, sec.Budget(macs=0.9))
    cut = plan_round_by_curves(network, orders, losses, pruning, Cut(), goals)
    assert 0.8 * macs < network.cost(cut).macs <= 0.9 * macs


@pytest.mark.parametrize("criterion", ["l2", "taylor"])
def test_a_users_own_training_step_is_repaired_by_any_criterion(criterion):
    """The loss of a step takes the model: curves compare outputs, as without a criterion."""

    def step(model, batch):
        images, labels = batch
        return nn.functional.cross_entropy(model(images), labels)

    def accuracy(model):
        with torch.no_grad():
            answers = model(torch.from_numpy(VALIDATION[0])).argmax(1).numpy()
        return float((answers == VALIDATION[1]).mean())

    def after_the_cut(**options):
        mine = {"train_step": step, "evaluate": accuracy, "criterion": criterion}
        found = study(sec.Stop(rounds=1, tolerance=None), **mine, **options).history.last("prune")
        return found[Metric.of(found).key]

    assert after_the_cut() > after_the_cut(repair=False) + 0.1


def test_with_rewound_weights_nothing_is_repaired():
    assert not repairs(sec.Pruning())
    assert not repairs(sec.Pruning(repair=True, rewind="weights"))
    assert repairs(sec.Pruning(repair=True))
