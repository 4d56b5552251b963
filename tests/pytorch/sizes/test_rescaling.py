"""Compensating factors are multiplied into preceding weights that have no other use."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec
from support.written_attention import SIZE, Attention, X, network_and_group, without

PACKED = (None, "unbound", "picked one by one")


def turn(q):
    """Each channel's value read twice, as by a rotation of positions."""
    angles = torch.arange(5.0)[:, None]
    return q * angles.cos() + q.neg() * angles.sin()


def turned_by_halves(q):
    """The same as language models write it, with halves that are taken from it and put together."""
    first, second = q.chunk(2, -1)
    angles = torch.arange(5.0)[:, None]
    return q * angles.cos() + torch.cat([-second, first], -1) * angles.sin()


def turned_by_slices(q):
    """And with slices of it."""
    half = q.shape[-1] // 2
    angles = torch.arange(5.0)[:, None]
    return q * angles.cos() + torch.cat([-q[..., half:], q[..., :half]], -1) * angles.sin()


WAYS = {
    "products divided": lambda q, k: q @ k.mT / math.sqrt(q.shape[-1]),
    "products multiplied": lambda q, k: (q @ k.mT) * k.shape[-1] ** -0.5,
    "queries multiplied": lambda q, k: (q * q.shape[-1] ** -0.5) @ k.mT,
    "queries divided": lambda q, k: q.div(math.sqrt(k.shape[-1])) @ k.mT,
    "by the size itself": lambda q, k: q @ k.mT / q.shape[-1],
    "turned before": lambda q, k: turn(q) @ turn(k).mT / math.sqrt(q.shape[-1]),
}


SEEN_TWICE = {
    "as keys": lambda q, k: (q * q.shape[-1] ** -0.5) @ q.mT + (k * 0).sum(),
    "of two layers": lambda q, k: ((q + k) * q.shape[-1] ** -0.5).sum(-1).unsqueeze(-2),
    "in a sum": lambda q, k: (q * q.shape[-1] ** -0.5) @ k.mT + q.sum(-1).unsqueeze(-2),
}


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
def test_products_summed_by_hand_are_compensated(heads, size):
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


@pytest.mark.parametrize("turn", [turned_by_halves, turned_by_slices])
@pytest.mark.parametrize("packed", [None, "unbound"])
def test_through_a_rotation_of_halves_pairs_go_and_the_factor_stays(turn, packed):
    scores = lambda q, k: turn(q) @ turn(k).mT / math.sqrt(q.shape[-1])  # noqa: E731
    torch.manual_seed(0)
    model = Attention(scores, packed).eval()
    network, name = network_and_group(model)
    assert len(network.group(name)) == SIZE // 2
    small = sec.apply(model, network.cut({name: [0, 3]}), X, network=network)
    with torch.no_grad():
        assert torch.allclose(small(X), without(model, [0, 3, 4, 7])(X), atol=1e-6)


class Correlation(nn.Module):
    """Features of two images from one pass, multiplied and divided by a root (RAFT)."""

    def __init__(self, pieces):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.encoder = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.pieces, self.head = pieces, nn.Conv2d(16, 2, 1)

    def forward(self, one, other):
        both = self.encoder(torch.relu(self.first(torch.cat([one, other])))).flatten(2)
        f, g = self.pieces(both)
        products = f.transpose(1, 2) @ g / torch.tensor(f.shape[1]).sqrt()
        return self.head(products.view(len(f), 16, 4, 4))


@pytest.mark.parametrize(
    "pieces",
    [lambda both: both.chunk(2), lambda both: (both[:1], both[1:]), lambda both: both.split(1)],
    ids=["chunk", "slices", "split"],
)
def test_both_factors_of_a_product_from_one_layer_are_not_scaled_twice(pieces):
    model, images = Correlation(pieces).eval(), (torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4))
    network = sec.trace(model, images)
    assert [len(group) for group in network.groups] == [8]
    assert any("a factor computed from the number" in reason for one in network.frozen
               for reason in one.reasons)  # fmt: skip
    assert sec.prune(model, images, amount=0.5, proof="independent").report.proof.holds
