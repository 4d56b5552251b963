"""Hard-coded sizes and factors: followed, compensated in the weights, or frozen.

Each cut is held against the dense model whose readers of the removed channels are zeroed by hand.
"""

import copy
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.channels.groups import Group
from secateurs.pytorch.sizes.hardcoded import NEIGHBOURS, different_shares

X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))


class Stream(nn.Module):
    """What attention gives is added to what it was given, without a projection between them."""

    def __init__(self):
        super().__init__()
        self.stem, self.v = nn.Linear(6, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        v = self.v(x).view(2, 5, 2, -1).transpose(1, 2)
        return self.head(x + v.transpose(1, 2).reshape(2, 5, -1))


def test_a_stream_loses_the_same_place_of_every_head():
    model = Stream().eval()
    network = sec.trace(model, X)
    (group,) = network.groups
    assert len(group) == 4
    small = sec.apply(model, network.cut({group.name: [1]}), X, network=network)
    dense = copy.deepcopy(model)
    with torch.no_grad():
        dense.head.weight[:, [1, 5]] = 0
        dense.v.weight[:, [1, 5]] = 0
        assert torch.allclose(small(X), dense(X), atol=1e-6)


class Kinds(nn.Module):
    """Attention whose heads and positions are attributes, laid out in one of many ways."""

    def __init__(self, heads, size, way):
        super().__init__()
        self.heads, self.size, self.way = heads, size, way
        self.qkv, self.out = nn.Linear(6, 3 * heads * size), nn.Linear(heads * size, 3)

    def forward(self, x):
        shape = (2, 5, self.heads, self.size)
        if self.way == "in one view":
            parts = self.qkv(x).view(2, 5, 3, *shape[2:]).unbind(2)
        elif self.way == "in pieces":
            parts = [part.view(shape) for part in self.qkv(x).chunk(3, -1)]
        else:
            parts = [self.divide(part) for part in self.qkv(x).chunk(3, -1)]
        q, k, v = (part.transpose(1, 2) for part in parts)
        found = (q @ k.mT / 2).softmax(-1) @ v
        return self.out(found.transpose(1, 2).reshape(2, 5, self.heads * self.size))

    def divide(self, part):
        """As libraries do that check what they are asked for first."""
        if part.shape[-1] % self.heads:
            raise ValueError(f"{part.shape[-1]} cannot be divided by {self.heads}")
        return part.reshape(2, 5, self.heads, part.shape[-1] // self.heads)


def columns_of(network, group, weight):
    """Which of a weight's columns the first channel of a group is."""
    (member,) = (one for one in group.members if one.tensor == weight)
    return network.positions(group, member)[0]


@pytest.mark.parametrize("way", ["in one view", "in pieces", "checked first"])
@pytest.mark.parametrize(("heads", "size"), [(3, 4), (4, 4), (4, 3)])
def test_heads_and_positions_can_both_go_however_many_there_are_of_each(heads, size, way):
    torch.manual_seed(0)
    model = Kinds(heads, size, way).eval()
    network = sec.trace(model, X)
    assert sorted(len(group) for group in network.groups) == sorted((heads, size))
    reads = {group.name: columns_of(network, group, "out.weight") for group in network.groups}
    of_heads = next(name for name, first in reads.items() if len(set(first // size)) == 1)
    of_positions = next(name for name in reads if name != of_heads)
    cut = network.cut({of_heads: [1], of_positions: [0, 2]})
    small = sec.apply(model, cut, X, network=network)
    dense = copy.deepcopy(model)
    rows = [h * size + p for h in range(heads) for p in range(size) if h == 1 or p in (0, 2)]
    with torch.no_grad():
        dense.out.weight[:, rows] = 0
        for part in range(2):  # queries and keys meet along the positions
            dense.qkv.weight[[part * heads * size + row for row in rows]] = 0
            dense.qkv.bias[[part * heads * size + row for row in rows]] = 0
    assert torch.allclose(small(X), dense(X), atol=1e-6)
    assert (small.heads, small.size) == (heads - 1, size - 2)


class Decoy(nn.Module):
    """A number that is no size, as large as there are heads, beside one that is."""

    def __init__(self):
        super().__init__()
        self.turns, self.heads = 4, 4
        self.qkv, self.out = nn.Linear(6, 3 * 4 * 3), nn.Linear(4 * 3, 3)
        self.steep = nn.Linear(2, 4)

    def forward(self, x):
        x = x.roll(self.turns, 1)
        q, k, v = self.qkv(x).reshape(2, 5, 3, self.heads, -1).transpose(1, 3).unbind(2)
        steep = self.steep(x[:, 0, :2]).reshape(2, self.heads, 1, 1)
        found = (q @ k.mT * steep).softmax(-1) @ v
        return self.out(found.transpose(1, 2).flatten(2))


def test_a_number_that_is_no_size_is_left_alone():
    torch.manual_seed(0)
    model = Decoy().eval()
    network = sec.trace(model, X)
    of_heads = next(g.name for g in network.groups if len(g) == 4)
    small = sec.apply(model, network.cut({of_heads: [1, 2]}), X, network=network)
    assert (small.turns, small.heads) == (4, 2)
    dense = copy.deepcopy(model)
    with torch.no_grad():
        dense.out.weight[:, 3:9] = 0
    assert torch.allclose(small(X), dense(X), atol=1e-6)


class SharedKeys(nn.Module):
    """Attention whose heads share heads of keys, by sizes of which several are equal."""

    def __init__(self, way, heads, shared, width):
        super().__init__()
        self.way, self.width, self.heads, self.shared = way, width, heads, shared
        self.each, self.size = heads // shared, width // heads
        self.q, self.o = nn.Linear(6, width), nn.Linear(width, 3)
        self.k, self.v = (nn.Linear(6, shared * self.size) for _ in range(2))

    def forward(self, x):
        size = self.size if self.way == "repeated" else self.width // self.heads
        q = self.q(x).view(2, 5, self.heads, size).transpose(1, 2)
        k = self.k(x).view(2, 5, self.shared, size).transpose(1, 2)
        v = self.v(x).view(2, 5, self.shared, size).transpose(1, 2)
        if self.way == "repeated":
            k, v = (part.repeat_interleave(self.each, 1) for part in (k, v))
        else:
            q = q.view(2, self.shared, self.heads // self.shared, 5, size)
            k, v = k[:, :, None], v[:, :, None]
        found = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        return self.o(found.reshape(2, self.heads, 5, -1).transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    ("way", "heads", "shared", "width"),
    [
        ("repeated", 4, 2, 8),  # 2 heads of keys, 2 queries for each, of width 2
        ("repeated", 4, 1, 16),
        ("repeated", 9, 3, 27),
        ("divided", 2, 2, 4),
        ("divided", 9, 3, 27),
        ("divided", 4, 2, 8),
    ],
)
def test_numbers_that_are_equal_are_told_apart_by_cuts_of_one_of_them(way, heads, shared, width):
    torch.manual_seed(0)
    model = SharedKeys(way, heads, shared, width).eval()
    network = sec.trace(model, X)
    names = [group.name for group in network.groups]
    assert not {"q", "o (input)"} & {frozen.name for frozen in network.frozen}
    for some in (*([name] for name in names), names):
        cut = network.cut({name: [0] for name in some})
        small = sec.apply(model, cut, X, network=network)
        dense = copy.deepcopy(model)
        with torch.no_grad():
            for tensor, axis in (("q.weight", 0), ("k.weight", 0), ("o.weight", 1)):
                gone = cut.tensors[tensor].removed.get(axis, ()) if tensor in cut.tensors else ()
                dense.get_parameter(tensor).index_fill_(axis, torch.tensor(gone, dtype=int), 0)
                if axis == 0 and len(gone):
                    dense.get_parameter(tensor.replace("weight", "bias"))[list(gone)] = 0
        assert torch.allclose(small(X), dense(X), atol=1e-5)


def test_every_second_channel_is_taken_from_the_first_on():
    """Gates and values that lie in turn, as in GPT-OSS: the first pair may go like any other."""

    class Interleaved(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(5, 16), nn.Linear(8, 3)

        def forward(self, x):
            x = self.up(x)
            return self.down(x[..., ::2].sigmoid() * x[..., 1::2])

    torch.manual_seed(0)
    model, x = Interleaved().eval(), torch.randn(4, 5)
    network = sec.trace(model, x)
    (group,) = network.groups
    assert len(group) == 8
    small = sec.apply(model, network.cut({group.name: [0, 3]}), x, proof="independent")
    assert small.up.out_features == 12
    with torch.no_grad():
        model.down.weight[:, [0, 3]] = 0
        torch.testing.assert_close(small(x), model(x))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_neighbours_lose_different_shares(seed):
    lengths = [4096, 8, 64, 4096, 16, 12, 12, 12, 6, 2048, 2048, 7, 64, 8]
    groups = [Group(str(at), np.arange(length), ()) for at, length in enumerate(lengths)]
    cut = different_shares(seed)(groups)
    shares = [Fraction(len(cut[group.name]), len(group)) for group in groups]
    for at, share in enumerate(shares):
        assert share not in shares[max(0, at - NEIGHBOURS) : at]
        assert len(set(cut[str(at)])) == len(cut[str(at)]) <= lengths[at] - 2
