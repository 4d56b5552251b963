"""A block that keeps its sizes as integers, some of which its usual pass does not read."""

import torch
from torch import nn


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
