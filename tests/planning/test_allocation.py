"""Allocation against brute force on small networks; widths' costs against the network's own."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.planning import allocation
from secateurs.planning.allocation import Problem, allocate, choices_of
from secateurs.planning.error_curves import FEWEST_SHARES, curves_from, widths_of
from secateurs.planning.measured import plan_measured
from secateurs.planning.widths import MILLISECONDS, UNITS, WidthCosts
from support.latency_by_hand import latency_model
from support.transformer_layers import HeadsAndUnits


class Chain(nn.Module):
    def __init__(self, widths=(6, 8, 5)):
        super().__init__()
        sizes = (3, *widths, 4)
        self.layers = nn.ModuleList(
            nn.Linear(one, other) for one, other in itertools.pairwise(sizes)
        )

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return x


def falling(rng, width):
    """A curve that never rises: steep for some, nearly flat for others."""
    return np.concatenate([np.cumsum(rng.exponential(rng.exponential(), width))[::-1], [0.0]])


def above_the_optimum(seed):
    """By what factor the loss of what is found is above that of every choice tried out."""
    rng = np.random.default_rng(seed)
    network = sec.trace(Chain(), torch.zeros(1, 3))
    groups = network.groups
    curves = [falling(rng, len(group)) for group in groups]
    choices = [choices_of(len(group), 1, 1) for group in groups]
    limit = float(rng.uniform(0.3, 0.8)) * network.macs()
    problem = Problem(curves, choices, WidthCosts(network, groups), {"macs": limit})
    everything = np.array(list(itertools.product(*choices)))
    fits = everything[problem.excess(everything) == 0]
    found = allocate(problem)
    assert problem.excess(found[None])[0] == 0
    return problem.loss(found) / problem.losses(fits).min()


def test_it_is_the_exact_optimum_of_most_chains_and_near_it_in_the_rest():
    above = np.array([above_the_optimum(seed) for seed in range(20)])
    assert above.min() >= 1 - 1e-12
    assert np.mean(above < 1 + 1e-9) >= 0.8
    assert above.max() < 1.1


def compare_with_optimum(seed):
    """Of widths within a limit on MACs that save time: (loss above the least at that time, time
    beside that of the widths that lose least)."""
    rng = np.random.default_rng(seed)
    network = sec.trace(Chain(), torch.zeros(1, 3))
    groups = network.groups
    # A weight takes time, and a number that is moved much more: narrow layers' MACs are slow.
    model = latency_model(network, {"macs of 1x1": 1.0, "numbers moved": rng.uniform(5, 50)})
    costs = WidthCosts(network, groups, latency_model=model)
    curves = [falling(rng, len(group)) for group in groups]
    choices = [choices_of(len(group), 1, 1) for group in groups]
    limit = {"macs": float(rng.uniform(0.3, 0.8)) * network.macs()}
    by_time = Problem(curves, choices, costs, limit, saves=MILLISECONDS)
    found, of_macs = allocate(by_time), allocate(Problem(curves, choices, costs, limit))
    assert by_time.excess(found[None])[0] == 0
    everything = np.array(list(itertools.product(*choices)))
    time, other = by_time.use(np.array([found, of_macs]))
    fits = (by_time.excess(everything) == 0) & (by_time.use(everything) <= time)
    return by_time.loss(found) / by_time.losses(everything[fits]).min(), time / other


def test_of_the_cuts_within_a_limit_a_fast_one_and_none_as_fast_loses_less():
    found = np.array([compare_with_optimum(seed) for seed in range(20)])
    above, time = found.T
    assert above.min() >= 1 - 1e-12
    assert np.mean(above < 1 + 1e-9) >= 0.8
    assert above.max() < 1.1
    assert np.mean(time <= 1) >= 0.8
    assert time.max() < 1.02
    assert time.min() < 0.96  # chains whose layers are hardly alike; of most, the same cut is both


def test_with_many_groups_likely_exchanges_do_nearly_as_well(monkeypatch):
    monkeypatch.setattr(allocation, "MOST_GROUPS_TO_FILL", 0)
    above = np.array([above_the_optimum(seed) for seed in range(20)])
    assert above.min() >= 1 - 1e-12
    assert np.median(above) < 1.05
    monkeypatch.setattr(allocation, "MOST_SWAPS", 0)
    without = np.array([above_the_optimum(seed) for seed in range(20)])
    assert above.sum() < without.sum()


@pytest.mark.parametrize("build", [Chain, HeadsAndUnits])
@pytest.mark.parametrize("seed", range(3))
def test_costs_by_width_are_the_networks_own(build, seed):
    x = torch.zeros(1, 3) if build is Chain else torch.zeros(1, 5, 8)
    network = sec.trace(build(), x)
    rng = np.random.default_rng(seed)
    widths = [int(rng.integers(1, len(group) + 1)) for group in network.groups]
    cut = network.cut(
        {g.name: np.arange(len(g) - w) for g, w in zip(network.groups, widths, strict=True)}
    )
    found = WidthCosts(network, network.groups).costs(np.array([widths]), UNITS)
    cost = network.cost(cut)
    for unit in UNITS:
        assert found[unit][0] == pytest.approx(getattr(cost, unit), rel=1e-12)


def test_widths_are_multiples_and_rounded_to_the_nearest():
    assert choices_of(64, 0.25, 8).tolist() == [16, 24, 32, 40, 48, 56, 64]
    assert choices_of(30, 0.3, 8).tolist() == [8, 16, 24, 30]  # 9 is nearer to 8 than to 16
    assert choices_of(10, 4, 1).tolist() == [4, 5, 6, 7, 8, 9, 10]
    assert choices_of(3, 0.1, 8).tolist() == [3]


@pytest.mark.parametrize("unit", ["macs", "params", "channels", "size_mb"])
def test_a_plan_is_within_its_budget_and_near_to_it(unit):
    torch.manual_seed(0)
    network = sec.trace(Chain((60, 80, 50)), torch.zeros(1, 3))
    rng = np.random.default_rng(0)
    orders = {group.name: rng.permutation(len(group)) for group in network.groups}
    losses = {group.name: falling(rng, len(group)) for group in network.groups}
    budget = sec.Budget(**{unit: 0.5 if unit != "size_mb" else "25 kB"})
    cut = plan_measured(network, orders, losses, budget)
    from secateurs.channels.file_size import predict_file_size

    taken = {
        "macs": network.macs(cut) / network.macs(),
        "params": network.params(cut) / network.params(),
        "channels": network.cost(cut).channels / network.cost().channels,
        "size_mb": predict_file_size(network, cut) / 50e3,
    }[unit]
    assert 0.46 <= taken <= 0.5
    for name, gone in cut.channels.items():
        assert set(gone.removed) == set(orders[name][: len(gone.removed)].tolist())


def test_a_budget_below_the_floors_names_the_nearest():
    network = sec.trace(Chain(), torch.zeros(1, 3))
    orders = {group.name: np.arange(len(group)) for group in network.groups}
    losses = {group.name: np.zeros(len(group) + 1) for group in network.groups}
    with pytest.raises(sec.BudgetError, match="the nearest that can be met is macs="):
        plan_measured(network, orders, losses, sec.Budget(macs=0.05), floor=0.5)


def test_skipped_groups_keep_their_width():
    network = sec.trace(Chain(), torch.zeros(1, 3))
    orders = {group.name: np.arange(len(group)) for group in network.groups}
    losses = {group.name: np.linspace(1, 0, len(group) + 1) for group in network.groups}
    cut = plan_measured(network, orders, losses, sec.Budget(macs=0.6), skip=["layers.1"])
    assert "layers.1" not in cut.channels
    assert cut.channels


def test_groups_that_were_not_measured_follow_what_was_foreseen_as_their_neighbours_did():
    network = sec.trace(Chain((16, 24, 32)), torch.zeros(1, 3))
    groups = network.groups
    true = {group.name: np.square(np.linspace(3, 0, len(group) + 1)) for group in groups}
    foreseen = {name: curve / 7 for name, curve in true.items()}
    ends = (groups[0], groups[2])
    measured = {
        group.name: {w: true[group.name][w] for w in widths_of(len(group), FEWEST_SHARES)}
        for group in ends
    }
    curves = curves_from(network, measured, foreseen)
    for group in groups:
        np.testing.assert_allclose(curves[group.name], true[group.name], rtol=1e-9)
    # What was measured at many widths goes through its points, whatever was foreseen.
    many = {w: 0.5 * true[groups[0].name][w] for w in (2, 4, 8, 12)}
    curves = curves_from(network, {**measured, groups[0].name: many}, foreseen)
    np.testing.assert_allclose(curves[groups[0].name][[2, 4, 8, 12]], list(many.values()))
