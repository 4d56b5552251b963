import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import secateurs as sec


def channels_of(network):
    return {group.name: len(group) for group in network.groups}


def agree(small, dense, *inputs):
    """Whether two models of random weights say the same."""
    with torch.no_grad():
        one, other = small(*inputs), dense(*inputs)
    assert other.abs().max() > 1e-2
    return torch.allclose(one, other, atol=1e-6)


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


@pytest.mark.parametrize("kind", GATES)
def test_sizes_of_a_layer_follow_where_its_weights_are_computed(kind):
    torch.manual_seed(0)
    model, x = Reader(kind, 1, False).eval(), torch.randn(2, 6, 3)
    plain = copy.deepcopy(model)
    weight_norm(model.rec, "weight_hh_l0", dim=1)  # a norm for each hidden unit that is read
    network = sec.trace(model, x)
    into, hidden = channels_of(network)
    small = sec.apply(model, network.cut({into: [4], hidden: [1, 2]}), x, network=network)
    assert (small.rec.input_size, small.rec.hidden_size) == (4, 2)
    with torch.no_grad():  # the norms are over all gates, some of which go: an inexact cut
        kept = [4 * gate + unit for gate in range(GATES[kind]) for unit in (0, 3)]
        weight = plain.rec.weight_hh_l0
        shrunk = weight[kept].norm(dim=0) / weight.norm(dim=0)
        plain.head.weight[:, [1, 2]] = 0
        plain.rec.weight_ih_l0[:, 4] = 0
        weight[:, [0, 3]] /= shrunk[[0, 3]]
        weight[:, [1, 2]] = 0
    assert agree(small, plain, x)
