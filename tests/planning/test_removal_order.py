from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.errors import BudgetError, ModelError, UnknownNameError
from secateurs.planning.removal_order import (
    SLOWEST,
    RemovalOrder,
    finest_multiple,
    list_allowed,
    multiple_of,
    multiples_of,
    time_of_macs,
)
from support.latency_by_hand import latency_model
from support.networks_by_hand import grid, two_layers

SCORES = {"0": np.array([4.0, 1, 3, 2]), "2": np.array([10.0, 30, 20, 60, 50, 40, 70, 80])}


def chain():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    return sec.trace(model, torch.zeros(1, 3))


def order(network, scope="group", floor=0.1, multiple=None, skip=(), scores=SCORES):
    return RemovalOrder.of(network, scores, scope, floor, multiple, skip, None)


def in_order(found):
    """(group, channel) as they go, of counts that rise by one."""
    gone = []
    before = found.counts(0)
    for length in range(1, len(found) + 1):
        counts = found.counts(length)
        (number,) = np.flatnonzero(counts - before)
        gone.append((found.groups[number].name, int(found.ranked[number][before[number]])))
        before = counts
    return gone


def test_in_groups_equal_shares_go_first():
    found = order(chain())
    assert in_order(found)[:6] == [("2", 0), ("0", 1), ("2", 2), ("2", 1), ("0", 3), ("2", 5)]
    assert len(found) == 3 + 7  # one of each stays


def test_in_the_network_the_lowest_scores_go_first():
    found = order(chain(), "network")
    assert in_order(found)[:5] == [("0", 1), ("0", 3), ("0", 2), ("2", 0), ("2", 2)]
    assert found.counts_below(25.0).tolist() == [3, 2]


def test_floors_are_shares_or_numbers():
    assert len(order(chain(), floor=0.5)) == 2 + 4
    assert len(order(chain(), floor=3)) == 1 + 5
    assert len(order(chain(), floor=0.3)) == 2 + 5  # rounded up: 2 of 4, 3 of 8


def test_widths_are_rounded_to_multiples_and_never_below_the_floor():
    found = order(chain(), multiple=3)
    everything = found.counts(len(found))
    assert [len(g) - n for g, n in zip(found.groups, everything, strict=True)] == [3, 3]
    for length in range(len(found) + 1):
        kept = [len(g) - n for g, n in zip(found.groups, found.counts(length), strict=True)]
        assert kept[0] in (3, 4)
        assert kept[1] in (3, 6, 8)
    assert found.put_back(np.array([1, 5]), 1).tolist() == [1, 2]
    assert found.put_back(np.array([1, 5]), 0).tolist() == [0, 5]


def test_a_cut_takes_the_lowest_of_each():
    found = order(chain())
    cut = found.cut_of(np.array([2, 3]))
    assert {name: one.removed for name, one in cut.channels.items()} == {
        "0": (1, 3),
        "2": (0, 1, 2),
    }
    alive = found.alive(np.array([2, 3]))
    assert found.network.cost_of(alive) == found.network.cost(cut)


def test_of_a_grid_both_sides_together_are_the_share():
    """Of heads by positions, a width's share is gone when each side has lost the root of it."""
    network = grid(4, 4)
    scores = {group.name: np.arange(4.0) for group in network.groups}
    found = order(network, scores=scores)
    assert found.counts(2).tolist() == [1, 1]


def test_half_of_the_heads_of_a_grid_go_before_channels_of_each():
    """Of 4 heads of 8 channels two go first, and two stay."""
    network = grid(4, 8)
    scores = {group.name: np.arange(float(len(group))) for group in network.groups}
    heads = [len(group) for group in network.groups].index(4)
    found = RemovalOrder.of(network, scores, "group", 0.1, None, (), None, whole=True)
    assert found.group_of.tolist() == [heads] * 2 + [1 - heads] * 7
    fixed = [group.name for group in network.groups if len(group) == 4]
    rest = RemovalOrder.of(network, scores, "group", 0.1, None, fixed, None, whole=True)
    assert [len(group) for group in rest.groups] == [8]
    assert rest.counts(2).tolist() == [2]


def test_beside_other_groups_whole_heads_lose_the_share_of_the_cells():
    """24 channels beside 4 heads of 6: for each head that goes, 6 of them go."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 24, 1), nn.GroupNorm(4, 24), nn.Conv2d(24, 24, 1), nn.Conv2d(24, 2, 1)]
    network = sec.trace(nn.Sequential(*layers), torch.zeros(1, 3, 4, 4))
    sizes = [len(group) for group in network.groups]
    assert sorted(sizes) == [4, 6, 24]
    scores = {group.name: np.arange(float(len(group))) for group in network.groups}
    found = RemovalOrder.of(network, scores, "group", 0.01, 1, (), None, whole=True)
    for length in range(len(found)):
        gone = dict(zip(sizes, found.counts(length).tolist(), strict=True))
        cells = 1 - (1 - gone[4] / 4) * (1 - gone[6] / 6)
        assert abs(cells - gone[24] / 24) <= 1 / 4
        assert not gone[6] or gone[4] >= 2


def test_depthwise_networks_keep_multiples_that_leave_a_choice():
    model = nn.Sequential(
        nn.Conv2d(3, 32, 1),
        nn.Conv2d(32, 32, 3, groups=32),
        nn.Conv2d(32, 12, 1),
        nn.Conv2d(12, 5, 1),
    )
    network = sec.trace(model, torch.zeros(1, 3, 4, 4))
    found = {len(group): multiple_of(network, group, None) for group in network.groups}
    assert found == {32: 8, 12: 4}
    assert {multiple_of(network, group, 3) for group in network.groups} == {3}
    plain = two_layers()
    assert multiple_of(plain, plain.groups[0], None) == 1
    needs = two_layers(multiple=4)
    assert multiple_of(needs, needs.groups[0], 6) == 12


def long_chain(widths):
    sizes = [3, *widths, 2]
    layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    return sec.trace(nn.Sequential(*layers), torch.zeros(1, 3))


def test_where_many_groups_can_go_widths_are_multiples_that_leave_eight_choices():
    widths = [64, 100, 40, 32, 24, 16, 8, 4]
    network = long_chain(widths)
    found = {len(group): multiple_of(network, group, None) for group in network.groups}
    assert found == {64: 8, 100: 8, 40: 4, 32: 4, 24: 2, 16: 2, 8: 1, 4: 1}
    assert {multiple_of(network, group, 1) for group in network.groups} == {1}
    few = long_chain(widths[:7])
    assert {multiple_of(few, group, None) for group in few.groups} == {1}


def test_a_few_wide_groups_of_convolutions_are_multiples_too():
    """Six groups, as CREPE's: eleven widths of each are more than 64 together."""
    crepe = conv_chain(1024, 128, 128, 128, 256, 88)
    assert [multiple_of(crepe, group, None) for group in crepe.groups] == [8] * 6
    narrow = conv_chain(128, 87, 44, 43, 32, 64)
    assert [multiple_of(narrow, group, None) for group in narrow.groups] == [8, 4, 4, 1, 1, 4]
    two = conv_chain(256, 128)
    assert [multiple_of(two, group, None) for group in two.groups] == [8, 4]
    assert [multiple_of(two, group, 1) for group in two.groups] == [1, 1]
    cut = sec.plan(crepe, sec.score(crepe, "l1"), sec.Budget(macs=0.5))
    widths = [len(crepe.group(name)) - len(one.removed) for name, one in cut.channels.items()]
    assert {width % 8 for width in widths} == {0}
    assert 0.45 <= crepe.macs(cut) / crepe.macs() <= 0.5


def test_what_counts_channels_one_by_one_takes_any_width():
    plain = long_chain([64] * 8)
    assert finest_multiple(plain, None) == 1
    assert finest_multiple(plain, 4) == 4
    there = two_layers(hidden=32)
    there.source.device = "cuda"
    assert finest_multiple(there, None) is None
    scores = {group.name: np.arange(64.0) for group in plain.groups}

    def widths(cut):
        return {one.of - len(one.removed) for one in cut.channels.values()}

    assert {width % 8 for width in widths(sec.plan(plain, scores, "macs=0.6"))} == {0}
    assert widths(sec.plan(plain, scores, "channels=0.6")) <= {38, 39}
    assert widths(sec.plan(plain, scores, amount=0.4)) <= {38, 39}


def test_widths_on_cuda_are_multiples_too():
    network = two_layers(hidden=32)
    assert multiple_of(network, network.groups[0], None) == 1
    network.source.device = "cuda"
    assert multiple_of(network, network.groups[0], None) == 8
    assert multiple_of(network, network.groups[0], 1) == 1
    layer = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2))
    assert sec.trace(layer, torch.zeros(1, 2)).source.device == "cpu"
    assert sec.trace(layer.to("meta"), torch.zeros(1, 2, device="meta")).source.device == "meta"


def test_skipped_groups_and_invalid_skips():
    network = chain()
    assert [g.name for g in list_allowed(network, ["0"])] == ["2"]
    assert [g.name for g in list_allowed(network, [])] == ["0", "2"]
    with pytest.raises(UnknownNameError, match="skip: no group or layer matches '9'"):
        list_allowed(network, ["9"])
    with pytest.raises(
        ModelError, match=r"there are none besides those skipped.*the network's out"
    ):
        list_allowed(network, ["*"])
    with pytest.raises(UnknownNameError, match="0: expected 4 scores; received 3"):
        order(network, scores={**SCORES, "0": np.zeros(3)})
    with pytest.raises(UnknownNameError, match="2: expected 8 scores; received none"):
        order(network, scores={"0": np.zeros(4)})
    with pytest.raises(BudgetError, match="scope: expected 'group' or 'network'; received 'layer'"):
        order(network, "layer")


def test_a_group_whose_macs_are_slow_is_cut_further_for_the_same_macs():
    """Two groups of as many MACs, of which the first one's take five times as long."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(2, 16, 3, padding=1, bias=False), nn.ReLU()),
        *(nn.Conv2d(16, 2, 3, padding=1, bias=False), nn.ReLU()),
        *(nn.Conv2d(2, 144, 1, bias=False), nn.ReLU(), nn.Conv2d(144, 2, 1, bias=False)),
    )
    network = sec.trace(model, torch.zeros(1, 2, 4, 4))
    found = latency_model(network, {"macs of kxk": 5.0, "macs of 1x1": 1.0})
    groups = list_allowed(network, ["2"])
    ones = np.ones(2, np.int64)
    assert time_of_macs(network, groups, ones, None).tolist() == [1, 1]
    slowness = time_of_macs(network, groups, ones, found)
    assert slowness == pytest.approx([5 / 3, 1 / 3])  # of the mean of 5 and 1
    scores = {group.name: np.arange(len(group)) for group in network.groups}
    even = sec.plan(network, scores, sec.Budget(macs=0.6), skip=["2"])
    fast = sec.plan(network, scores, sec.Budget(macs=0.6), skip=["2"], latency_model=found)
    shares = [
        [len(cut.channels[name].removed) / width for name, width in (("0", 16), ("4", 144))]
        for cut in (even, fast)
    ]
    assert shares[0] == pytest.approx([0.4, 0.4], abs=0.05)
    assert shares[1][0] / shares[1][1] == pytest.approx(5, rel=0.2)  # of 16 channels, whole ones go
    assert network.macs(fast) <= 0.6 * network.macs()


def test_the_slowness_of_a_group_is_bounded():
    network = chain()
    found = latency_model(network, {"constant": 1.0, "numbers moved": 1e-9, "macs of 1x1": 1e-12})
    groups = list_allowed(network, ())
    slowness = time_of_macs(network, groups, np.ones(2, np.int64), found)
    assert np.all((slowness >= 1 / SLOWEST) & (slowness <= SLOWEST))


def conv_chain(*widths):
    layers = [nn.Conv2d(a, b, 3) for a, b in zip((3, *widths), (*widths, 4), strict=True)]
    side = 2 * len(layers) + 1
    return sec.trace(nn.Sequential(*layers), torch.zeros(1, 3, side, side))


def test_a_measured_multiple_leaves_narrow_groups_two_widths_at_least():
    network = conv_chain(64, 32, 24, 16, 6, 3)
    found = latency_model(network, multiple=16)
    groups = list_allowed(network, ())
    assert multiples_of(network, groups, None, found).tolist() == [16, 16, 8, 8, 2, 1]


def test_a_measured_multiple_is_no_less_than_what_is_usual_and_costs_nothing():
    wide = conv_chain(*(64,) * 8)
    found = latency_model(wide, multiple=1)
    groups = list_allowed(wide, ())
    assert multiples_of(wide, groups, None, found).tolist() == [8] * 8
    few = conv_chain(64, 64)
    assert multiples_of(few, list_allowed(few, ()), None, found).tolist() == [1, 1]
    assert multiples_of(wide, groups, 4, found).tolist() == [4] * 8  # as asked for
