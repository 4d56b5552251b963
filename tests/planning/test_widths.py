"""Costs by widths alone, beside the exact costs of cuts of such widths."""

import numpy as np
import pytest
import torch

import secateurs as sec
from secateurs.planning.widths import UNITS, WidthCosts
from support.networks_by_hand import grid, two_layers
from support.small_networks import Attention, Grouped, Residual, images


@pytest.mark.parametrize(
    "make",
    [
        two_layers,
        grid,
        lambda: sec.trace(Residual(), images()[:1]),
        lambda: sec.trace(Grouped(), images()[:1]),
        lambda: sec.trace(Attention(whole_heads=True), torch.from_numpy(images()[:1])),
    ],
    ids=["two layers", "grid", "residual", "grouped", "attention"],
)
def test_any_widths_cost_what_a_cut_of_them_costs(make):
    network = make()
    groups = network.groups
    costs = WidthCosts(network, groups)
    random = np.random.default_rng(0)
    choices = np.array([[random.integers(1, len(g) + 1) for g in groups] for _ in range(6)])
    found = costs.costs(choices, UNITS)
    for row, widths in enumerate(choices):
        gone = [g.channels[: len(g) - width] for g, width in zip(groups, widths, strict=True)]
        exact = network.cost_of(network.alive(np.concatenate(gone)))
        for unit in UNITS:
            assert found[unit][row] == pytest.approx(getattr(exact, unit)), unit


def test_groups_that_are_left_out_stay_whole():
    network = grid(2, 3)
    rows = min(network.groups, key=len)
    costs = WidthCosts(network, [rows])
    assert costs.costs(np.array([[2], [1]]), ["params"])["params"].tolist() == [36, 18]
