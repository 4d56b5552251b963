"""Sizes and factors in a forward pass's code: followed, put right in the weights, or frozen.

Each cut is held against the dense model whose readers of the removed channels are zeroed by hand.
"""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec

X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
HEADS, SIZE = 2, 8
PARTS = (2, 2, 2), (0, 1, 2)
PACKED = (None, "unbound", "picked one by one")


def turned(q):
    """Each channel's value read twice, as by a rotation of positions."""
    angles = torch.arange(5.0)[:, None]
    return q * angles.cos() + q.neg() * angles.sin()


WAYS = {
    "products divided": lambda q, k: q @ k.mT / math.sqrt(q.shape[-1]),
    "products multiplied": lambda q, k: (q @ k.mT) * k.shape[-1] ** -0.5,
    "queries multiplied": lambda q, k: (q * q.shape[-1] ** -0.5) @ k.mT,
    "queries divided": lambda q, k: q.div(math.sqrt(k.shape[-1])) @ k.mT,
    "by the size itself": lambda q, k: q @ k.mT / q.shape[-1],
    "turned before": lambda q, k: turned(q) @ turned(k).mT / math.sqrt(q.shape[-1]),
}
SEEN_TWICE = {
    "as keys": lambda q, k: (q * q.shape[-1] ** -0.5) @ q.mT + (k * 0).sum(),
    "of two layers": lambda q, k: ((q + k) * q.shape[-1] ** -0.5).sum(-1).unsqueeze(-2),
    "in a sum": lambda q, k: (q * q.shape[-1] ** -0.5) @ k.mT + q.sum(-1).unsqueeze(-2),
}


class Attention(nn.Module):
    """Attention written out, its factor computed from what the head's size is then."""

    def __init__(self, scores, packed):
        super().__init__()
        self.scores, self.packed = scores, packed
        if packed:
            self.qkv = nn.Linear(6, 3 * HEADS * SIZE)
        else:
            self.q, self.k, self.v = (nn.Linear(6, HEADS * SIZE) for _ in range(3))
        self.out = nn.Linear(HEADS * SIZE, 3)

    def forward(self, x):
        if self.packed:
            split = self.qkv(x).unflatten(-1, (3, HEADS, -1)).transpose(1, 3)
            q, k, v = split.unbind(2) if self.packed == "unbound" else map(split.select, *PARTS)
        else:
            layers = (self.q, self.k, self.v)
            q, k, v = (layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in layers)
        mixed = self.scores(q, k).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


def without(dense, gone):
    """The dense model, in which these places in each head's queries and keys are zero."""
    dense = copy.deepcopy(dense)
    with torch.no_grad():
        for layer in [dense.qkv] if dense.packed else [dense.q, dense.k]:
            heads = (-1, HEADS, SIZE)
            for tensor in (layer.weight, layer.bias):
                tensor.unflatten(0, heads)[:2, :, gone] = 0
        if dense.packed:
            dense.out.weight.unflatten(1, (HEADS, SIZE))[..., gone] = 0
    return dense


def network_and_group(model):
    network = sec.trace(model, X)
    names = [g.name for g in network.groups if any("q" in m.tensor for m in g.members)]
    return network, names[0] if names else None


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("way", WAYS)
def test_a_factor_computed_from_a_size_is_what_it_was(way, packed):
    model = Attention(WAYS[way], packed).eval()
    network, name = network_and_group(model)
    assert len(network.group(name)) == SIZE
    small = sec.apply(model, network.cut({name: [0, 3, 5]}), X, network=network)
    with torch.no_grad():
        expected, without_factor = without(model, [0, 3, 5])(X), model(X)
        assert torch.allclose(small(X), expected, atol=1e-6)
        assert not torch.allclose(small(X), without_factor, atol=1e-3)
    power = 1 if way == "by the size itself" else 0.5
    factors = [rescaling.factor for rescaling in sec.report_of(small).cut.rescalings]
    assert factors == pytest.approx([(5 / 8) ** power] * 2)  # the weight and the bias
    # Cut again, it is as if it had been cut at once.
    again, name = network_and_group(small)
    smaller = sec.apply(small, again.cut({name: [1]}), X, network=again)  # what was number 2
    with torch.no_grad():
        assert torch.allclose(smaller(X), without(model, [0, 2, 3, 5])(X), atol=1e-6)
    rebuilt = sec.apply(
        Attention(WAYS[way], packed).eval(), sec.report_of(smaller).cut, proof=False
    )
    assert {n: p.shape for n, p in rebuilt.named_parameters()} == {
        n: p.shape for n, p in smaller.named_parameters()
    }


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("way", SEEN_TWICE)
def test_what_is_read_elsewhere_too_keeps_its_size(way, packed):
    """Put into the weights, the factor would be seen by the other reader as well."""
    model = Attention(SEEN_TWICE[way], packed).eval()
    network, _ = network_and_group(model)
    frozen = {m.layer for g in network.groups for m in g.members}
    assert ("qkv" if packed else "q") not in frozen
    for group in network.groups:
        assert sec.report_of(sec.apply(model, network.cut({group.name: [0]}), X)).proof.holds


class Shifted(nn.Module):
    """A bias of its own added to the queries: the factor is on it too."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, 8, bias=False) for _ in range(3))
        self.bias, self.out = nn.Parameter(torch.randn(8)), nn.Linear(8, 3)

    def forward(self, x):
        q = self.q(x) + self.bias
        return self.out((q * q.shape[-1] ** -0.5 @ self.k(x).mT).softmax(-1) @ self.v(x))


def test_a_factor_is_put_into_a_bias_that_is_added():
    model = Shifted().eval()
    network, name = network_and_group(model)
    small = sec.apply(model, network.cut({name: [2, 7]}), X, network=network)
    dense = copy.deepcopy(model)
    with torch.no_grad():
        dense.k.weight[[2, 7]] = 0
        assert torch.allclose(small(X), dense(X), atol=1e-6)
        assert torch.allclose(small.bias, model.bias[[0, 1, 3, 4, 5, 6]] * (6 / 8) ** 0.5)


class Tied(nn.Module):
    """Heads times places are laid out as wide as something else is."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(6, 8)
        self.c, self.d = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x):
        wide = self.a(x)
        heads = self.b(x).view(2, 5, 2, -1).transpose(1, 2).relu()
        return self.c(heads.transpose(1, 2).reshape(2, 5, wide.shape[-1])) + self.d(wide)


def test_two_numbers_that_must_agree_go_together():
    model = Tied().eval()
    network = sec.trace(model, X)
    assert network.groups
    for group in network.groups:
        small = sec.apply(model, network.cut({group.name: [0]}), X, network=network)
        assert small.a.out_features == small.b.out_features < 8


class Centred(nn.Module):
    """A mean written as a sum divided by how many there are: nothing else reads a size."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.a(x)
        return self.b(F.relu(x - x.sum(-1, keepdim=True) / x.shape[-1]))


def test_a_mean_by_hand_is_frozen_with_its_line():
    network = sec.trace(Centred(), X)
    assert not network.groups
    reasons = [reason for one in network.frozen for reason in one.reasons]
    assert any(
        "a factor computed from their number" in r and "test_hardcoded.py" in r for r in reasons
    )


class Kept(nn.Module):
    """Heads and their size kept at construction, beside numbers that are the same by chance."""

    def __init__(self, **numbers):
        super().__init__()
        vars(self).update(numbers)
        self.q, self.k, self.v = (nn.Linear(6, HEADS * SIZE) for _ in range(3))
        self.out = nn.Linear(HEADS * SIZE, 3)

    def forward(self, x):
        shape = self.sizes[1:] if hasattr(self, "sizes") else (self.heads, self.size)
        layers = (self.q, self.k, self.v)
        q, k, v = (layer(x).view(2, 5, *shape).transpose(1, 2) for layer in layers)
        mixed = F.scaled_dot_product_attention(q, k, v, scale=0.4)
        return self.out(mixed.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    ("numbers", "after"),
    [
        (
            {"depth": 2, "patch": 8, "heads": 2, "size": 8},
            {"depth": 2, "patch": 8, "heads": 1, "size": 6},
        ),
        ({"sizes": [2, 2, 8]}, {"sizes": [2, 1, 6]}),
    ],
)
def test_of_several_numbers_alike_the_one_that_counts_follows(numbers, after):
    model = Kept(**numbers).eval()
    network = sec.trace(model, X)
    assert sorted(len(group) for group in network.groups) == [HEADS, SIZE]
    cut = network.cut({g.name: [1] if len(g) == HEADS else [1, 2] for g in network.groups})
    small = sec.apply(model, cut, X, network=network)
    assert {name: vars(small)[name] for name in after} == after


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


class Choosing(Kept):
    """Sizes kept in the code, and a path that values decide: rehearsed with what they decided."""

    def forward(self, x):
        mixed = super().forward(x)
        found = mixed[mixed.sum(-1) < 1e6]  # all of them
        found = self.wide(found) if found.sum() < 1e6 else self.wide(found).flatten().sum()
        where = torch.nonzero(found.sum(-1) < 1e6)[:, 0]
        return self.head(found[where])


def test_what_values_decide_is_decided_alike_in_a_rehearsal():
    model = Choosing(heads=2, size=8)
    model.out, model.wide, model.head = nn.Linear(16, 7), nn.Linear(7, 9), nn.Linear(9, 2)
    network = sec.trace(model.eval(), X)
    assert network.notes[0].startswith("Traced on real tensors")
    assert sorted(len(group) for group in network.groups) == [2, 7, 8, 9]
    cut = network.cut({group.name: [1] for group in network.groups})
    small = sec.apply(model, cut, X, network=network)
    assert (small.heads, small.size) == (1, 7)


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
            parts = [self.divided(part) for part in self.qkv(x).chunk(3, -1)]
        q, k, v = (part.transpose(1, 2) for part in parts)
        found = (q @ k.mT / 2).softmax(-1) @ v
        return self.out(found.transpose(1, 2).reshape(2, 5, self.heads * self.size))

    def divided(self, part):
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


POWERS = {
    "a fourth root of each": (
        lambda q, k: (q * q.shape[-1] ** -0.25) @ (k * k.shape[-1] ** -0.25).mT,
        (0.25, 0.25),
    ),
    "a cube root": (lambda q, k: q @ k.mT * q.shape[-1] ** (-1 / 3), (1 / 3,)),
    "an odd power": (lambda q, k: q @ k.mT / q.shape[-1] ** 0.3, (0.3,)),
    "a square": (lambda q, k: q @ k.mT / q.shape[-1] ** 2, (2,)),
    "an einsum": (
        lambda q, k: torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5,
        (0.5,),
    ),
}


@pytest.mark.parametrize("name", POWERS)
def test_any_power_of_a_size_is_put_right(name):
    scores, powers = POWERS[name]
    torch.manual_seed(0)
    model = Attention(scores, None).eval()
    network, group = network_and_group(model)
    small = sec.apply(model, network.cut({group: [0, 3, 5]}), X, network=network)
    with torch.no_grad():
        assert torch.allclose(small(X), without(model, [0, 3, 5])(X), atol=1e-6)
    factors = [rescaling.factor for rescaling in sec.report_of(small).cut.rescalings]
    assert sorted(factors) == pytest.approx(sorted([(5 / 8) ** p for p in powers] * 2))


def test_what_is_no_power_of_a_size_keeps_it():
    model = Attention(lambda q, k: q @ k.mT / math.log(q.shape[-1]), None).eval()
    network, _ = network_and_group(model)
    assert "q" not in {member.layer for group in network.groups for member in group.members}


class Literal(nn.Module):
    """The number of heads is written into the code; their size is not."""

    def __init__(self):
        super().__init__()
        self.q, self.out = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x):
        q = self.q(x).view(2, 5, 2, -1)
        return self.out(q.tanh().flatten(2))


def test_of_heads_and_positions_only_what_is_at_fault_stays():
    network = sec.trace(Literal().eval(), X)
    assert [len(group) for group in network.groups] == [8]


class Neighbours(nn.Module):
    """Attention over the edges of a graph: products of rows picked by number, summed by hand."""

    def __init__(self, heads, size):
        super().__init__()
        self.heads, self.size = heads, size
        self.q, self.k, self.v = (nn.Linear(6, heads * size) for _ in range(3))
        self.out = nn.Linear(heads * size, 3)
        self.register_buffer("ends", torch.tensor([[0, 1, 2, 3, 1], [1, 2, 3, 0, 3]]))

    def forward(self, x):
        split = (len(x), self.heads, self.size)
        q, k, v = (layer(x).view(split) for layer in (self.q, self.k, self.v))
        q, k = q.index_select(0, self.ends[0]), k.index_select(0, self.ends[1])
        weights = ((q * k).sum(-1) / math.sqrt(self.size)).sigmoid()
        messages = v.index_select(0, self.ends[1]) * weights[..., None]
        summed = x.new_zeros(split).index_add_(0, self.ends[0], messages)
        return self.out(summed.flatten(1))


@pytest.mark.parametrize(("heads", "size"), [(2, 32), (2, 4), (4, 8)])
def test_products_that_are_summed_by_hand_are_put_right(heads, size):
    """Two heads, one of which goes, and half of their width change the factor alike."""
    torch.manual_seed(0)
    model, x = Neighbours(heads, size).eval(), torch.randn(4, 6)
    network = sec.trace(model, x)
    assert sorted(len(group) for group in network.groups) == sorted([heads, size])
    gone = {g.name: [0] if len(g) == heads else [1, 2] for g in network.groups}
    small = sec.apply(model, network.cut(gone), x, network=network)
    assert (small.heads, small.size) == (heads - 1, size - 2)
    kept = torch.tensor(
        [h * size + d for h in range(1, heads) for d in range(size) if d not in (1, 2)]
    )
    with torch.no_grad():  # by hand: the dense model's factor, fewer positions
        q, k, v = (
            F.linear(x, m.weight[kept], m.bias[kept]).view(4, heads - 1, -1)
            for m in (model.q, model.k, model.v)
        )
        first, second = model.ends
        weights = ((q[first] * k[second]).sum(-1) / math.sqrt(size)).sigmoid()
        summed = torch.zeros_like(v).index_add(0, first, v[second] * weights[..., None])
        expected = summed.flatten(1) @ model.out.weight[:, kept].T + model.out.bias
        assert torch.allclose(small(x), expected, atol=1e-5)
