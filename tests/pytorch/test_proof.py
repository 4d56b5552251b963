"""The proof finds what is wrong, wherever it is, and names the layer."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec
from secateurs.pytorch import rules
from secateurs.pytorch.counted import aten
from secateurs.pytorch.proof import largest_difference, prove
from secateurs.pytorch.surgery import cut_copy
from secateurs.pytorch.twin import MaskedTwin


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
    twin = MaskedTwin(network.source.operations, network.solution.kept(alive))
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


def test_a_wrong_rule_is_caught_and_nothing_is_left_behind(monkeypatch):
    """Take a flip of the channels for an operation that leaves them where they are."""
    model = nn.Sequential(nn.Conv2d(3, 6, 1), Flip(), nn.Conv2d(6, 2, 1))
    monkeypatch.setitem(rules.RULES, aten.flip, rules.RULES[aten.clone])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(sec.CutError, match="The cut was not made"):
        sec.delete_channels(model, {"0": [0]}, x())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    monkeypatch.undo()
    assert sec.delete_channels(model, {"0": [0]}, x()).report.proof.holds


class Flip(nn.Module):
    def forward(self, x):
        return x.flip(1)


def test_rounding_is_told_from_mistakes_in_double_precision():
    """Huge activations that cancel: single precision differs, double does not."""

    class Cancels(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(64, 4096)
            self.b = nn.Linear(4096, 3)

        def forward(self, x):
            wide = self.a(x) * 1e4
            return self.b(torch.relu(wide)) - self.b(torch.relu(wide)).detach() + self.b.bias

    model = Cancels()
    inputs = torch.randn(2, 64)
    network = sec.trace(model, inputs)
    small = sec.apply(model, network.cut({"a": range(0, 4096, 2)}), inputs, network=network)
    assert small.report.proof.holds


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
