"""What one round of a study removes, worked out by hand."""

import itertools

import numpy as np
import torch
from torch import nn

import secateurs as sec
from secateurs.study.goals import Goals
from secateurs.study.rounds import plan_round


def network_of(*widths):
    """Linear layers in a row: widths[0] is the input, the last the output."""
    layers = [nn.Linear(i, o) for i, o in itertools.pairwise(widths)]
    return sec.trace(nn.Sequential(*layers), torch.randn(1, widths[0]))


def round_of(network, scores, budget=None, **pruning):
    goals = Goals.of(network, budget)
    cut = plan_round(network, scores, sec.Pruning(**pruning), sec.Cut(), goals)
    return {name: channels.removed for name, channels in cut.channels.items()}


def test_down_to_a_floor_the_best_stay():
    network = network_of(2, 6, 6, 2)
    scores = {"0": np.array([3.0, 1, 2, 5, 0, 4]), "1": np.arange(10.0, 16)}
    # Five of twelve, all of the first layer; with four of it to stay, its two lowest go.
    assert round_of(network, scores, step=0.42, scope="network", floor=1) == {"0": (0, 1, 2, 4, 5)}
    assert round_of(network, scores, step=0.42, scope="network", floor=4) == {"0": (1, 4)}


def test_floors_are_whole_multiples():
    network = network_of(2, 12, 12, 2)
    scores = {"0": np.arange(12.0), "1": np.arange(12.0)}
    found = round_of(network, scores, step=0.7, floor=5, multiple=4)
    assert found == {"0": tuple(range(4)), "1": tuple(range(4))}  # 8 stay, not 5


def test_where_floors_keep_it_from_stopping_at_the_budget_it_goes_past_it():
    """The four lowest are of one group, which may lose two; a whole step takes of the other too."""
    network = network_of(2, 10, 10, 2)
    scores = {"0": np.arange(10.0), "1": np.arange(4.5, 14)}
    scores["0"][5:] += 100
    found = round_of(network, scores, sec.Budget(channels=16), step=0.4, scope="network", floor=8)
    assert found == {"0": (0, 1), "1": (0, 1)}
