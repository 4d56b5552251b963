"""The proof finds what is wrong, wherever it is, and names the layer."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec
from secateurs.channels.tensors import Mask
from secateurs.pytorch.proof.comparison import prove
from secateurs.pytorch.proof.differences import largest_difference, precision_of
from secateurs.pytorch.proof.masked_twin import MaskedTwin
from secateurs.pytorch.surgery.slicing import cut_copy
from secateurs.pytorch.tracing import rules
from secateurs.pytorch.tracing.interpreter import aten
from secateurs.pytorch.tracing.op_call import Call


class Deep(nn.Module):
    def __init__(self, zero_head=False):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)
        nn.init.normal_(self.norm.bias)  # so that relu(norm(0)) is not 0
        if zero_head:
            nn.init.zeros_(self.head.weight)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        return self.head(F.relu(self.second(x)).mean((2, 3)))


def x():
    return torch.randn(2, 3, 8, 8)


def traced(model):
    network = sec.trace(model, x())
    cut = network.cut({"first": [0, 3], "second": [2]})
    alive = network.alive(network.removed_by(cut))
    return network, cut, alive


def test_the_masked_twin_is_the_model_with_consumers_masked():
    """Against forward pre-hooks that zero the removed channels where they are read."""
    model = Deep().eval()
    network, _, alive = traced(model)
    twin = MaskedTwin(network.source.operations, network.solution.mark_kept(alive))
    inputs = x()
    received = twin.run(model, (inputs,), {})

    def zero(channels):
        def hook(_, args):
            value = args[0].clone()
            value[:, channels] = 0
            return (value,)

        return hook

    model.second.register_forward_pre_hook(zero([0, 3]))
    model.head.register_forward_pre_hook(zero([2]))
    with torch.no_grad():
        expected = model(inputs)
    assert torch.allclose(received, expected, atol=1e-6)
    with torch.no_grad():  # zeroing what makes them is something else
        model.second._forward_pre_hooks.clear()
        model.first.weight[[0, 3]] = 0
        model.first.bias[[0, 3]] = 0
        assert not torch.allclose(received, model(inputs), atol=1e-3)


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("size", [1, 9])
def test_a_convolution_ignores_channels_in_its_weight_or_its_input(groups, size):
    """Whichever is smaller: the result is that of an input without these channels."""
    torch.manual_seed(0)
    x, weight = torch.randn(2, 8, size, size), torch.randn(8, 8 // groups, 3, 3)
    units, gone = np.arange(8), np.array([1, 2, 6])
    options = {"padding": [1, 1], "groups": groups}
    call = Call(aten.conv2d.default, (x, weight, torch.randn(8)), options)
    operation = SimpleNamespace(masks=[Mask(0, 1, units)], mixed=())
    twin = MaskedTwin([], ~np.isin(units, gone), frugal=True)
    without = x.clone()
    without[:, gone] = 0
    received = twin.ignoring_removed(call, operation)
    torch.testing.assert_close(received, call.with_arguments(input=without).run())
    changed = twin._ignoring(call, operation)
    assert (changed["weight"] is weight) == (x.numel() <= weight.numel())
    assert (changed["input"] is x) == (x.numel() > weight.numel())
    assert MaskedTwin([], ~np.isin(units, gone))._ignoring(call, operation)["weight"] is weight


def test_a_removed_channel_that_is_not_finite_is_silenced_all_the_same():
    model = Deep().eval()
    with torch.no_grad():
        model.first.bias[0] = torch.inf
    network = sec.trace(model, x())
    small = sec.apply(model, network.cut({"first": [0]}), x(), network=network)
    assert small(x()).isfinite().all()
    assert not model(x()).isfinite().all()


@pytest.mark.parametrize("zero_head", [False, True])
@pytest.mark.parametrize("layer", ["first", "second"])
def test_a_wrong_weight_is_found_and_its_layer_named(layer, zero_head):
    """Even where the head is zero, so that the output is the same whatever is inside."""
    model = Deep(zero_head)
    network, cut, alive = traced(model)
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
    network, cut, alive = traced(model)
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
    network, cut, alive = traced(model)
    small = cut_copy(model, cut)
    with torch.no_grad():
        small.first.weight.mul_(1.02)
        small.second.weight.mul_(-3)
    with pytest.raises(sec.CutError, match=r"come apart in first \(by up to [1-9]"):
        prove(network, small, alive, x())


def test_where_two_axes_are_summed_over_both_are_masked():
    class Pairs(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 5)
            self.table = nn.Parameter(torch.randn(4, 5, 2))

        def forward(self, x):
            pairs = self.a(x).exp()[:, :, None] * self.b(x).exp()[:, None, :]
            return torch.einsum("nij,ijo->no", pairs, self.table)

    model, inputs = Pairs().eval(), torch.randn(2, 3)
    network = sec.trace(model, inputs)
    cut = network.cut({"a": [0], "b": [1, 3]})
    small = sec.apply(model, cut, inputs, network=network)
    with torch.no_grad():
        dense = copy.deepcopy(model)
        dense.table[0] = dense.table[:, [1, 3]] = 0
        assert torch.allclose(small(inputs), dense(inputs), atol=1e-5)


@pytest.mark.parametrize("unit", range(6))
def test_of_few_values_each_is_compared(unit):
    model = nn.Sequential(nn.Linear(3, 7), nn.Sigmoid(), nn.Linear(7, 2))
    nn.init.zeros_(model[2].weight)
    inputs = torch.randn(1, 3)
    network = sec.trace(model, inputs)
    cut = network.cut({"0": [6]})
    small = cut_copy(model, cut)
    with torch.no_grad():
        small[0].bias[unit] += 0.5
    with pytest.raises(sec.CutError, match="come apart in 0"):
        prove(network, small, network.alive(network.removed_by(cut)), inputs)


def test_the_coarsest_type_says_what_rounding_explains():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).bfloat16(), nn.Linear(2, 2).double())
    assert precision_of(model) == torch.bfloat16


class Winding(nn.Module):
    """Products of the model's own weights; how many, and what is before, values decide."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = (
            nn.Parameter(torch.randn(shape)) for shape in ((3, 8), (8, 6), (6, 2))
        )

    def forward(self, x):
        if x.sum() > 0:
            x = x * 2
        x = torch.relu(torch.relu(x @ self.one) @ self.two) @ self.three
        return x if x.abs().sum() < 1e6 else (x @ self.three.T) @ self.three


def test_on_another_path_an_operation_is_known_by_its_place_in_its_layer():
    model, inputs = Winding().eval(), -torch.rand(4, 3)
    network = sec.trace(model, inputs)
    cut = network.cut({"one": [1, 2, 5], "two": [0]})
    small = sec.apply(model, cut, -inputs, network=network)
    dense = copy.deepcopy(model)
    with torch.no_grad():
        dense.two[[1, 2, 5]] = 0
        dense.three[[0]] = 0
        assert torch.allclose(small(-inputs), dense(-inputs), atol=1e-5)
    assert sec.report_of(small).proof.holds
    assert sec.report_of(small).proof.inside < 1e-3
    with pytest.raises(sec.CutError, match=r"nothing can be proven: operation \d+ .* aten.matmul"):
        sec.apply(model, cut, 1e9 * inputs, network=network)


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
    monkeypatch.setattr("secateurs.pytorch.proof.comparison._in_double_precision", lambda *_: None)
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


def test_a_model_of_another_shape_is_infinitely_different():
    assert largest_difference(torch.zeros(2), torch.zeros(3))[0] == float("inf")
    assert largest_difference(torch.ones(2), torch.zeros(2)) == (1.0, 0.0)
    assert np.isinf(largest_difference(torch.tensor([np.nan]), torch.zeros(1))[0])
