"""A network of two convolutions and a cut of it, for tests of the proof."""

import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec


class Deep(nn.Module):
    def __init__(self, zero_head=False):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)
        nn.init.normal_(self.norm.bias)  # so that relu(norm(0)) is not 0
        if zero_head:
            nn.init.zeros_(self.head.weight)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        return self.head(F.relu(self.second(x)).mean((2, 3)))


def x():
    return torch.randn(2, 3, 8, 8)


def trace_with_cut(model):
    """(its network, a cut, which atoms stay)."""
    network = sec.trace(model, x())
    cut = network.cut({"first": [0, 3], "second": [2]})
    alive = network.alive(network.removed_by(cut))
    return network, cut, alive
