import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.channels.tensors import Mask
from secateurs.pytorch.proof.masked_twin import MaskedTwin
from secateurs.pytorch.tracing.interpreter import aten
from secateurs.pytorch.tracing.op_call import Call
from support.deep_network import Deep, trace_with_cut, x


def test_the_masked_twin_is_the_model_with_consumers_masked():
    """Against forward pre-hooks that zero the removed channels where they are read."""
    model = Deep().eval()
    network, _, alive = trace_with_cut(model)
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
    changed = twin.ignore_removed(call, operation)
    assert (changed["weight"] is weight) == (x.numel() <= weight.numel())
    assert (changed["input"] is x) == (x.numel() > weight.numel())
    assert MaskedTwin([], ~np.isin(units, gone)).ignore_removed(call, operation)["weight"] is weight


def test_a_removed_channel_that_is_not_finite_is_masked():
    model = Deep().eval()
    with torch.no_grad():
        model.first.bias[0] = torch.inf
    network = sec.trace(model, x())
    small = sec.apply(model, network.cut({"first": [0]}), x(), network=network)
    assert small(x()).isfinite().all()
    assert not model(x()).isfinite().all()


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
