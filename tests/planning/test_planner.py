"""Plans remove the lowest scores, and meet budgets without exceeding them."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import secateurs as sec
from support.latency_by_hand import latency_model
from support.random_networks import RandomNetwork, example, recipes
from support.small_networks import Attention, images


def network_of(*widths):
    """Linear layers in a row: widths[0] is the input, the last the output."""
    layers = []
    for number, (i, o) in enumerate(itertools.pairwise(widths)):
        layers += [nn.ReLU()] * bool(number) + [nn.Linear(i, o)]
    return sec.trace(nn.Sequential(*layers), torch.randn(1, widths[0]))


def list_removed(cut):
    return {name: channels.removed for name, channels in cut.channels.items()}


def test_the_lowest_of_each_group_or_of_all():
    network = network_of(2, 4, 4, 2)
    scores = {"0": np.array([4.0, 1, 3, 2]), "2": np.array([10.0, 40, 30, 20])}
    each = sec.plan(network, scores, amount=0.5)
    assert list_removed(each) == {"0": (1, 3), "2": (0, 3)}
    everywhere = sec.plan(network, scores, amount=0.25, scope="network")
    assert list_removed(everywhere) == {"0": (1, 3)}


def test_for_any_number_the_lowest_of_all_go():
    network = network_of(2, 6, 7, 2)
    order = np.random.default_rng(0).permutation(13)
    scores = {"0": order[:6].astype(float), "2": order[6:].astype(float)}
    best = {scores["0"].max(), scores["2"].max()}  # one of each stays
    may_go = [score for score in range(13) if score not in best]
    for number in range(1, 12):
        cut = sec.plan(network, scores, amount=number / 13, scope="network", floor=1)
        gone = [scores[name][i] for name, indices in list_removed(cut).items() for i in indices]
        assert sorted(gone) == may_go[:number]


def test_a_threshold_removes_all_below_it():
    network = network_of(2, 4, 4, 2)
    scores = {"0": np.array([4.0, 1, 3, 2]), "2": np.array([10.0, 40, 30, 20])}
    assert list_removed(sec.plan(network, scores, threshold=3.0)) == {"0": (1, 3)}
    assert list_removed(sec.plan(network, scores, threshold=0.5)) == {}
    # Never below the floor, however many are below the threshold.
    assert list_removed(sec.plan(network, scores, threshold=1e9, floor=2)) == {
        "0": (1, 3),
        "2": (0, 3),
    }


@pytest.mark.parametrize(("floor", "left"), [(0.1, 2), (0.5, 10), (3, 3), (1, 1)])
def test_floors_are_shares_or_numbers(floor, left):
    network = network_of(2, 20, 2)
    cut = sec.plan(network, {"0": np.arange(20.0)}, threshold=1e9, floor=floor)
    assert list_removed(cut)["0"] == tuple(range(20 - left))


def test_widths_are_rounded_to_a_multiple():
    network = network_of(2, 24, 20, 2)
    scores = {"0": np.arange(24.0), "2": np.arange(20.0)}
    for amount in (0.1, 0.3, 0.5, 0.63):
        cut = sec.plan(network, scores, amount=amount, multiple=8)
        for name, width in (("0", 24), ("2", 20)):
            kept = width - len(list_removed(cut).get(name, ()))
            assert kept % 8 == 0 or kept == width
        assert cut.after.channels <= round((1 - amount) * 44)


def test_widths_are_rounded_to_the_nearest_and_stay_above_the_floor():
    network = network_of(2, 40, 2)
    for amount, kept in ((0.04, 40), (0.12, 32), (0.28, 32), (0.32, 24), (0.38, 24)):
        target = round((1 - amount) * 40)
        cut = sec.plan(network, {"0": np.arange(40.0)}, amount=amount, multiple=8, floor=1)
        left = 40 - len(list_removed(cut).get("0", ()))
        # A budget is never exceeded: where the nearest has too many, the next below is taken.
        assert left == (kept if kept <= target else kept - 8)
    deepest = sec.plan(network, {"0": np.arange(40.0)}, "params=0.5", multiple=8, floor=12)
    assert 40 - len(list_removed(deepest)["0"]) == 16
    with pytest.raises(sec.BudgetError, match="nearest that can be met"):
        sec.plan(network, {"0": np.arange(40.0)}, "params=0.3", multiple=8, floor=12)


def test_by_default_widths_of_depthwise_networks_are_multiples_of_eight():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 50, 3), nn.ReLU(), nn.Conv2d(50, 64, 1), nn.ReLU()]
    layers += [nn.Conv2d(64, 64, 3, groups=64), nn.ReLU(), nn.Conv2d(64, 16, 1)]
    layers += [nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 5, 1)]
    network = sec.trace(nn.Sequential(*layers), torch.randn(1, 3, 16, 16))
    for share in np.linspace(0.3, 0.9, 13):
        cut = sec.plan(network, sec.score(network, "random"), {"macs": share})
        left = {name: one.of - len(one.removed) for name, one in cut.channels.items()}
        assert left.get("2", 64) % 8 == 0
        assert left.get("6", 16) % 4 == 0  # too narrow for eights
        assert left.get("0", 50) % 8 == 0 or "0" not in left
    free = sec.plan(network, sec.score(network, "random"), "macs=0.55", multiple=1)
    assert any(len(one.removed) % 8 for name, one in free.channels.items() if name == "2")
    grey = nn.Conv2d(1, 50, 3)  # whose weight has the shape of a depthwise one's
    plain = nn.Sequential(grey, *layers[1:4], nn.Conv2d(64, 5, 1))
    plain = sec.trace(plain, torch.randn(1, 1, 16, 16))
    cuts = [sec.plan(plain, sec.score(plain, "l1"), {"macs": s}) for s in (0.4, 0.5, 0.6, 0.7)]
    assert len({len(cut.channels["0"].removed) % 8 for cut in cuts}) > 1  # any width


def test_skipped_groups_are_kept():
    network = network_of(2, 8, 8, 2)
    scores = {"0": np.arange(8.0), "2": np.arange(8.0)}
    assert set(list_removed(sec.plan(network, scores, amount=0.3, skip=["2"]))) == {"0"}
    with pytest.raises(sec.UnknownNameError, match="no group or layer matches 'nothing'"):
        sec.plan(network, scores, amount=0.3, skip=["nothing"])
    with pytest.raises(sec.ModelError, match="expected channels that can be pruned"):
        sec.plan(network, scores, amount=0.3, skip=["*"])


@settings(max_examples=60)
@given(
    recipes(),
    st.sampled_from(["params", "macs", "channels"]),
    st.floats(0.35, 0.95),
    st.sampled_from(["group", "network"]),
    st.sampled_from([1, 2]),
)
def test_budgets_are_never_exceeded_and_met_within_one_channel(
    recipe, unit, share, scope, multiple
):
    model = RandomNetwork(recipe)
    network = sec.trace(model, example())
    scores = sec.score(network, "l1_mean")
    budget = sec.Budget(**{unit: share})
    limit = share * getattr(network.cost(), unit)
    try:
        cut = sec.plan(network, scores, budget, scope=scope, multiple=multiple, floor=1)
    except (sec.BudgetError, sec.ModelError) as error:
        if network.groups and "nearest that can be met" not in str(error):
            raise
        return
    small = sec.apply(model, cut, example(), network=network, proof=False)
    assert getattr(network.cost(cut), unit) <= limit
    assert sum(p.numel() for p in small.parameters()) == network.cost(cut).params
    # No channel (or block of them) of any group could have stayed.
    for name, channels in cut.channels.items():
        fewer = {n: list(c.removed) for n, c in cut.channels.items()}
        scored = sorted(channels.removed, key=lambda i: scores[name][i])
        fewer[name] = scored[: max(0, len(scored) - multiple)]
        assert getattr(network.cost(network.cut(fewer)), unit) > limit


def test_several_limits_hold_at_once():
    network = network_of(16, 64, 64, 8)
    scores = sec.score(network, "l1")
    budget = sec.Budget(params=0.5, macs=0.9, channels=100)
    cut = sec.plan(network, scores, budget)
    dense = network.cost()
    assert cut.after.params <= 0.5 * dense.params
    assert cut.after.macs <= 0.9 * dense.macs
    assert cut.after.channels <= 100
    assert cut.after.params >= 0.49 * dense.params


def test_absolute_numbers_and_sizes():
    network = network_of(32, 256, 256, 8)
    scores = sec.score(network, "l1")
    assert sec.plan(network, scores, sec.Budget(params=20_000)).after.params <= 20_000
    dense = network.bytes()
    cut = sec.plan(network, scores, sec.Budget(size_mb="100 kB"))
    from secateurs.channels.file_size import predict_file_size

    assert 99_000 <= predict_file_size(network, cut) <= 100_000
    half = sec.plan(network, scores, sec.Budget(size_mb=0.5))
    assert 0.48 * dense <= half.after.bytes <= 0.5 * dense


@pytest.mark.parametrize("widths", [(2, 200, 2), (2, 60, 60, 2)])
def test_a_file_is_never_larger_than_its_budget(widths):
    """The cut itself is in the file: the more goes, the more there is to say."""
    from secateurs.channels.file_size import predict_file_size

    network = network_of(*widths)
    scores = sec.score(network, "random")
    dense, channel = predict_file_size(network, sec.Cut()), 4 * (widths[-3] + widths[-1] + 1)
    for share in np.linspace(0.4, 0.95, 12):
        limit = int(share * dense)
        cut = sec.plan(network, scores, sec.Budget(size_mb=f"{limit / 1e3} kB"), floor=1)
        assert limit - 2 * channel < predict_file_size(network, cut) <= limit


def test_an_overshoot_is_restored_in_cheap_channels():
    network = network_of(300, 10, 300, 2)  # a channel of the first: 601 parameters, else 13
    scores = {"0": np.arange(10.0), "2": np.arange(300.0)}
    dense = network.cost().params
    for share in np.linspace(0.4, 0.9, 9):
        cut = sec.plan(network, scores, sec.Budget(params=share), floor=1)
        assert 0.998 * share * dense < cut.after.params <= share * dense


def test_a_number_below_one_or_broken_is_a_share():
    dense = {"channels": 40.0, "params": 500.0, "size_mb": 3e6}
    for asked, limit in ((0.5, 20), (1.0, 40), (1, 1), (2, 2), (2.5, 2.5)):
        assert sec.Budget(channels=asked).absolute(dense) == {"channels": limit}
    for asked, limit in ((0.5, 1.5e6), (1.0, 3e6), (1, 1e6), (2.5, 2.5e6), ("0.5 MB", 5e5)):
        assert sec.Budget(size_mb=asked).absolute(dense) == {"size_mb": limit}


def test_a_budget_that_cannot_be_met_says_the_nearest():
    network = network_of(2, 20, 2)
    with pytest.raises(sec.BudgetError, match=r"nearest that can be met is params=12\b"):
        sec.plan(network, sec.score(network, "l1"), sec.Budget(params=0.01))


@pytest.mark.parametrize("amount", [0, 1, 1.5, -0.1])
def test_amounts_outside_the_open_interval_are_refused(amount):
    network = network_of(2, 4, 2)
    with pytest.raises(sec.BudgetError, match=r"share in \(0, 1\); received"):
        sec.plan(network, sec.score(network, "l1"), amount=amount)


def test_exactly_one_of_amount_budget_and_threshold_is_given():
    network = network_of(2, 4, 2)
    scores = sec.score(network, "l1")
    with pytest.raises(sec.BudgetError, match="exactly one"):
        sec.plan(network, scores)
    with pytest.raises(sec.BudgetError, match="exactly one"):
        sec.plan(network, scores, sec.Budget(macs=0.5), amount=0.5)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "at least one of"),
        ({"macs": 0}, "macs: expected a number above 0"),
        ({"size_mb": "many"}, "size_mb: expected a size"),
    ],
)
def test_empty_budgets_are_refused(limits, message):
    with pytest.raises(sec.BudgetError, match=message):
        sec.Budget(**limits)


def test_budgets_are_read_from_text():
    assert sec.Budget.parse("macs=0.5, size_mb=15") == sec.Budget(macs=0.5, size_mb=15)
    assert sec.Budget.parse("size_mb=400 kB") == sec.Budget(size_mb="400 kB")
    for text in ("flops=0.5", "macs", "macs=half"):
        with pytest.raises(sec.BudgetError):
            sec.Budget.parse(text)


def test_a_budget_may_be_text_or_a_mapping():
    network = network_of(2, 24, 20, 2)
    scores = {"0": np.arange(24.0), "2": np.arange(20.0)}
    expected = sec.plan(network, scores, sec.Budget(params=0.5, macs=0.6))
    assert expected.after.params <= 0.5 * network.params()
    assert sec.plan(network, scores, "params=0.5,macs=0.6") == expected
    assert sec.plan(network, scores, {"params": 0.5, "macs": 0.6}) == expected
    assert sec.Stop(budget="params=0.5,macs=0.6").budget == sec.Budget(params=0.5, macs=0.6)
    with pytest.raises(sec.BudgetError, match="no budget is called 'mac'; did you mean 'macs'"):
        sec.plan(network, scores, {"mac": 0.5})
    with pytest.raises(sec.BudgetError, match=r"expected a Budget, .* received float 0.5"):
        sec.plan(network, scores, 0.5)


def test_scores_of_another_network_are_refused():
    network = network_of(2, 4, 2)
    with pytest.raises(sec.UnknownNameError, match="0: expected 4 scores; received 3"):
        sec.plan(network, {"0": np.arange(3.0)}, amount=0.5)


def test_a_model_without_channels_to_prune_says_why():
    network = sec.trace(nn.Linear(3, 4), torch.randn(1, 3))
    with pytest.raises(sec.ModelError, match="the network's output"):
        sec.plan(network, sec.score(network, "l1"), amount=0.5)


@pytest.mark.parametrize("groups", [1, 4, 8])
def test_half_of_the_channels_is_half_of_the_width_in_a_grid_too(groups):
    torch = pytest.importorskip("torch")
    nn = torch.nn
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(32) if groups == 1 else nn.GroupNorm(groups, 32) for _ in range(2)]
    layers = nn.Conv2d(3, 32, 3), norms[0], nn.Conv2d(32, 32, 3), norms[1], nn.Conv2d(32, 4, 1)
    network = sec.trace(nn.Sequential(*layers).eval(), torch.rand(1, 3, 8, 8))
    assert network.cost().channels == 64
    for share in (0.5, 0.25):
        cut = sec.plan(network, sec.score(network, "l1"), sec.Budget(channels=share))
        widths = [cut.tensors[f"{number}.weight"].shape_after[0] for number in (0, 2)]
        assert sum(widths) == network.cost(cut).channels <= 64 * share
        assert all(abs(width - 32 * share) <= 4 for width in widths)


def test_with_a_runtime_the_fastest_of_several_ways_down_is_taken():
    """Each way asked for by itself is no faster, as the latency model has it."""
    widths = (48, 48, 64, 32)
    layers = [nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise((3, *widths, 4))]
    network = sec.trace(nn.Sequential(*layers), torch.zeros(1, 3, 9, 9))
    scores = sec.score(network, "l1")
    for times in ({"macs of kxk": 1.0}, {"macs, no multiple of 16": 1.0, "numbers moved": 5.0}):
        found = latency_model(network, {"constant": 10.0, **times})
        predicted = found.predictor(network)
        asked = {"macs": 0.5, "runtime": "eager"}

        def time_of(cut, predicted=predicted):
            return predicted(network.alive(network.removed_by(cut)))

        fastest = sec.plan(network, scores, asked, latency_model=found)
        assert network.macs(fastest) <= 0.5 * network.macs()
        others = [sec.plan(network, scores, {"macs": 0.5}, multiple=m) for m in (1, 16)]
        others.append(sec.plan(network, scores, {"macs": 0.5}, latency_model=found))
        assert time_of(fastest) <= min(map(time_of, others)) * (1 + 1e-9)


def test_with_a_runtime_whole_heads_go_where_scores_take_the_time():
    """At the same MACs, fewer heads have fewer scores; narrower heads have as many."""
    network = sec.trace(Attention(), torch.from_numpy(images()[:1]))
    scores, asked = sec.score(network, "l1"), {"macs": 0.5, "runtime": "eager"}

    found = latency_model(
        network, {"macs of 1x1": 1.0, "macs of kxk": 1.0, "attention scores": 100.0}
    )
    cut = sec.plan(network, scores, asked, latency_model=found)
    assert network.macs(cut) <= 0.5 * network.macs()
    assert len(cut.channels["qkv.heads"].removed) == 1
    assert "qkv.head_width" not in cut.channels


def test_where_limits_cannot_be_met_the_nearest_is_reported():
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
    network = sec.trace(model, torch.zeros(1, 4))
    asked = {"macs": 0.01, "runtime": "eager"}
    with pytest.raises(sec.BudgetError, match=r"no cut within the floors meets macs=0\.01"):
        sec.plan(network, sec.score(network, "l1"), asked, latency_model=latency_model(network))
