"""Blocks and heads that keep their sizes as integers, some of which a pass does not read."""

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.in_channels, self.out_channels, self.half = inputs, outputs, outputs // 2
        self.kernel_size = 3
        self.conv = nn.Conv2d(inputs, outputs, self.kernel_size, padding=1)

    def forward(self, x):
        a, b = self.conv(x).chunk(2, 1)
        return torch.cat([a, b.relu()], 1)

    def forward_for_export(self, x):
        a, b = self.conv(x).split((self.half, self.half), 1)
        return torch.cat([a, b.relu()], 1)


class Reads(nn.Module):
    """An integer that happens to be a number of channels, and is something else."""

    def __init__(self):
        super().__init__()
        self.gain = 6
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.b(self.a(x).relu()) * self.gain


HEADS, SIZE = 2, 8


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


class Holds(nn.Module):
    """A layer beside what is kept; ``reads`` says which number of it the pass reshapes by."""

    def __init__(self, kept, reads=None):
        super().__init__()
        self.kept, self.reads = kept, reads
        self.a, self.b = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x):
        x = self.a(x).relu()
        if self.reads is not None:
            x = x.reshape(1, self.reads(self.kept), 8, 8)
        return self.b(x)
