"""The contract of both frameworks, checked on the same networks with the same weights."""

import numpy as np
import pytest

import secateurs as sec
from contract.sides import ARCHITECTURES, SIDES
from secateurs.channels.network import Role

on_both = pytest.mark.parametrize("side", SIDES.values(), ids=SIDES)
on_all = pytest.mark.parametrize("architecture", ARCHITECTURES)

GROUPS = {
    "plain": {"conv1": 8, "conv2": 6, "hidden": 10},
    "residual": {"stem": 8, "conv1": 6},
    "mobile": {"conv1": 6, "depthwise": 2, "pointwise": 8},
    "branches": {},
    "gated": {"value": 8},
    "flipped": {"conv1": 8},
}


def trace_side(side, architecture):
    model = side.build(architecture)
    return model, sec.trace(model, side.inputs(architecture))


def half(network):
    """Every other channel of each group."""
    return network.cut({g.name: range(0, len(g) - 1, 2) for g in network.groups if len(g) > 1})


def close(mine, theirs, tolerance=1e-4):
    return np.abs(mine - theirs).max() <= tolerance * np.abs(theirs).max()


@on_all
def test_the_networks_are_the_same(architecture):
    one, other = (side.outputs(side.build(architecture), architecture) for side in SIDES.values())
    assert close(one, other)


@on_all
def test_both_find_the_same_groups(architecture):
    found = []
    for side in SIDES.values():
        _, network = trace_side(side, architecture)
        found.append(
            {
                frozenset((m.layer, m.role) for m in group.members if m.role is not Role.OTHER): (
                    len(group),
                    group.with_role(Role.FILTER)[0].each,
                )
                for group in network.groups
            }
        )
        if GROUPS[architecture] and architecture != "mobile":
            assert {g.name: len(g) for g in network.groups} == GROUPS[architecture]
    sizes = [sorted(size for size, _ in groups.values()) for groups in found]
    assert sizes[0] == sizes[1]
    if architecture != "mobile":  # its depthwise multiplier is an axis of its own in Keras alone
        assert found[0] == found[1]


@on_all
def test_both_count_the_same_costs(architecture):
    networks = [trace_side(side, architecture)[1] for side in SIDES.values()]
    for measure in ("params", "macs"):
        assert len({getattr(network, measure)() for network in networks}) == 1
    if architecture != "mobile":
        cuts = [network.cost(half(network)) for network in networks]
        assert (cuts[0].params, cuts[0].macs) == (cuts[1].params, cuts[1].macs)


@on_all
@pytest.mark.parametrize("criterion", ["l1", "l1_mean", "l2", "linf"])
def test_the_same_weights_score_the_same(architecture, criterion):
    scores = [sec.score(trace_side(side, architecture)[1], criterion) for side in SIDES.values()]
    mine, theirs = (sorted(map(sorted, values.values())) for values in scores)
    assert len(mine) == len(theirs)
    for one, other in zip(mine, theirs, strict=True):
        assert np.allclose(one, other, rtol=1e-5, atol=0)


@pytest.mark.parametrize("architecture", ["plain", "residual", "branches", "gated"])
def test_the_same_plan_gives_the_same_small_network(architecture):
    given, cuts = [], []
    for side in SIDES.values():
        model, network = trace_side(side, architecture)
        cut = sec.plan(network, sec.score(network, "l2"), sec.Budget(params=0.6))
        small = sec.apply(model, cut, side.inputs(architecture), network=network)
        given.append(side.outputs(small, architecture))
        cuts.append({name: c.removed for name, c in cut.channels.items() if c.removed})
    assert cuts[0] == cuts[1]
    assert close(given[0], given[1])


@on_both
@on_all
def test_a_cut_is_proven_and_costs_what_was_foretold(side, architecture):
    model, network = trace_side(side, architecture)
    before = side.state(model)
    cut = half(network)
    small = sec.apply(model, cut, side.inputs(architecture), network=network)
    assert sec.report_of(small).proof.holds
    assert sec.report_of(small).cut == cut
    assert bool(sec.report_of(small).proof.inexact) == (architecture == "gated")
    assert side.params(small) == network.params(cut)
    again = sec.trace(small, side.inputs(architecture))
    assert (again.params(), again.macs()) == (network.params(cut), network.macs(cut))
    assert type(small) is type(model)
    assert all(np.array_equal(a, b) for a, b in zip(side.state(model), before, strict=True))


@on_both
@on_all
def test_a_cut_of_nothing_changes_nothing(side, architecture):
    model, network = trace_side(side, architecture)
    same = sec.apply(model, network.cut({}), side.inputs(architecture), network=network)
    assert np.array_equal(side.outputs(same, architecture), side.outputs(model, architecture))


@on_both
@on_all
def test_two_cuts_in_turn_are_one(side, architecture):
    model, network = trace_side(side, architecture)
    x = side.inputs(architecture)
    first = network.cut({g.name: [1] for g in network.groups if len(g) > 2})
    between = sec.apply(model, first, x, network=network)
    again = sec.trace(between, x)
    second = again.cut({g.name: [0] for g in again.groups if len(g) > 1})
    after = sec.apply(between, second, x, network=again)
    both = sec.Cut.from_json(first.then(second).to_json())
    assert both == sec.report_of(after).cut
    at_once = sec.apply(model, both, x, proof=False)
    assert np.array_equal(side.outputs(at_once, architecture), side.outputs(after, architecture))


@on_both
@on_all
def test_what_is_saved_is_loaded(side, architecture, tmp_path):
    model, network = trace_side(side, architecture)
    small = sec.apply(model, half(network), side.inputs(architecture), network=network)
    sec.save(small, tmp_path / "small.safetensors")
    loaded = sec.load(side.build(architecture), tmp_path / "small.safetensors")
    assert np.array_equal(side.outputs(loaded, architecture), side.outputs(small, architecture))
    assert sec.report_of(loaded).cut == sec.report_of(small).cut


@on_both
def test_couplings_are_followed_by_hand_too(side):
    model = side.build("residual")
    x = side.inputs("residual")
    small = sec.delete_channels(model, {"conv2": [0, 3], "bn1": [5]}, x)
    shapes = {name: cut.shape_after for name, cut in sec.report_of(small).cut.tensors.items()}
    assert sorted(shapes[f"stem.{side.weight}"])[-2:] == [3, 6]
    assert sorted(shapes[f"conv1.{side.weight}"])[-2:] == [5, 6]
    assert 6 in shapes[f"head.{side.weight}"]
    assert sec.report_of(small).proof.holds


@on_both
def test_several_layers_are_cut_in_one_go(side):
    model = side.build("plain")
    x = side.inputs("plain")
    at_once = sec.delete_channels(model, {"conv1": [0], "conv2": [1, 2], "hidden": [9]}, x)
    in_turn = model
    for layer, indices in (("conv1", [0]), ("conv2", [1, 2]), ("hidden", [9])):
        in_turn = sec.delete_channels(in_turn, {layer: indices}, x)
    assert np.array_equal(side.outputs(at_once, "plain"), side.outputs(in_turn, "plain"))


@on_both
def test_all_in_one_call(side):
    model = side.build("plain")
    result = sec.prune(model, side.inputs("plain"), sec.Budget(macs=0.5), criterion="l1_mean")
    network = sec.trace(result.model, side.inputs("plain"))
    assert network.macs() <= 0.5 * sec.trace(model, side.inputs("plain")).macs()
    assert result.report.proof.holds


@on_both
def test_frozen_parameters_stay_frozen(side):
    model = side.build("plain")
    side.freeze(model, "conv1")
    small = sec.delete_channels(model, {"conv1": [0]}, side.inputs("plain"))
    assert side.is_frozen(small, "conv1")
    assert not side.is_frozen(small, "conv2")


@on_both
@pytest.mark.parametrize(
    ("channels", "error", "message"),
    [
        ({"conv9": [0]}, sec.UnknownNameError, "no layer with weights named 'conv9'; did you mean"),
        ({"conv1": [8]}, sec.CutError, "conv1: expected indices of 0 to 7; received 8"),
        ({"conv1": [-1]}, sec.CutError, "conv1: expected indices of 0 to 7; received -1"),
        ({"conv1": [2, 2]}, sec.CutError, "conv1: expected each index once; received 2 twice"),
        ({"conv1": range(8)}, sec.CutError, "conv1: expected a cut that leaves at least one"),
        ({"head": [0]}, sec.CutError, "head: filter 0 cannot be removed: it is the network's out"),
    ],
)
def test_bad_requests_name_the_layer(side, channels, error, message):
    with pytest.raises(error, match=message):
        sec.delete_channels(side.build("plain"), channels, side.inputs("plain"))


@on_both
def test_a_wrong_rule_is_detected(side, monkeypatch):
    side.mislead(monkeypatch)
    model, network = trace_side(side, "flipped")
    before = side.state(model)
    with pytest.raises(sec.CutError, match="does not do what the dense one does"):
        sec.apply(model, network.cut({"conv1": [0, 1]}), side.inputs("flipped"))
    assert all(np.array_equal(a, b) for a, b in zip(side.state(model), before, strict=True))


@on_both
def test_a_cut_for_another_network_is_refused(side):
    _, network = trace_side(side, "plain")
    with pytest.raises(sec.CutError, match=r"conv1|conv2|hidden|head"):
        sec.apply(side.build("residual"), half(network), side.inputs("residual"))


@on_both
def test_inputs_that_do_not_fit_are_refused(side):
    with pytest.raises(sec.ModelError, match="expected"):
        sec.trace(side.build("plain"), side.inputs("gated"))
