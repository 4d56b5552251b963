"""Residual blocks allocated beside widths: costs against the network's own, choices against brute
force."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.planning.allocation import Problem, allocate, choices_of
from secateurs.planning.measured import BlockChoices
from secateurs.planning.timed_units import Predictor
from secateurs.planning.units import Candidate
from secateurs.planning.widths import MILLISECONDS, UNITS, WidthCosts
from support.latency_by_hand import latency_model
from support.residual_networks import Residual, settle_moments
from support.transformer_layers import HeadsAndUnits

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(3, 8), nn.Linear(8, 2)
        self.layers = nn.ModuleList([HeadsAndUnits() for _ in range(3)])

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def trace_built(build):
    torch.manual_seed(0)
    if build is Residual:
        return sec.trace(settle_moments(Residual()), IMAGES[:1])
    return sec.trace(Layers().eval(), torch.rand(1, 5, 3))


@pytest.mark.parametrize("build", [Residual, Layers])
@pytest.mark.parametrize("seed", range(4))
def test_costs_by_width_and_block_are_the_networks_own(build, seed):
    network = trace_built(build)
    rng = np.random.default_rng(seed)
    widths = [int(rng.integers(1, len(group) + 1)) for group in network.groups]
    stays = rng.integers(0, 2, len(network.blocks))
    gone = [b.name for b, there in zip(network.blocks, stays, strict=True) if not there]
    cut = network.cut(
        {g.name: np.arange(len(g) - w) for g, w in zip(network.groups, widths, strict=True)}, gone
    )
    model = latency_model(network)
    blocks = [b.cut for b in network.blocks]
    costs = WidthCosts(network, network.groups, blocks=blocks, latency_model=model)
    found = costs.costs(np.array([[*widths, *stays]]), (*UNITS, MILLISECONDS))
    cost = network.cost(cut)
    predicted = Predictor(network, model).milliseconds(Candidate.after(network, cut))
    assert found[MILLISECONDS][0] == pytest.approx(predicted)
    assert cost == cut.after
    for unit in UNITS:
        assert found[unit][0] == pytest.approx(getattr(cost, unit), rel=1e-12)


@pytest.mark.parametrize("gone", [["blocks.0"], ["blocks.1"], ["blocks.0", "blocks.3"]])
def test_what_a_cut_of_both_costs_is_what_is_left(gone):
    torch.manual_seed(0)
    model = settle_moments(Residual())
    network = sec.trace(model, IMAGES[:1])
    cut = network.cut({g.name: range(len(g) // 2) for g in network.groups}, gone)
    small = sec.apply(model, cut, IMAGES[:1], network=network, proof="independent")
    left = sec.trace(small, IMAGES[:1])
    # The network that is left may freeze what had a partner in the block: channels are other ones.
    assert (left.params(), left.macs(), left.bytes()) == (
        cut.after.params, cut.after.macs, cut.after.bytes,
    )  # fmt: skip
    assert cut.after.params == sum(p.numel() for p in small.parameters())


def above_the_optimum(seed):
    """By what factor the loss of what is found is above that of every choice tried out."""
    network = trace_built(Residual)
    rng = np.random.default_rng(seed)
    groups = network.groups
    losses = {b.name: float(rng.exponential(rng.choice([3, 60]))) for b in network.blocks}
    may_go = BlockChoices.of(network, groups, losses)
    curves = [
        np.concatenate([np.cumsum(rng.exponential(rng.exponential(), len(g)))[::-1], [0.0]])
        for g in groups
    ]
    choices = [choices_of(len(group), 1, len(group) // 2) for group in groups] + may_go.choices
    costs = WidthCosts(network, groups, blocks=may_go.cuts)
    limit = {"macs": float(rng.uniform(0.15, 0.7)) * network.macs()}
    problem = Problem(curves + may_go.curves, choices, costs, limit, may_go.around)
    everything = np.array(list(itertools.product(*choices)))
    fits = everything[problem.excess(everything) == 0]
    found = allocate(problem)
    assert problem.excess(found[None])[0] == 0
    inside = may_go.around[: len(groups)]
    for place in np.flatnonzero(inside >= 0):  # a cut says nothing of what goes with its block
        assert found[inside[place]] or found[place] == len(groups[place])
    return problem.loss(found) / problem.losses(fits).min(), found[len(groups) :]


def test_it_is_near_the_exact_optimum_and_blocks_go_where_that_is_best():
    found = [above_the_optimum(seed) for seed in range(20)]
    above = np.array([factor for factor, _ in found])
    assert above.min() >= 1 - 1e-12
    assert np.mean(above < 1 + 1e-9) >= 0.9
    assert above.max() < 1.5
    gone = np.array([len(stays) - stays.sum() for _, stays in found])
    assert (gone > 0).any()
    assert (gone == 0).any()


def test_a_removed_block_counts_its_own_loss_only():
    network = trace_built(Residual)
    may_go = BlockChoices.of(network, network.groups, {"blocks.2": 5.0})
    inside = [g.name for g, at in zip(network.groups, may_go.around, strict=False) if at >= 0]
    assert inside == ["blocks.2.conv1"]
    curves = [np.linspace(1, 0, len(group) + 1) for group in network.groups]
    costs = WidthCosts(network, network.groups, blocks=may_go.cuts)
    choices = [choices_of(len(g), 1, 1) for g in network.groups] + may_go.choices
    problem = Problem(curves + may_go.curves, choices, costs, {"macs": 1.0}, may_go.around)
    narrow = [1 if group.name == "blocks.2.conv1" else len(group) for group in network.groups]
    assert problem.loss(np.array([*narrow, 1])) == pytest.approx(1 - 1 / 12)
    assert problem.loss(np.array([*narrow, 0])) == pytest.approx(5.0)
