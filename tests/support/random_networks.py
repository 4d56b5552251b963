"""Random networks for property tests: hypothesis recipes and the modules they build."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

KINDS = (
    "conv",
    "norm-relu",
    "residual",
    "through",
    "concat",
    "shuffle",
    "grouped",
    "depthwise",
    "gate",
    "excite",
    "pool",
    "transposed",
    "pixels",
    "scale",
    "pad",
    "shared",
    "split",
)


@dataclass(frozen=True)
class Recipe:
    kinds: tuple[str, ...]
    width: int
    end: str
    seed: int


@st.composite
def recipes(draw, kinds=KINDS):
    return Recipe(
        tuple(draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=5))),
        draw(st.sampled_from([4, 8, 12])),
        draw(st.sampled_from(["mean", "flatten", "map", "tied"])),
        draw(st.integers(0, 2**16)),
    )


class Block(nn.Module):
    """One step of a recipe."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.out_width = width
        if kind == "residual":
            self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        elif kind == "through":
            self.through = nn.Conv2d(width, width, 1)
        elif kind == "concat":
            self.second = nn.Conv2d(width, width // 4 * 2, 1)
            self.out_width = width + width // 4 * 2
        elif kind == "grouped":
            self.second = nn.Conv2d(width, width * 2, 3, padding=1, groups=width // 2)
            self.out_width = width * 2
        elif kind == "depthwise":
            self.second = nn.Conv2d(width, width * 2, 3, padding=1, groups=width)
            self.out_width = width * 2
        elif kind == "gate":
            self.second = nn.Conv2d(width, 2 * width, 1)
        elif kind == "excite":
            self.squeeze = nn.Conv2d(width, 3, 1)
            self.excite = nn.Conv2d(3, width, 1)
        elif kind == "transposed":
            self.second = nn.ConvTranspose2d(width, width, 2, groups=2)
        elif kind == "pixels":
            self.second = nn.Conv2d(width, 4 * width, 1)
        elif kind == "scale":
            self.scale = nn.Parameter(torch.randn(width))
        elif kind == "split":
            self.second = nn.Conv2d(width // 2, width // 2, 3, padding=1)

    def forward(self, x):
        return getattr(self, f"_run_{self.kind.replace('-', '_')}")(x)

    def _run_conv(self, x):
        return F.relu(self.conv(x))

    def _run_norm_relu(self, x):
        return F.relu(self.norm(self.conv(x)))

    def _run_residual(self, x):
        return F.relu(x + self.second(F.relu(self.norm(self.conv(x)))))

    def _run_through(self, x):
        return F.relu(self.norm(self.conv(x)) + self.through(x))

    def _run_concat(self, x):
        return torch.cat([self.conv(x), F.silu(self.second(x))], 1)

    def _run_shuffle(self, x):
        b, c, h, w = x.shape
        y = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        return y + self.conv(x)

    def _run_grouped(self, x):
        return F.gelu(self.second(self.norm(x)))

    def _run_depthwise(self, x):
        return self.second(F.relu(self.conv(x)))

    def _run_gate(self, x):
        value, gate = self.second(x).chunk(2, dim=1)
        return value * torch.sigmoid(gate) + self.conv(x)

    def _run_excite(self, x):
        squeezed = F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))
        return x * torch.sigmoid(self.excite(squeezed))

    def _run_pool(self, x):
        return F.max_pool2d(self.conv(x), 2, stride=1, padding=1)[..., :-1, :-1]

    def _run_transposed(self, x):
        return F.relu(self.second(x))[..., 1:, 1:]

    def _run_pixels(self, x):
        return F.avg_pool2d(F.pixel_shuffle(self.second(x), 2), 2)

    def _run_scale(self, x):
        return self.conv(x) * self.scale[:, None, None]

    def _run_pad(self, x):
        return self.conv(F.pad(x, (1, 0, 0, 1), mode="reflect"))[..., 1:, 1:]

    def _run_shared(self, x):
        return self.conv(F.relu(self.conv(x)))

    def _run_split(self, x):
        left, right = torch.split(x, x.shape[1] // 2, dim=1)
        return torch.cat([left, F.relu(self.second(right))], dim=1)


class RandomNetwork(nn.Module):
    """The network of a recipe; its batch norms have statistics of their own."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            self.end = recipe.end
            self.stem = nn.Conv2d(3, recipe.width, 3, padding=1)
            self.blocks = nn.ModuleList()
            width = recipe.width
            for kind in recipe.kinds:
                self.blocks.append(Block(kind, width))
                width = self.blocks[-1].out_width
            if self.end == "flatten":
                self.head = nn.Linear(width * 16, 5)
            elif self.end == "map":
                self.head = nn.Conv2d(width, 5, 1)
            elif self.end == "tied":
                self.inner = nn.Linear(width, width)
                self.again = nn.Linear(width, width)
                self.again.weight = self.inner.weight
                self.head = nn.Linear(width, 5)
            else:
                self.head = nn.Linear(width, 5)
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean.normal_()
                    module.running_var.uniform_(0.5, 2)
                    nn.init.normal_(module.weight)
                    nn.init.normal_(module.bias)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        if self.end == "map":
            return self.head(x)
        x = F.adaptive_avg_pool2d(x, 4).flatten(1) if self.end == "flatten" else x.mean((2, 3))
        if self.end == "tied":
            x = F.relu(self.again(F.relu(self.inner(x))))
        return self.head(x)


def example() -> torch.Tensor:
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
