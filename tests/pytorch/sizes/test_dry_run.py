"""Dry runs: a cut tested on shapes alone."""

import copy

import torch
from torch import nn

import secateurs as sec
from support.sized_blocks import Kept

X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))


class Choosing(Kept):
    """Sizes kept in the code, and a path that values decide: rehearsed with what they decided."""

    def forward(self, x):
        mixed = super().forward(x)
        found = mixed[mixed.sum(-1) < 1e6]  # all of them
        found = self.wide(found) if found.sum() < 1e6 else self.wide(found).flatten().sum()
        where = torch.nonzero(found.sum(-1) < 1e6)[:, 0]
        return self.head(found[where])


def test_decisions_by_values_are_the_same_in_a_dry_run():
    model = Choosing(heads=2, size=8)
    model.out, model.wide, model.head = nn.Linear(16, 7), nn.Linear(7, 9), nn.Linear(9, 2)
    network = sec.trace(model.eval(), X)
    assert network.notes[0].startswith("Traced on real tensors")
    assert sorted(len(group) for group in network.groups) == [2, 7, 8, 9]
    cut = network.cut({group.name: [1] for group in network.groups})
    small = sec.apply(model, cut, X, network=network)
    assert (small.heads, small.size) == (1, 7)


class CutOutInTurn(nn.Module):
    """Queries, keys and values are cut out of one tensor in turn, by products of two sizes.

    With the old sizes, the slice of the queries covers the whole tensor, and PyTorch omits it.
    """

    def __init__(self, heads=6, shared=2, size=8):
        super().__init__()
        self.heads, self.shared, self.size = heads, shared, size
        self.qkv = nn.Linear(6, (heads + 2 * shared) * size)
        self.out = nn.Linear(heads * size, 3)

    def forward(self, x):
        qkv = self.qkv(x)
        first = self.heads * self.size
        second = first + self.shared * self.size
        parts = qkv[..., :first], qkv[..., first:second], qkv[..., second:]
        q, k, v = (part.view(*x.shape[:2], -1, self.size).transpose(1, 2) for part in parts)
        k, v = (part.repeat_interleave(self.heads // self.shared, 1) for part in (k, v))
        found = (q @ k.mT / 2).softmax(-1) @ v
        return self.out(found.transpose(1, 2).flatten(2))


def test_slices_in_turn_are_compared_though_the_first_is_omitted():
    torch.manual_seed(0)
    model = CutOutInTurn().eval()
    network = sec.trace(model, X)
    cut = network.cut({group.name: [1] for group in network.groups})
    small = sec.apply(model, cut, X, network=network)
    assert (small.heads, small.shared, small.size) == (2, 1, 7)
    gone, dense = list(cut.tensors["qkv.weight"].removed[0]), copy.deepcopy(model)
    with torch.no_grad():
        read = [row for row in gone if row < 64]  # queries and keys
        dense.qkv.weight[read], dense.qkv.bias[read] = 0, 0
        dense.out.weight[:, list(cut.tensors["out.weight"].removed[1])] = 0
    assert torch.allclose(small(X), dense(X), atol=1e-6)
