import itertools

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.errors import BudgetError
from secateurs.planning.budget import Budget
from secateurs.planning.measured import plan_measured
from secateurs.planning.timed_units import Predictor
from secateurs.planning.units import Candidate
from support.latency_by_hand import latency_model
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

        def loss_at(chosen):
            return sum(losses[g.name][w] for g, w in zip(network.groups, chosen, strict=True))

        best = min(
            loss_at(chosen)
            for chosen in itertools.product(*(range(1, len(g) + 1) for g in network.groups))
            if 6 * np.prod(chosen) <= share * network.params()
        )
        assert loss_at(widths) == pytest.approx(best, rel=0.35)


def test_floors_and_multiples_hold_and_impossible_budgets_are_reported():
    network = two_layers(8)
    orders, losses = {"first": np.arange(8)}, {"first": np.arange(8.0, -1, -1)}
    cut = plan_measured(network, orders, losses, Budget(params=0.6), multiple=4)
    assert len(cut.channels["first"].removed) == 4
    with pytest.raises(BudgetError, match=r"params=0\.1; the nearest that can be met is params=28"):
        plan_measured(network, orders, losses, Budget(params=0.1), floor=4)


@pytest.fixture(scope="module")
def two_speeds():
    """A network of two groups with as many MACs each, of which one's take five times as long."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(2, 16, 3, padding=1, bias=False), nn.ReLU()),
        *(nn.Conv2d(16, 2, 3, padding=1, bias=False), nn.ReLU()),
        *(nn.Conv2d(2, 144, 1, bias=False), nn.ReLU(), nn.Conv2d(144, 2, 1, bias=False)),
    )
    return sec.trace(model, torch.zeros(1, 2, 4, 4))


def cut_at(network, budget, **options):
    """(the widths of both wide groups, the loss, the milliseconds) of a plan by even losses."""
    orders = {group.name: np.arange(len(group)) for group in network.groups}
    losses = {group.name: loss_at(len(group)) for group in network.groups}
    model = latency_model(network, {"macs of kxk": 5.0, "macs of 1x1": 1.0})
    if options.pop("by_time", True):
        options["latency_model"] = model
    cut = plan_measured(network, orders, losses, budget, floor=1, skip=["2"], multiple=1, **options)
    widths = [
        len(g) - len(cut.channels[g.name].removed if g.name in cut.channels else ())
        for g in network.groups
        if g.name != "2"
    ]
    time = Predictor(network, model).milliseconds(Candidate.after(network, cut))
    loss = sum(losses[g][width] for g, width in zip(("0", "4"), widths, strict=True))
    return widths, loss, time, network.macs(cut)


def loss_at(width):
    """Of every width: the square of the share that has gone."""
    return (1 - np.arange(width + 1) / width) ** 2


def by_hand(widths):
    """(loss, time, MACs): 16 pixels; nine numbers to a channel's pair in the first, one in the
    second; two channels on either side."""
    (a, b) = widths
    slow, fast = 2 * 16 * 9 * 2 * a, 2 * 16 * 2 * b
    return (1 - a / 16) ** 2 + (1 - b / 144) ** 2, 5 * slow + fast, slow + fast


EVERYTHING = [(a, b) for a in range(1, 17) for b in range(1, 145)]


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_a_limit_of_time_is_met_by_what_loses_least_for_it_as_brute_force_finds(two_speeds, share):
    most = share * by_hand((16, 144))[1]
    widths, loss, time, _ = cut_at(two_speeds, Budget(latency=share))
    assert (loss, time) == pytest.approx(by_hand(widths)[:2])
    assert time <= most
    best = min(by_hand(w)[0] for w in EVERYTHING if by_hand(w)[1] <= most)
    assert loss == pytest.approx(best, rel=0.01)
    # The same MACs, where they cost alike, take longer: the slow group is the one that has to go.
    macs = by_hand(widths)[2] / by_hand((16, 144))[2]
    _, _, other, _ = cut_at(two_speeds, Budget(macs=macs), by_time=False)
    assert other > 1.05 * time


def test_a_limit_of_macs_with_a_latency_model_is_met_by_what_loses_least_for_time(two_speeds):
    most = 0.5 * by_hand((16, 144))[2]
    _, loss, time, macs = cut_at(two_speeds, Budget(macs=0.5))
    assert 0.99 * most < macs <= most
    least = min(
        by_hand(w)[0] for w in EVERYTHING if by_hand(w)[2] <= most and by_hand(w)[1] <= time
    )
    assert loss == pytest.approx(least, rel=0.01)
    _, even, other, _ = cut_at(two_speeds, Budget(macs=0.5), by_time=False)
    assert time < 0.8 * other
    assert even < loss  # what speed costs at the same MACs


def test_limits_of_time_and_of_others_hold_together(two_speeds):
    dense = by_hand((16, 144))
    for budget in (Budget(latency=0.9, macs=0.4), Budget(latency=0.4, macs=0.9), Budget(speedup=2)):
        _, _, time, macs = cut_at(two_speeds, budget)
        assert time <= dense[1] * min(budget.latency or 1, 1 / (budget.speedup or 1)) + 1e-6
        assert macs <= dense[2] * (budget.macs or 1)


def test_where_no_widths_at_measured_multiples_meet_a_time_finer_ones_do():
    """Of 64 channels, multiples of 16 leave a quarter; a tenth of the time takes fewer."""
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 8, 3))
    network = sec.trace(model, torch.zeros(1, 3, 8, 8))
    (name,) = (group.name for group in network.groups)
    orders, losses = {name: np.arange(64)}, {name: np.arange(64.0, -1, -1)}
    found = latency_model(network, {"macs of kxk": 1.0}, multiple=16)

    def width_at(share):
        asked = Budget(latency=share)
        cut = plan_measured(network, orders, losses, asked, floor=1, latency_model=found)
        return 64 - len(cut.channels[name].removed)

    assert width_at(0.5) == 32
    assert width_at(0.2) == 8  # at multiples of 8: twelve would fit, sixteen would not
    assert width_at(0.1) == 4
    with pytest.raises(BudgetError, match="the nearest that can be met"):
        width_at(0.001)
