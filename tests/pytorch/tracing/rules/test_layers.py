"""Layers that are one operation: recurrent ones, attention, normed weights, Fourier transforms.

Each cut is held against the dense model whose readers of the removed channels are zeroed by hand.
"""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec


def channels_of(network):
    return {group.name: len(group) for group in network.groups}


def agree(small, dense, *inputs):
    """Whether two models of random weights say the same."""
    with torch.no_grad():
        one, other = small(*inputs), dense(*inputs)
    assert other.abs().max() > 1e-2
    return torch.allclose(one, other, atol=1e-6)


# -- recurrent layers

GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}


class Reader(nn.Module):
    """A layer before and a layer behind a recurrent one."""

    def __init__(self, kind, layers, both_ways, biases=True):
        super().__init__()
        self.into = nn.Linear(3, 5)
        self.rec = kind(5, 4, layers, bias=biases, batch_first=True, bidirectional=both_ways)
        self.head = nn.Linear(4 * (1 + both_ways), 2)

    def forward(self, x):
        return self.head(self.rec(self.into(x))[0])


@pytest.mark.parametrize(("layers", "both_ways", "biases"), [(1, False, False), (2, True, True)])
@pytest.mark.parametrize("kind", GATES)
def test_a_hidden_unit_goes_from_every_gate_layer_and_direction(kind, layers, both_ways, biases):
    model, x = Reader(kind, layers, both_ways, biases).eval(), torch.randn(2, 6, 3)
    network = sec.trace(model, x)
    into, hidden = channels_of(network)
    assert channels_of(network) == {into: 5, hidden: 4}
    small = sec.apply(model, network.cut({into: [4], hidden: [1, 2]}), x, network=network)

    dense, sides = copy.deepcopy(model), 1 + both_ways
    gone = [4 * side + unit for side in range(sides) for unit in (1, 2)]
    with torch.no_grad():
        dense.head.weight[:, gone] = 0
        for name, weight in dense.rec.named_parameters():
            if name.startswith("weight_hh"):
                weight[:, [1, 2]] = 0
            elif name.startswith("weight_ih"):
                weight[:, [4] if "_l0" in name else gone] = 0
    assert agree(small, dense, x)
    assert (small.rec.input_size, small.rec.hidden_size) == (4, 2)
    kept = [4 * gate + unit for gate in range(GATES[kind]) for unit in (0, 3)]
    assert torch.equal(small.rec.weight_hh_l0, model.rec.weight_hh_l0[kept][:, [0, 3]])

    reads = [4 + 2] + [2 * sides + 2] * (layers - 1)  # what each gate of each unit sums over
    macs = 12 * (3 * 4 + 2 * sides * GATES[kind] * sum(reads) + 2 * sides * 2)
    assert network.cost(sec.report_of(small).cut).macs == sec.trace(small, x).cost().macs == macs


@pytest.mark.parametrize("kind", GATES)
def test_a_state_that_is_handed_on_loses_the_units_of_both(kind):
    class Translator(nn.Module):
        def __init__(self):
            super().__init__()
            self.reads, self.writes = (kind(3, 4, batch_first=True) for _ in range(2))
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.writes(x.flip(1), self.reads(x)[1])[0])

    model, x = Translator().eval(), torch.randn(2, 6, 3)
    network = sec.trace(model, x)
    (only,) = channels_of(network).items()
    assert only[1] == 4
    small = sec.apply(model, network.cut({only[0]: [1]}), x, network=network)
    dense = copy.deepcopy(model)
    with torch.no_grad():
        for weight in (dense.reads.weight_hh_l0, dense.writes.weight_hh_l0, dense.head.weight):
            weight[:, 1] = 0
    assert agree(small, dense, x)


def test_a_state_of_the_users_keeps_its_width():
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.rec, self.head = nn.GRU(3, 4), nn.Linear(4, 2)

        def forward(self, x, state):
            return self.head(self.rec(x, state)[0])

    network = sec.trace(Steps(), (torch.randn(6, 2, 3), torch.randn(1, 2, 4)))
    assert not network.groups
    assert any("network's input" in reason for one in network.frozen for reason in one.reasons)


def test_a_recurrent_layer_with_a_projection_is_left_alone():
    class Projected(nn.Module):
        def __init__(self):
            super().__init__()
            self.into, self.rec = nn.Linear(3, 5), nn.LSTM(5, 4, proj_size=2)

        def forward(self, x):
            return self.rec(self.into(x))[0]

    assert not sec.trace(Projected(), torch.randn(6, 2, 3)).groups


class Steps(nn.Module):
    """A cell that the model's own loop runs, one step at a time."""

    def __init__(self, kind):
        super().__init__()
        self.into, self.cell, self.head = nn.Linear(3, 5), kind(5, 4), nn.Linear(4, 2)

    def forward(self, x):
        hidden = memory = x.new_zeros(len(x), self.cell.hidden_size)
        for step in self.into(x).unbind(1):
            if isinstance(self.cell, nn.LSTMCell):
                hidden, memory = self.cell(step, (hidden, memory))
            else:
                hidden = self.cell(step, hidden)
        return self.head(hidden)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_a_cell_loses_units_and_inputs(kind):
    torch.manual_seed(0)
    model, x = Steps(kind).eval(), torch.randn(2, 6, 3)
    network = sec.trace(model, x)
    into, hidden = channels_of(network)
    assert channels_of(network) == {into: 5, hidden: 4}
    small = sec.apply(model, network.cut({into: [4], hidden: [1, 2]}), x, network=network)
    dense = copy.deepcopy(model)
    with torch.no_grad():
        dense.head.weight[:, [1, 2]] = dense.cell.weight_hh[:, [1, 2]] = 0
        dense.cell.weight_ih[:, 4] = 0
    assert agree(small, dense, x)
    assert (small.cell.input_size, small.cell.hidden_size) == (4, 2)


# -- attention


class Heads(nn.Module):
    """Attention with several query heads for each head of keys and values."""

    def __init__(self, queries, shared, mask=None):
        super().__init__()
        self.mask = mask
        self.q = nn.Linear(6, queries * 4)
        self.k, self.v = (nn.Linear(6, shared * 4) for _ in range(2))
        self.out = nn.Linear(queries * 4, 3)

    def forward(self, x):
        q, k, v = (
            make(x).unflatten(-1, (-1, 4)).transpose(1, 2) for make in (self.q, self.k, self.v)
        )
        grouped = q.shape[1] != k.shape[1]
        mixed = F.scaled_dot_product_attention(q, k, v, self.mask, enable_gqa=grouped)
        return self.out(mixed.transpose(1, 2).flatten(2))


MASKS = {
    "none": lambda: None,
    "causal": lambda: torch.ones(5, 5, dtype=torch.bool).tril(),
    "learned for each head": lambda: nn.Parameter(torch.randn(6, 5, 5)),
}


@pytest.mark.parametrize("mask", MASKS)
def test_a_head_of_keys_goes_with_all_its_queries(mask):
    model, x = Heads(6, 3, MASKS[mask]()).eval(), torch.randn(2, 5, 6)
    network = sec.trace(model, x)
    found = channels_of(network)
    assert sorted(found.values()) == [2, 3]
    name = next(name for name, number in found.items() if number == 3)
    small = sec.apply(model, network.cut({name: [1]}), x, network=network)
    heads = torch.arange(24).view(6, 4)
    assert torch.equal(small.k.weight, model.k.weight[heads[[0, 2]].flatten()])
    assert torch.equal(small.q.weight, model.q.weight[heads[[0, 1, 4, 5]].flatten()])
    if mask == "learned for each head":
        assert torch.equal(small.mask, model.mask[[0, 1, 4, 5]])
    dense = copy.deepcopy(model)
    with torch.no_grad():
        dense.out.weight[:, heads[[2, 3]].flatten()] = 0
    assert agree(small, dense, x)


def test_one_query_of_every_head_of_keys_goes():
    model, x = Heads(6, 2).eval(), torch.randn(2, 5, 6)
    network = sec.trace(model, x)
    name = next(name for name, number in channels_of(network).items() if number == 3)
    small = sec.apply(model, network.cut({name: [1]}), x, network=network)
    heads = torch.arange(24).view(6, 4)
    assert torch.equal(small.q.weight, model.q.weight[heads[[0, 2, 3, 5]].flatten()])
    assert torch.equal(small.k.weight, model.k.weight)
    dense = copy.deepcopy(model)
    with torch.no_grad():
        dense.out.weight[:, heads[[1, 4]].flatten()] = 0
    assert agree(small, dense, x)


@pytest.mark.parametrize("shared", [6, 3])
def test_attention_costs_two_products_of_every_query_head(shared):
    model, x = Heads(6, shared).eval(), torch.randn(2, 5, 6)
    projections = 10 * 6 * (24 + 2 * 4 * shared) + 10 * 24 * 3
    products = 2 * (2 * 6 * 5 * 5 * 4)
    assert sec.trace(model, x).cost().macs == projections + products


def test_heads_that_share_a_fixed_one_stay():
    class Fixed(Heads):
        def forward(self, x):
            q = self.q(x).unflatten(-1, (-1, 4)).transpose(1, 2)
            keys = torch.linspace(-1, 1, 120).view(1, 2, 15, 4)
            mixed = F.scaled_dot_product_attention(q, keys, keys, enable_gqa=True)
            return self.out(mixed.transpose(1, 2).flatten(2))

    network = sec.trace(Fixed(6, 2).eval(), torch.randn(2, 5, 6))
    assert not network.groups
    reasons = [reason for one in network.frozen for reason in one.reasons]
    assert any("grouped attention with heads that stay" in reason for reason in reasons)


# -- weights that are computed, and transforms


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("layer", [nn.Linear, partial(nn.Conv2d, kernel_size=3)])
def test_weight_norm_keeps_the_lengths_of_what_stays(layer, axis):
    """Along the filters a cut is exact; along their inputs the lengths are those of what stays."""
    normed = nn.utils.parametrizations.weight_norm(layer(6, 4), dim=axis)
    model = nn.Sequential(layer(3, 6), nn.ReLU(), normed, nn.ReLU(), layer(4, 2))
    with torch.no_grad():
        normed.parametrizations.weight.original0.uniform_(0.5, 2)
    x = torch.randn(2, 3) if layer is nn.Linear else torch.randn(2, 3, 8, 8)
    network = sec.trace(model, x)
    names = {number: name for name, number in channels_of(network).items()}
    assert sorted(names) == [4, 6]
    small = sec.apply(model, network.cut({names[6]: [0], names[4]: [2]}), x, network=network)
    g, v = (getattr(normed.parametrizations.weight, f"original{i}").detach() for i in range(2))
    v = v[[0, 1, 3]][:, 1:]
    g = g[[0, 1, 3]] if axis == 0 else g[:, 1:]
    others = [at for at in range(v.dim()) if at != axis]
    lengths = torch.linalg.vector_norm(v, dim=others, keepdim=True)
    assert torch.allclose(small[2].weight, g * v / lengths, atol=1e-6)


@pytest.mark.parametrize(("axis", "free"), [(1, False), (2, True)])
def test_a_transform_freezes_what_it_runs_along(axis, free):
    class Spectral(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv1d(3, 8, 1), nn.Conv1d(8, 2, 1)

        def forward(self, x):
            spectrum = torch.fft.rfft(self.conv(x), dim=axis)
            return self.head(torch.fft.irfft(spectrum, x.shape[-1] if free else 8, dim=axis))

    network = sec.trace(Spectral(), torch.randn(2, 3, 6))
    assert list(channels_of(network).values()) == ([8] if free else [])
    reasons = [reason for one in network.frozen for reason in one.reasons]
    assert any("_fft_r2c over it" in reason for reason in reasons) == (not free)
