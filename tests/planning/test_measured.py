import itertools

import numpy as np
import pytest

from secateurs.errors import BudgetError
from secateurs.planning.budget import Budget
from secateurs.planning.measured import plan_measured
from support.networks_by_hand import grid, two_layers

ORDER = {"first": np.array([2, 0, 3, 1])}


def test_the_widest_within_the_budget_is_taken_and_its_channels_in_order():
    network = two_layers()
    losses = {"first": np.array([9.0, 4, 2, 1, 0])}
    cut = plan_measured(network, ORDER, losses, Budget(params=0.5))
    assert cut.channels["first"].removed == (0, 2)  # 28 parameters, 7 a channel: two may stay
    assert plan_measured(network, ORDER, losses, Budget(params=1.0, macs=100)).channels == {}


def test_of_all_widths_within_a_budget_those_that_lose_least_by_brute_force():
    network = grid(4, 5)
    orders = {group.name: np.arange(len(group)) for group in network.groups}
    random = np.random.default_rng(3)
    losses = {
        group.name: np.append(np.sort(random.random(len(group)))[::-1], 0.0)
        for group in network.groups
    }
    for share in (0.7, 0.4, 0.2):
        cut = plan_measured(network, orders, losses, Budget(params=share), floor=1)
        widths = [
            len(g) - len(cut.channels[g.name].removed if g.name in cut.channels else ())
            for g in network.groups
        ]
        assert network.params(cut) <= share * network.params()

        def lost(chosen):
            return sum(losses[g.name][w] for g, w in zip(network.groups, chosen, strict=True))

        best = min(
            lost(chosen)
            for chosen in itertools.product(*(range(1, len(g) + 1) for g in network.groups))
            if 6 * np.prod(chosen) <= share * network.params()
        )
        assert lost(widths) == pytest.approx(best, rel=0.35)


def test_floors_and_multiples_hold_and_what_they_forbid_is_told():
    network = two_layers(8)
    orders, losses = {"first": np.arange(8)}, {"first": np.arange(8.0, -1, -1)}
    cut = plan_measured(network, orders, losses, Budget(params=0.6), multiple=4)
    assert len(cut.channels["first"].removed) == 4
    with pytest.raises(BudgetError, match=r"params=0\.1; the nearest that can be met is params=28"):
        plan_measured(network, orders, losses, Budget(params=0.1), floor=4)
