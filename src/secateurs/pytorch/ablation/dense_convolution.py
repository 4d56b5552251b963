"""Run convolutions over maps smaller than their kernel as matrix products.

Most of such a kernel lies on the padding, and multiplies zeros. The effect of such a convolution on
an image is a single matrix, no larger than the kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from secateurs.pytorch.tracing.op_call import Call

SIDE = 8
"""Side of the maps that rows are arranged in, to multiply them by a 1x1 convolution.

That is the same product, two to three times as fast as PyTorch's matrix product on CPUs that its
BLAS is not tuned for.
"""


class DenseConvolution:
    """A convolution with a fixed weight, for images of one size.

    Args:
        call: the convolution; its input is ignored.
        space: height and width of the images.
    """

    def __init__(self, call: Call, space: Sequence[int]) -> None:
        weight = call["weight"].detach()
        inputs = weight.shape[1] * call.get("groups", 1)
        numbers = math.prod(space) * inputs
        ones = torch.eye(numbers, dtype=weight.dtype, device=weight.device)
        images = ones.unflatten(1, (*space, inputs)).permute(0, 3, 1, 2)
        given = call.with_arguments(input=images, bias=None).run_one().permute(0, 2, 3, 1)
        self._shape = given.shape[1:]
        self._matrix = given.flatten(1).T[:, :, None, None].contiguous()
        bias = call.get("bias")
        self._bias = None if bias is None else bias.detach().repeat(math.prod(self._shape[:2]))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Apply the convolution to images, (N, C, H, W) in channels-last format."""
        rows = images.permute(0, 2, 3, 1).flatten(1)
        missing = -len(rows) % SIDE**2
        padded = F.pad(rows, (0, 0, 0, missing)) if missing else rows
        maps = padded.unflatten(0, (-1, SIDE, SIDE)).permute(0, 3, 1, 2)
        given = F.conv2d(maps, self._matrix, self._bias).permute(0, 2, 3, 1).flatten(0, 2)
        made = given[: len(rows)].unflatten(1, tuple(self._shape))
        result: torch.Tensor = made.permute(0, 3, 1, 2)
        return result


def is_mostly_padding(call: Call, space: Sequence[int]) -> bool:
    """Whether the kernel has more taps than the images have positions."""
    weight = call["weight"]
    return weight.dim() == 4 and len(space) == 2 and math.prod(space) < math.prod(weight.shape[2:])
