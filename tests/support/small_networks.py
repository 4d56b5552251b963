"""Small networks with something for every criterion: residuals, heads, grids."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

CLASSES = 4


def settle_moments(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in eval mode, its batch norms with statistics and factors of their own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low, high in (
                    (module.running_mean, -0.3, 0.3),
                    (module.running_var, 0.1, 0.4),
                    (module.weight, 0.5, 1.5),
                    (module.bias, -0.2, 0.4),
                ):
                    tensor.uniform_(low, high, generator=generator)
    return model.eval()


def images(number: int = 8, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(number, 3, 6, 6)).astype(np.float32)


def labels(number: int = 8, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, CLASSES, number)


class Residual(nn.Module):
    """A stem, a residual block in place, a pooled head: the stream has three readers."""

    def __init__(self, width: int = 6, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm0 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width + 2, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width + 2)
        self.conv2 = nn.Conv2d(width + 2, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.last = nn.Conv2d(width, 5, 3, stride=2)
        self.head = nn.Linear(5, CLASSES)
        settle_moments(self)

    def forward(self, x):
        x = F.relu(self.norm0(self.stem(x)), inplace=True)
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        y += x
        x = F.relu_(y)
        return self.head(F.relu(self.last(x)).mean((2, 3)))


class Grouped(nn.Module):
    """Depthwise and grouped convolutions, a shared convolution, a flattened head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.BatchNorm2d(8)
        self.point = nn.Conv2d(8, 6, 1)
        self.grouped = nn.Conv2d(6, 6, 3, padding=1, groups=3)
        self.shared = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6 * 9, CLASSES)
        settle_moments(self)

    def forward(self, x):
        x = F.relu6(self.norm(self.depthwise(F.relu(self.stem(x)))))
        x = F.relu(self.grouped(F.relu(self.point(x))))
        x = F.relu(self.shared(F.relu(self.shared(x))))
        return self.head(F.max_pool2d(x, 2).flatten(1))


class Attention(nn.Module):
    """Patches, heads with products written out, layer norms: grids, mixing, functional readers."""

    def __init__(self, norm: bool = True, *, whole_heads: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        width, self.norm = 8, norm
        # One number of the grid is fixed: so many heads, or so many positions in each.
        self.grid = (-1, 4) if whole_heads else (2, -1)
        self.patch = nn.Conv2d(3, width, 3, stride=3)
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 10)
        self.down = nn.Linear(10, width)
        self.head = nn.Linear(width, CLASSES)
        self.eval()

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        y = self.norm1(x) if self.norm else x
        batch, tokens, _ = y.shape
        q, k, v = self.qkv(y).view(batch, tokens, 3, *self.grid).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1)).mul(0.3).softmax(-1)
        y = (weights @ v).transpose(1, 2).reshape(batch, tokens, -1)
        x = x + self.out(y)
        x = x + self.down(F.gelu(self.up(x)))
        return self.head(x.mean(1))


class Plain(nn.Module):
    """Two convolutions and a dense layer, small enough to work out by hand."""

    def __init__(self, width: int = 5, seed: int = 0, activation=F.relu) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 4, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, CLASSES)
        self.activation = activation
        settle_moments(self)

    def forward(self, x):
        x = self.activation(self.norm1(self.conv1(x)))
        return self.head(self.activation(self.norm2(self.conv2(x))).mean((2, 3)))


def heads():
    return Attention(norm=False, whole_heads=True)


MODELS = [Residual, Grouped, Attention, heads, Plain]


def losses(model, x=None, y=None):
    """Of each image, in double precision; of ``images()`` and ``labels()``."""
    x, y = images() if x is None else x, labels() if y is None else y
    with torch.no_grad():
        return F.cross_entropy(
            model(torch.from_numpy(x)), torch.from_numpy(y), reduction="none"
        ).double()
