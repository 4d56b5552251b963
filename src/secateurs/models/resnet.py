"""Ordinary ResNets, and variants in which every residual block has a through layer.

A through layer is a 1x1 convolution on the block's skip. In an ordinary ResNet the skip adds the
block's input to its output, which ties the last convolutions of all blocks of a stage together:
none of their channels can be removed alone. With a through layer each block has output channels of
its own.

Source: Travis Johnston, "Pruning ResNets for Fun and Profit" (Striveworks); He et al., "Deep
Residual Learning for Image Recognition", 2015, with the stride on the 3x3 convolution (V1.5).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal, TypedDict, Unpack, get_args

import torch
from torch import Tensor, nn

from secateurs.arguments import format_value, is_whole
from secateurs.errors import ModelError, UnknownNameError, nearest

Stem = Literal["imagenet", "small", "small-stride2"]

BLOCKS_PER_STAGE = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
BOTTLENECK_FROM_DEPTH = 50


class ResNetOptions(TypedDict, total=False):
    """Options of every ResNet; see ``ResNet``."""

    classes: int
    in_channels: int
    width: int
    stem: Stem
    through: bool
    through_norm: bool


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def through_layer(inputs: int, outputs: int, stride: int, norm: bool) -> nn.Sequential:
    """A 1x1 convolution for a block's skip, followed by a batch norm if ``norm``."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=_convolution(inputs, outputs, 1, stride))
    if norm:
        layers["norm"] = nn.BatchNorm2d(outputs)
    return nn.Sequential(layers)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, and a skip."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, through: nn.Sequential | None) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, width, 3, stride)
        self.norm1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = _convolution(width, width, 3)
        self.norm2 = nn.BatchNorm2d(width)
        self.through = through
        self.act2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Images in, images out."""
        skip = x if self.through is None else self.through(x)
        x = self.act1(self.norm1(self.conv1(x)))
        x = self.norm2(self.conv2(x))
        out: Tensor = self.act2(x + skip)
        return out


class Bottleneck(nn.Module):
    """A 1x1 convolution that narrows, a 3x3, a 1x1 that widens fourfold, and a skip."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, through: nn.Sequential | None) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, width, 1)
        self.norm1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = _convolution(width, width, 3, stride)
        self.norm2 = nn.BatchNorm2d(width)
        self.act2 = nn.ReLU(inplace=True)
        self.conv3 = _convolution(width, width * self.expansion, 1)
        self.norm3 = nn.BatchNorm2d(width * self.expansion)
        self.through = through
        self.act3 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Images in, images out."""
        skip = x if self.through is None else self.through(x)
        x = self.act1(self.norm1(self.conv1(x)))
        x = self.act2(self.norm2(self.conv2(x)))
        x = self.norm3(self.conv3(x))
        out: Tensor = self.act3(x + skip)
        return out


_STANDARD_NAMES = (
    (r"^conv1\.", "stem.conv."),
    (r"^bn1\.", "stem.norm."),
    (r"^layer(\d+)\.(\d+)\.downsample\.0\.", r"layer\1.\2.through.conv."),
    (r"^layer(\d+)\.(\d+)\.downsample\.1\.", r"layer\1.\2.through.norm."),
    (r"^layer(\d+)\.(\d+)\.bn(\d)\.", r"layer\1.\2.norm\3."),
    (r"^fc\.", "head."),
)


def own_name(standard: str) -> str:
    """Translate a tensor's name in torchvision's and most other ResNets to the name used here.

    Example:
        >>> own_name("layer1.0.downsample.0.weight"), own_name("bn1.bias")
        ('stages.0.0.through.conv.weight', 'stem.norm.bias')
    """
    for pattern, ours in _STANDARD_NAMES:
        standard = re.sub(pattern, ours, standard)
    return re.sub(r"^layer(\d+)\.", lambda found: f"stages.{int(found[1]) - 1}.", standard)


class ResNet(nn.Module):
    """A residual network for images, as published; or with a 1x1 convolution on every skip.

    Args:
        blocks_per_stage: Residual blocks in each stage; each stage after the first halves the
            image and doubles the width.
        bottleneck: Bottleneck blocks (ResNet-50 and deeper) instead of basic ones.
        classes: Outputs.
        in_channels: Channels of the images; 3 for colour, 1 for grey.
        width: Channels of the first stage. 64 is the published width.
        stem: First layers: "imagenet" is a 7x7 convolution of stride 2 and a max
            pool (for 128 pixels and more), "small" a 3x3 convolution of stride 1 (8 to 32
            pixels), "small-stride2" a 3x3 convolution of stride 2 (about 64 pixels).
        through: A through layer in every block, not only where the shape changes, as in the
            ordinary ResNet.
        through_norm: A batch norm after each through layer.

    Raises:
        ModelError: a number is not a positive whole number.
        UnknownNameError: no such stem.
    """

    own_name = staticmethod(own_name)
    """For loaders of checkpoints: translates names of the published model's tensors."""

    def __init__(
        self,
        blocks_per_stage: Sequence[int] = (2, 2, 2, 2),
        *,
        bottleneck: bool = False,
        classes: int = 1000,
        in_channels: int = 3,
        width: int = 64,
        stem: Stem = "imagenet",
        through: bool = False,
        through_norm: bool = True,
    ) -> None:
        super().__init__()
        _check_positive(classes=classes, in_channels=in_channels, width=width)
        for number in blocks_per_stage:
            _check_positive(blocks_per_stage=number)
        self.stem = _stem(stem, in_channels, width)
        block = Bottleneck if bottleneck else BasicBlock
        stages: list[nn.Sequential] = []
        channels = width
        for number, blocks in enumerate(blocks_per_stage):
            stage_width = width * 2**number
            stage: list[nn.Module] = []
            for position in range(blocks):
                stride = 2 if number > 0 and position == 0 else 1
                outputs = stage_width * block.expansion
                skip = None
                if through or stride > 1 or channels != outputs:
                    skip = through_layer(channels, outputs, stride, through_norm)
                stage.append(block(channels, stage_width, stride, skip))
                channels = outputs
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, classes)
        _initialise_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images of shape (N, C, H, W) in, scores of shape (N, classes) out."""
        x = self.pool(self.stages(self.stem(x)))
        scores: Tensor = self.head(torch.flatten(x, 1))
        return scores


def build_resnet(depth: int, **options: Unpack[ResNetOptions]) -> ResNet:
    """The ResNet of a published depth.

    Args:
        depth: 18, 34 (basic blocks), 50, 101 or 152 (bottleneck blocks).
        **options: See ``ResNet``.

    Raises:
        ModelError: no such depth; ``ResNet(blocks_per_stage)`` makes any other.
    """
    if depth not in BLOCKS_PER_STAGE:
        raise ModelError(
            f"resnet: expected a depth of {', '.join(map(str, BLOCKS_PER_STAGE))}; received "
            f"{depth!r}. For another depth: ResNet(blocks_per_stage=(1, 1, 1), ...)."
        )
    bottleneck = depth >= BOTTLENECK_FROM_DEPTH
    return ResNet(BLOCKS_PER_STAGE[depth], bottleneck=bottleneck, **options)


def resnet18(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-18, 8 basic blocks; options as for ``ResNet``."""
    return build_resnet(18, **options)


def resnet34(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-34, 16 basic blocks; options as for ``ResNet``."""
    return build_resnet(34, **options)


def resnet50(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-50, 16 bottleneck blocks; options as for ``ResNet``."""
    return build_resnet(50, **options)


def resnet101(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-101, 33 bottleneck blocks; options as for ``ResNet``."""
    return build_resnet(101, **options)


def resnet152(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-152, 50 bottleneck blocks; options as for ``ResNet``."""
    return build_resnet(152, **options)


def _stem(stem: Stem, in_channels: int, width: int) -> nn.Sequential:
    stems = get_args(Stem)
    if stem not in stems:
        raise UnknownNameError(f"no stem {stem!r}{nearest(str(stem), stems)}")
    if stem == "imagenet":
        conv = _convolution(in_channels, width, 7, 2)
    else:
        conv = _convolution(in_channels, width, 3, 2 if stem == "small-stride2" else 1)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=conv, norm=nn.BatchNorm2d(width), act=nn.ReLU(inplace=True)
    )
    if stem == "imagenet":
        layers["pool"] = nn.MaxPool2d(3, 2, padding=1)
    return nn.Sequential(layers)


def _initialise_(model: nn.Module) -> None:
    # The same gain for through layers: their input has passed a ReLU too, and halving it at every
    # block would fade the skips of a deep network without batch norm on them.
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if not is_whole(number, 1):
            raise ModelError(
                f"ResNet: expected {name} to be a whole number of at least 1; received "
                f"{format_value(number)}"
            )
