"""Costs by widths alone, against the exact costs of cuts with these widths."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import secateurs as sec
from secateurs.planning.timed_units import Predictor
from secateurs.planning.units import Candidate
from secateurs.planning.widths import MILLISECONDS, UNITS, WidthCosts
from support.latency_by_hand import latency_model
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


def test_groups_that_are_left_out_keep_their_width():
    network = grid(2, 3)
    rows = min(network.groups, key=len)
    costs = WidthCosts(network, [rows])
    assert costs.costs(np.array([[2], [1]]), ["params"])["params"].tolist() == [36, 18]


@pytest.mark.parametrize(
    "make",
    [
        two_layers,
        lambda: sec.trace(Residual(), images()[:1]),
        lambda: sec.trace(Grouped(), images()[:1]),
        lambda: sec.trace(Attention(whole_heads=True), torch.from_numpy(images()[:1])),
    ],
    ids=["two layers", "residual", "grouped", "attention"],
)
def test_any_widths_take_as_long_as_a_cut_of_them_is_said_to(make):
    network = make()
    model = latency_model(network)
    costs = WidthCosts(network, network.groups, latency_model=model)
    random = np.random.default_rng(1)
    choices = np.array([[random.integers(1, len(g) + 1) for g in network.groups] for _ in range(6)])
    found = costs.costs(choices, [MILLISECONDS])[MILLISECONDS]
    for row, widths in enumerate(choices):
        cut = network.cut(
            {
                g.name: np.arange(len(g) - width)
                for g, width in zip(network.groups, widths, strict=True)
                if width < len(g)
            }
        )
        predictor = Predictor(network, model)
        assert found[row] == pytest.approx(predictor.milliseconds(Candidate.after(network, cut)))


def test_the_dense_network_takes_what_was_measured_whatever_the_fit_says():
    network = two_layers()
    twice = latency_model(network)
    twice = replace(twice, dense_ms=2 * twice.dense_ms)
    costs = WidthCosts(network, network.groups, latency_model=twice)
    full = np.array([[len(group) for group in network.groups]])
    assert costs.costs(full, [MILLISECONDS])[MILLISECONDS] == pytest.approx(twice.dense_ms)
