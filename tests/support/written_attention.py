"""Attention written out, scaled by its current head size."""

import copy

import torch
from torch import nn

import secateurs as sec

X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
HEADS, SIZE = 2, 8
PARTS = (2, 2, 2), (0, 1, 2)


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
