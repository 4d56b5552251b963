"""The shortest prefix of a removal order that meets a budget, against brute force."""

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.errors import BudgetError
from secateurs.planning.budget import Budget
from secateurs.planning.removal_order import RemovalOrder
from secateurs.planning.within_budget import cut_within


@pytest.fixture(scope="module")
def order():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 9), nn.ReLU(), nn.Linear(9, 12), nn.ReLU(), nn.Linear(12, 2))
    network = sec.trace(model, torch.zeros(1, 3))
    return RemovalOrder.of(network, sec.score(network), "network", 0.1, None, (), None)


@pytest.mark.parametrize("share", [0.9, 0.6, 0.35, 0.15])
def test_it_takes_no_more_than_the_fewest_in_order(order, share):
    network = order.network
    limit = share * network.params()
    cut = cut_within(order, Budget(params=share), None)
    assert network.params(cut) <= limit
    costs = [network.cost_of(order.alive(order.counts(n))).params for n in range(len(order) + 1)]
    fewest = next(n for n, cost in enumerate(costs) if cost <= limit)
    taken = sum(len(one.removed) for one in cut.channels.values())
    assert taken <= fewest
    # What was put back: nothing of what is still gone fits in again.
    counts = np.array(
        [len(cut.channels[g.name].removed) if g.name in cut.channels else 0 for g in order.groups]
    )
    for number in range(len(order.groups)):
        fewer = order.put_back(counts, number)
        back = network.cost_of(order.alive(fewer)).params
        assert fewer[number] == counts[number] or back > limit or back > 0.999 * limit


def test_a_files_header_is_counted(order, tmp_path):
    dense = order.network.source.model
    sec.save(dense, tmp_path / "dense.safetensors")
    limit = (tmp_path / "dense.safetensors").stat().st_size - 60
    cut = cut_within(order, Budget(size_mb=f"{limit / 1000} kB"), None)
    small = sec.apply(dense, cut, torch.zeros(1, 3))
    sec.save(small, tmp_path / "small.safetensors")
    assert (tmp_path / "small.safetensors").stat().st_size <= limit


def test_what_cannot_be_met_names_the_nearest_that_can(order):
    network = order.network
    least = network.cost_of(order.alive(order.counts(len(order)))).params
    with pytest.raises(BudgetError, match=rf"meets params=0\.001; .* is params={least}\. Ask"):
        cut_within(order, Budget(params=0.001), None)
