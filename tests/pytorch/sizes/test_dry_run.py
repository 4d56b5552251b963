"""Dry runs: a cut tested on shapes alone."""

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
