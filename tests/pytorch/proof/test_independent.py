"""The independent proof finds errors that rules and masked twin share."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import secateurs as sec
from secateurs.channels.cut import Cut, TensorCut
from secateurs.pytorch.proof.independent import prove_independently
from secateurs.pytorch.tracing import rules
from secateurs.pytorch.tracing.interpreter import aten
from secateurs.pytorch.tracing.rules import contraction, reduction
from support.random_networks import RandomNetwork, example, recipes
from support.small_networks import Attention, Grouped, Residual, images


class Computed(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight / self.weight.norm(), self.bias)


class Turned(nn.Module):
    def forward(self, x):
        return x.flip(1)


def chain(middle, bias=True):
    torch.manual_seed(0)
    ends = nn.Linear(6, 16, bias=bias), nn.Linear(20, 3)
    return nn.Sequential(ends[0], nn.Tanh(), middle, nn.Tanh(), ends[1]).eval()


X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))


def cut_of(network, seed, share=0.5):
    random = np.random.default_rng(seed)
    return network.cut(
        {g.name: random.permutation(len(g))[: int(share * len(g))] for g in network.groups}
    )


@settings(max_examples=25)
@given(recipes(), st.integers(0, 2**16))
def test_random_cuts_of_random_networks_hold(recipe, seed):
    model, inputs = RandomNetwork(recipe).eval(), example()
    network = sec.trace(model, inputs)
    cut = cut_of(network, seed)
    small = sec.apply(model, cut, inputs, network=network, proof="independent")
    proof = sec.report_of(small).proof.independent
    assert proof.channels == cut.removed_channels
    assert proof.max_difference <= 1e-4 * proof.scale


@pytest.mark.parametrize("bias", [True, False])
def test_readers_are_zeroed_and_filters_are_not(bias):
    """By hand: the dense model with the columns of its last layer at zero."""
    model = chain(nn.Linear(16, 20, bias=bias), bias)
    cut = sec.trace(model, X).cut({"2": [1, 5, 6]})
    small = sec.apply(model, cut, X, proof="independent")
    proof = sec.report_of(small).proof.independent
    with torch.no_grad():
        model[4].weight[:, [1, 5, 6]] = 0
        assert proof.scale == pytest.approx(model(X).abs().max().item())
    assert "independent proof of 3 channels" in str(sec.report_of(small))


def without_names(monkeypatch):
    """The rules as they were: sums of weights are taken for what a consumer makes."""
    monkeypatch.setattr(reduction, "measures_size", lambda _: False)
    monkeypatch.setattr(contraction, "is_of_weights_alone", lambda _: False)
    monkeypatch.setitem(rules.RULES, aten.linalg_vector_norm, rules.RULES[aten.sum])


@pytest.mark.parametrize(
    "make", [lambda: Computed(16, 20), lambda: nn.utils.spectral_norm(nn.Linear(16, 20))]
)
def test_a_norm_of_weights_missed_by_rules_and_twin_is_found(make, monkeypatch):
    model = chain(make())
    without_names(monkeypatch)
    network = sec.trace(model, X)
    cut = network.cut_of_layers({"2": [0, 3, 4, 11]})
    small = sec.apply(model, cut, X, network=network)
    assert sec.report_of(small).proof.holds  # both sides are wrong alike
    assert sec.report_of(small).proof.inexact == ()
    with pytest.raises(sec.CutError, match=r"^2: expected channels without influence once"):
        sec.apply(model, cut, X, network=network, proof="independent")


def test_readers_through_computed_weights_are_zeroed(monkeypatch):
    """Columns of a layer divided by its norm: at zero, they are in the norm no more."""
    without_names(monkeypatch)
    model = chain(Computed(16, 20))
    small = sec.apply(model, sec.trace(model, X).cut({"0": [2, 3]}), X, proof="independent")
    assert sec.report_of(small).proof.independent.channels == 2


def test_errors_shared_by_rules_and_twin_are_found(monkeypatch):
    """The cut takes filter 1 and, of what reads it in turned order, column 1."""
    model = nn.Sequential(nn.Linear(6, 8), Turned(), nn.Tanh(), nn.Linear(8, 3)).eval()
    wrong = {"0.weight": (8, 6), "0.bias": (8,)}
    cut = Cut(
        {n: TensorCut(s, {0: (1,)}) for n, s in wrong.items()}
        | {"3.weight": TensorCut((3, 8), {1: (1,)})}
    )
    with pytest.raises(sec.CutError, match="0: expected channels without influence"):
        prove_independently(model, cut, X)
    right = Cut(dict(cut.tensors) | {"3.weight": TensorCut((3, 8), {1: (6,)})})
    assert prove_independently(model, right, X).max_difference < 1e-6


def test_a_reader_with_a_wrong_column_removed_is_found():
    model = chain(nn.Linear(16, 20))
    good = sec.trace(model, X).cut({"2": [4]})
    bad = Cut(dict(good.tensors) | {"4.weight": TensorCut((3, 20), {1: (5,)})})
    assert prove_independently(model, good, X).max_difference < 1e-6
    with pytest.raises(sec.CutError, match="2: expected channels without influence"):
        prove_independently(model, bad, X)


@pytest.mark.parametrize("make", [Residual, Grouped, lambda: Attention(norm=False)])
def test_sums_groups_and_heads_hold(make):
    torch.manual_seed(0)
    model = make().eval()
    inputs = torch.from_numpy(images(3))
    network = sec.trace(model, inputs)
    for number, group in enumerate(network.groups):
        if len(group) > 1:
            cut = network.cut({group.name: [number % len(group)]})
            small = sec.apply(model, cut, inputs, network=network, proof="independent")
            assert sec.report_of(small).proof.independent.channels == 1


def test_channels_that_an_operation_mixes_are_named_and_left_out():
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 5), nn.Linear(5, 3)).eval()
    cut = sec.trace(model, X).cut({"0": [1, 2], "2": [0]})
    proof = sec.report_of(sec.apply(model, cut, X, proof="independent")).proof
    assert proof.inexact
    assert proof.independent.channels == 1


def test_prune_passes_it_on_and_the_model_stays_as_it_is():
    model = chain(nn.Linear(16, 20)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pruned = sec.prune(model, X, amount=0.5, proof="independent")
    assert pruned.report.proof.independent.channels == pruned.cut.removed_channels
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    with pytest.raises(sec.CutError, match="expected True, False or"):
        sec.apply(model, pruned.cut, X, proof="twice")


class LowRank(nn.Module):
    def __init__(self):
        super().__init__()
        self.u, self.v = nn.Parameter(torch.randn(8, 4)), nn.Parameter(torch.randn(4, 6))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(F.linear(x, self.u @ self.v).relu())


def test_weights_that_are_multiplied_read_each_other():
    model = LowRank().eval()
    network = sec.trace(model, X)
    assert len(network.groups) == 2
    cut = cut_of(network, 0)
    proof = sec.report_of(sec.apply(model, cut, X, network=network, proof="independent")).proof
    assert proof.independent.channels == cut.removed_channels == 6


class Parametrised(nn.Module):
    def __init__(self, compute):
        super().__init__()
        self.compute = compute

    def forward(self, weight):
        return self.compute(weight)


COMPUTED = {
    "affine": lambda w: 2 * w + 0.1,
    "in place": lambda w: (2 * w).add_(0.1),
    "turned": lambda w: (2 * w.transpose(0, 1) + 0.1).transpose(0, 1),
    "positive": torch.exp,
    "chosen": lambda w: torch.where(w > 0, w, 0.3),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_computed_weights_that_stay_nonzero_are_zeroed(name):
    """By hand: a plain model of the weights as they are computed, with columns at zero."""
    model = chain(nn.Linear(16, 20))
    plain = copy.deepcopy(model)
    for layer in (2, 4):
        torch.nn.utils.parametrize.register_parametrization(
            model[layer], "weight", Parametrised(COMPUTED[name])
        )
        plain[layer].weight.data = COMPUTED[name](plain[layer].weight.data)
    network = sec.trace(model, X)
    reader = next(g.name for g in network.groups if g.name.startswith("2"))
    cut = network.cut({"0": [2, 7], reader: [1, 5, 6]})
    small = sec.apply(model, cut, X, network=network, proof="independent")
    proof = sec.report_of(small).proof.independent
    with torch.no_grad():
        plain[2].weight[:, [2, 7]] = 0
        plain[4].weight[:, [1, 5, 6]] = 0
        assert proof.channels == 5
        assert proof.scale == pytest.approx(plain(X).abs().max().item())
        torch.testing.assert_close(small(X), plain(X))


def test_weights_tied_by_one_sum_cannot_be_zeroed(monkeypatch):
    """A mean over columns moves those that stay: no zero can be put in its place."""
    without_names(monkeypatch)
    monkeypatch.setitem(rules.RULES, aten.mean, rules.RULES[aten.sum])
    model = chain(nn.Linear(16, 20))
    torch.nn.utils.parametrize.register_parametrization(
        model[2], "weight", Parametrised(lambda w: w - w.mean(1, keepdim=True) + 0.1)
    )
    wrong = {"0.weight": (16, 6), "0.bias": (16,)}
    cut = Cut(
        {name: TensorCut(shape, {0: (3, 4)}) for name, shape in wrong.items()}
        | {"2.parametrizations.weight.original": TensorCut((20, 16), {1: (3, 4)})}
    )
    with pytest.raises(sec.CutError, match=r"without influence"):
        prove_independently(model, cut, X)


def test_layers_that_do_not_affect_the_outputs_are_named():
    """A normalisation whose variance is far too large lets nothing through: nothing is proven."""
    model = chain(nn.BatchNorm1d(16))
    model[4] = nn.Linear(16, 3)
    loud = sec.apply(model, sec.trace(model, X).cut({"0": [1]}), X, proof="independent")
    assert sec.report_of(loud).proof.independent.unheard == ()
    model[2].running_var.fill_(1e24)
    small = sec.apply(model, sec.trace(model, X).cut({"0": [1]}), X, proof="independent")
    proof = sec.report_of(small).proof.independent
    assert proof.unheard == ("0",)
    assert "not tested, as they do not affect the outputs for these inputs: 0" in str(proof)


def test_small_outputs_count_like_large_ones():
    """Answers of 1e-15: what a wrong cut changes in them is as small."""
    model = chain(nn.Linear(16, 20))
    with torch.no_grad():
        model[4].weight *= 1e-15
        model[4].bias *= 1e-15
    good = sec.trace(model, X).cut({"2": [4]})
    bad = Cut(dict(good.tensors) | {"4.weight": TensorCut((3, 20), {1: (5,)})})
    assert prove_independently(model, good, X).unheard == ()
    with pytest.raises(sec.CutError, match="2: expected channels without influence"):
        prove_independently(model, bad, X)


class WithHidden(nn.Module):
    """Returns what its last layer reads beside its answer."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x):
        hidden = self.a(x).tanh()
        return {"answer": self.b(hidden), "hidden": hidden}


def test_only_the_outputs_in_use_are_compared():
    torch.manual_seed(0)
    model = WithHidden().eval()
    network = sec.trace(model, X, outputs="answer")
    cut = network.cut({"a": [1, 4]})
    small = sec.apply(model, cut, X, network=network, proof="independent")
    assert sec.report_of(small).proof.independent.channels == 2
    dense = copy.deepcopy(model)
    with torch.no_grad():
        dense.b.weight[:, [1, 4]] = 0
    assert torch.allclose(small(X)["answer"], dense(X)["answer"], atol=1e-6)
    with pytest.raises(sec.CutError, match="without influence"):
        prove_independently(model, cut, X)
