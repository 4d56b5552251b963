"""Correct cuts that the independent proof once refused, and wrong ones it must still refuse.

The answers of each small model are held against the dense one with what reads at zero, by hand.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec
from secateurs.pytorch.tracing.rules.reduction import total
from secateurs.pytorch.tracing.rules.registry import RULES


def half(model, *inputs):
    torch.manual_seed(0)
    network = sec.trace(model.eval(), inputs)
    cut = sec.plan(network, sec.score(network, "l1"), amount=0.5)
    small = sec.apply(model, cut, inputs, network=network, proof="independent")
    return small, cut


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_layer_with_one_output_reads():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 1))
    small, cut = half(model, random(2, 5))
    gone = list(cut.tensors["2.weight"].removed[1])
    assert len(gone) == 8
    with torch.no_grad():
        model[2].weight[:, gone] = 0
        torch.testing.assert_close(small(random(2, 5)), model(random(2, 5)))


def test_complex_weights_read():
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 16, dtype=torch.cfloat)
            self.second = nn.Linear(16, 16, dtype=torch.cfloat)
            self.head = nn.Linear(32, 3)

        def forward(self, x):
            h = self.second(self.first(torch.complex(x, x)))
            return self.head(torch.cat([h.real, h.imag], -1))

    torch.manual_seed(0)
    model = Complex()
    small, cut = half(model, random(2, 6))
    with torch.no_grad():
        for name in ("second.weight", "head.weight"):
            gone = list(cut.tensors[name].removed[1])
            model.get_parameter(name)[:, gone] = 0
        torch.testing.assert_close(small(random(2, 6)), model(random(2, 6)))


class Pairs(nn.Module):
    """Products of every two of three embeddings: each reads both others."""

    def __init__(self):
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(10, 8) for _ in range(3)])
        self.head = nn.Linear(3, 2)

    def forward(self, index):
        rows = torch.stack([table(index[:, n]) for n, table in enumerate(self.tables)], 1)
        products = rows @ rows.transpose(1, 2)
        above = torch.triu_indices(3, 3, 1)
        return self.head(products[:, above[0], above[1]])


def test_three_that_are_multiplied_with_each_other_read_each_other():
    torch.manual_seed(0)
    model, index = Pairs(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    small, cut = half(model, index)
    gone = list(cut.tensors["tables.0.weight"].removed[1])
    with torch.no_grad():
        for table in model.tables:
            table.weight[:, gone] = 0
        torch.testing.assert_close(small(index), model(index))


def test_what_a_pass_writes_into_buffers_is_put_back():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(5, 16), nn.Linear(16, 3)
            self.register_buffer("passes", torch.zeros(()))

        def forward(self, x):
            self.passes += 1
            return self.head(F.relu(self.first(x)) / self.passes)

    torch.manual_seed(0)
    model = Counting()
    small, _ = half(model, random(2, 5))
    assert sec.report_of(small).proof.independent.max_difference < 1e-6


def test_what_is_empty_changes_nothing():
    """A cache of keys that is empty before the first token."""

    class Caching(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(5, 16), nn.Linear(16, 3)

        def forward(self, x):
            h = self.first(x)
            return self.head(torch.cat([h[:0], h]).relu())

    torch.manual_seed(0)
    small, cut = half(Caching(), random(2, 5))
    assert cut.removed_channels == 8
    assert sec.report_of(small).proof.independent.channels == 8


def test_layers_between_sparse_matrices_read():
    """A graph network whose neighbours are a sparse matrix."""

    class Convolving(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.head = (
                nn.Linear(5, 16),
                nn.Linear(16, 16),
                nn.Linear(16, 3),
            )

        def forward(self, x, edges):
            ones = torch.ones(edges.shape[1])
            neighbours = torch.sparse_coo_tensor(edges, ones, (len(x), len(x)))
            x = F.relu(torch.sparse.mm(neighbours, self.first(x)))
            return self.head(F.relu(neighbours @ self.second(x)))

    torch.manual_seed(0)
    model, x = Convolving(), random(8, 5)
    edges = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 0], [1, 2, 3, 4, 5, 6, 7, 0, 4]])
    small, _ = half(model, x, edges)
    assert small.second.weight.shape == (8, 8)
    assert sec.report_of(small).proof.independent.channels == 16


def test_weak_readers_are_detected():
    """Sixteen channels that a mean looks at, each by less than the tolerance."""

    class Whispering(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(5, 16), nn.Linear(16, 3)

        def forward(self, x):
            h = F.relu(self.first(x))
            return self.head(h) + 4e-5 * h.sum(1, keepdim=True)

    from secateurs.pytorch.proof.independent import prove_independently

    torch.manual_seed(0)
    model = Whispering().eval()
    network = sec.trace(model, random(8, 5))
    cut = network.cut({"first": range(8)})
    with pytest.raises(sec.CutError, match="expected channels without influence"):
        prove_independently(model, cut, (random(8, 5),))


class Transposed(nn.Module):
    """A layer whose weight is (inputs, outputs), as GPT-2's are."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x):
        return torch.addmm(self.bias, x.flatten(0, -2), self.weight).view(*x.shape[:-1], -1)


class AttentionOfTransposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads, self.qkv, self.out = 2, Transposed(6, 48), Transposed(16, 3)

    def forward(self, x):
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(x).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, scale=0.5)
        return self.out(mixed.transpose(1, 2).flatten(2))


def test_filters_that_lie_along_the_other_axis_are_factors_of_each_other():
    torch.manual_seed(0)
    small, cut = half(AttentionOfTransposed(), random(2, 5, 6))
    assert sec.report_of(small).proof.independent.channels == cut.removed_channels > 0


class LinearAttention(nn.Module):
    """Queries and keys behind an activation that makes no zeros of zeros."""

    def __init__(self, prepare):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, 8) for _ in range(3))
        self.out, self.prepare = nn.Linear(8, 3), prepare

    def forward(self, x):
        q, k = F.elu(self.q(x)) + 1, self.prepare(F.elu(self.k(x)) + 1)
        mixed = (q @ (k.mT @ self.v(x))) / (q @ k.sum(1, keepdim=True).mT + 1e-6)
        return self.out(mixed)


def test_two_that_are_multiplied_behind_an_activation_read_each_other():
    torch.manual_seed(0)
    model, x = LinearAttention(lambda k: k), random(2, 5, 6)
    small, cut = half(model, x)
    assert sec.report_of(small).proof.independent.channels == cut.removed_channels == 8
    places = (("q.weight", 0), ("out.weight", 1))
    gone = [list(cut.tensors[name].removed[axis]) for name, axis in places]
    stays = torch.ones(2, 8)
    stays[0, gone[0]], stays[1, gone[1]] = 0, 0
    with torch.no_grad():
        q, k = ((F.elu(layer(x)) + 1) * stays[0] for layer in (model.q, model.k))
        mixed = (q @ (k.mT @ model.v(x))) / (q @ k.sum(1, keepdim=True).mT + 1e-6)
        torch.testing.assert_close(small(x), model.out(mixed * stays[1]))


def test_a_factor_of_length_one_is_detected(monkeypatch):
    """Rules and twin take the length for a sum that ignores channels; it reads the keys."""
    monkeypatch.setitem(RULES, torch.ops.aten.linalg_vector_norm, total)
    torch.manual_seed(0)
    with pytest.raises(sec.CutError, match="the outputs still depend on them"):
        half(LinearAttention(lambda k: F.normalize(k, dim=-1)), random(2, 5, 6))
