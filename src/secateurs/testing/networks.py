"""Small networks that each have one difficulty, with images and labels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

IMAGES, CHANNELS, SIDE, CLASSES = 8, 3, 6, 4


def images(seed: int = 0) -> NDArray[np.float32]:
    """Images of shape (8, 3, 6, 6)."""
    random = np.random.default_rng(seed)
    return random.normal(size=(IMAGES, CHANNELS, SIDE, SIDE)).astype(np.float32)


def labels() -> NDArray[np.int64]:
    """A class of 0 to 3 for each image."""
    return np.arange(IMAGES, dtype=np.int64) % CLASSES


class Plain(nn.Module):
    """Two convolutions; groups ``conv1`` of 5 channels and ``conv2`` of 4."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, 5, 3, bias=False)
        self.norm1 = nn.BatchNorm2d(5)
        self.conv2 = nn.Conv2d(5, 4, 3)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of shape (N, 4)."""
        x = F.relu(self.norm1(self.conv1(x)))
        scores: torch.Tensor = self.head(F.relu(self.conv2(x)).mean((2, 3)))
        return scores


class Residual(nn.Module):
    """A block around a skip: the stem and the second convolution write the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(CHANNELS, 6, 3, padding=1)
        self.conv1 = nn.Conv2d(6, 5, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(5)
        self.conv2 = nn.Conv2d(5, 6, 3, padding=1)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of shape (N, 4)."""
        x = F.relu(self.stem(x))
        x = F.relu(x + self.conv2(F.relu(self.norm1(self.conv1(x)))))
        scores: torch.Tensor = self.head(x.mean((2, 3)))
        return scores


class Grouped(nn.Module):
    """A convolution in two groups, after one that feeds both."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(CHANNELS, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of shape (N, 4)."""
        x = F.relu(self.grouped(F.relu(self.first(x))))
        scores: torch.Tensor = self.head(x.mean((2, 3)))
        return scores


class Attention(nn.Module):
    """One layer of attention with two heads over the pixels of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(CHANNELS, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of shape (N, 4)."""
        tokens = self.embed(x.flatten(2).transpose(1, 2))
        mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        scores: torch.Tensor = self.head((tokens + mixed).mean(1))
        return scores


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": Plain,
    "residual": Residual,
    "grouped": Grouped,
    "attention": Attention,
}


def build_network(name: str, seed: int = 0) -> nn.Module:
    """Build a network of ``NETWORKS``, in eval mode, with random batch-norm statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = NETWORKS[name]()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean):
                    nn.init.normal_(tensor)  # type: ignore[arg-type]  # there is a running mean
                nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return model.eval()
