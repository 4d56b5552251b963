"""The proof finds errors anywhere and names the layer."""

import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.pytorch.proof.comparison import prove
from secateurs.pytorch.surgery.slicing import cut_copy
from secateurs.pytorch.tracing import rules
from secateurs.pytorch.tracing.interpreter import aten
from support.deep_network import Deep, trace_with_cut, x


@pytest.mark.parametrize("zero_head", [False, True])
@pytest.mark.parametrize("layer", ["first", "second"])
def test_a_wrong_weight_is_found_and_its_layer_named(layer, zero_head):
    """Even where the head is zero, so that the output is the same whatever is inside."""
    model = Deep(zero_head)
    network, cut, alive = trace_with_cut(model)
    small = cut_copy(model, cut)
    assert prove(network, small, alive, x()).holds
    with torch.no_grad():
        weight = getattr(small, layer).weight
        weight.copy_(weight.flip(0))
    with pytest.raises(sec.CutError, match=layer):
        prove(network, small, alive, x())


@pytest.mark.parametrize(
    ("layer", "error", "holds"),
    [("head", 1e-3, False), ("head", 1e-6, True), ("first", 2e-2, False), ("first", 1e-5, True)],
)
def test_errors_larger_than_rounding_are_refused(layer, error, holds):
    """A ten-thousandth of the output; a thousandth of what is inside, where the head is zero."""
    model = Deep(zero_head=layer == "first")
    network, cut, alive = trace_with_cut(model)
    small, inputs = cut_copy(model, cut), x()
    with torch.no_grad():
        getattr(small, layer).weight.mul_(1 + error)
        if layer == "head":
            small.head.bias.mul_(1 + error)
    if holds:
        assert prove(network, small, alive, inputs).holds
    else:
        with pytest.raises(sec.CutError, match=layer):
            prove(network, small, alive, inputs)


def test_the_layer_named_is_where_it_begins_not_where_it_is_worst():
    model = Deep()
    network, cut, alive = trace_with_cut(model)
    small = cut_copy(model, cut)
    with torch.no_grad():
        small.first.weight.mul_(1.02)
        small.second.weight.mul_(-3)
    with pytest.raises(sec.CutError, match=r"the largest difference inside is in first \([1-9]"):
        prove(network, small, alive, x())


@pytest.mark.parametrize("unit", range(6))
def test_every_value_of_a_small_result_is_compared(unit):
    model = nn.Sequential(nn.Linear(3, 7), nn.Sigmoid(), nn.Linear(7, 2))
    nn.init.zeros_(model[2].weight)
    inputs = torch.randn(1, 3)
    network = sec.trace(model, inputs)
    cut = network.cut({"0": [6]})
    small = cut_copy(model, cut)
    with torch.no_grad():
        small[0].bias[unit] += 0.5
    with pytest.raises(sec.CutError, match="inside is in 0"):
        prove(network, small, network.alive(network.removed_by(cut)), inputs)


def test_a_wrong_rule_is_caught_and_nothing_is_left_behind(monkeypatch):
    """Take a flip of the channels for an operation that leaves them where they are."""
    model = nn.Sequential(nn.Conv2d(3, 6, 1), Flip(), nn.Conv2d(6, 2, 1))
    monkeypatch.setitem(rules.RULES, aten.flip, rules.RULES[aten.clone])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(sec.CutError, match="The cut was not made"):
        sec.delete_channels(model, {"0": [0]}, x())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    monkeypatch.undo()
    assert sec.report_of(sec.delete_channels(model, {"0": [0]}, x())).proof.holds


class Flip(nn.Module):
    def forward(self, x):
        return x.flip(1)


class Cancels(nn.Module):
    """Two sums that are the same but for a ten-thousandth: single precision loses the rest."""

    def __init__(self, own_type=None):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(64, 512), nn.Linear(512, 3), nn.Linear(512, 3)
        self.own_type = own_type
        with torch.no_grad():
            self.b.weight.abs_()
            self.c.weight.copy_(self.b.weight + 1e-5 * torch.randn(3, 512))
            self.c.bias.copy_(self.b.bias)

    def forward(self, x):
        if self.own_type is not None:
            x = x @ torch.eye(64, dtype=self.own_type)
        wide = torch.relu(self.a(x))
        return self.b(wide) - self.c(wide)


def test_rounding_is_told_from_mistakes_in_double_precision(monkeypatch):
    torch.manual_seed(0)
    model, inputs = Cancels(), torch.randn(2, 64)
    network = sec.trace(model, inputs)
    cut = network.cut({"a": range(0, 512, 2)})
    proof = sec.report_of(sec.apply(model, cut, inputs, network=network)).proof
    assert proof.holds
    assert proof.max_difference < 1e-9 * proof.scale == proof.tolerance  # of double precision
    monkeypatch.setattr(
        "secateurs.pytorch.proof.comparison.compare_in_double_precision", lambda *_: None
    )
    with pytest.raises(sec.CutError, match="the cut model does not do what the dense one does"):
        sec.apply(model, cut, inputs, network=network)


def test_a_second_look_that_cannot_be_had_does_not_count():
    """The model makes a table of single precision, which double does not multiply with."""
    torch.manual_seed(0)
    model, inputs = Cancels(torch.float32), torch.randn(2, 64)
    network = sec.trace(model, inputs)
    cut = network.cut({"a": [0]})
    small = cut_copy(model, cut)
    alive = network.alive(network.removed_by(cut))
    with torch.no_grad():
        small.b.weight.mul_(1.001)
    with pytest.raises(sec.CutError, match="the cut model does not do what the dense one does"):
        prove(network, small, alive, inputs)


def test_answers_without_values_prove_nothing():
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    network = sec.trace(model, torch.randn(2, 3))
    cut = network.cut({"0": [1]})
    with pytest.raises(sec.CutError, match="Nothing can be proven"):
        sec.apply(model, cut, torch.randn(0, 3), network=network)


def test_weights_that_are_not_finite_prove_nothing():
    model = Deep()
    with torch.no_grad():
        model.second.weight[0, 0] = float("nan")
    with pytest.raises(sec.CutError, match=r"second\.weight holds NaN"):
        sec.delete_channels(model, {"first": [1]}, x())


def test_a_single_wrong_channel_is_found_among_hundreds():
    """Where the head is zero, so that no later value differs."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 600, 3), nn.BatchNorm2d(600), nn.Conv2d(600, 4, 1), nn.Flatten()
    ).eval()
    nn.init.uniform_(model[1].weight, 0.5, 1.5)
    nn.init.zeros_(model[2].weight)
    images = torch.randn(1, 3, 6, 6)
    network = sec.trace(model, images)
    cut = network.cut({"0": range(0, 600, 2)})
    small, alive = cut_copy(model, cut), network.alive(network.removed_by(cut))
    assert prove(network, small, alive, images).holds
    for channel in range(0, 300, 23):
        right = small[1].weight[channel].item()
        with torch.no_grad():
            small[1].weight[channel] = small[1].weight[channel - 1]
        with pytest.raises(sec.CutError, match=r"difference inside is in 1 \("):
            prove(network, small, alive, images)
        with torch.no_grad():
            small[1].weight[channel] = right
    assert prove(network, small, alive, images).holds
