"""Convolutions and linear layers as matrix products of patches, for least squares.

A convolution of any rank, stride, padding, dilation and number of groups, a transposed one, a
linear layer, and the scale and shift of a normalisation (one input and one output for each channel)
all become ``y = u Z + b`` with ``u`` of shape (groups, rows, inputs).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from secateurs.pytorch.tracing import shape_inference
from secateurs.pytorch.tracing.interpreter import aten
from secateurs.pytorch.tracing.op_call import Call
from secateurs.reconstruction.drawing import EVERYWHERE, Present, draw_rows, rows_per_image
from secateurs.reconstruction.long_kernels import KernelGeometry

CONVOLUTIONS = (aten.conv1d, aten.conv2d, aten.conv3d)
TRANSPOSED = (aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d)
NORMS = (aten.layer_norm, aten.rms_norm, aten.group_norm, aten.batch_norm)

NUMBERS_OF_PATCHES = 2**24
"""Maximum number of elements in the patches of one step: 64 MB in single precision."""


@dataclass(frozen=True, eq=False, slots=True)
class Geometry:
    """Geometry of the patches that a convolution reads.

    Attributes:
        kernel: kernel size along each axis.
        stride: stride of the patches along each axis.
        padding: (before, after) along each axis; negative values crop.
        dilation: dilation of the kernel along each axis.
        spread: distance between input values after zeros are inserted, for a transposed
            convolution.
        groups: number of groups.
        transposed: whether the convolution is transposed.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    spread: tuple[int, ...]
    groups: int = 1
    transposed: bool = False

    @classmethod
    def of(cls, call: Call) -> Geometry | None:
        """The geometry of a convolution; None where its arguments are not supported."""
        weight = call["weight"]
        rank = weight.dim() - 2
        transposed = call.packet in TRANSPOSED or bool(call.get("transposed", False))
        kernel = tuple(weight.shape[2:])
        stride = tuple(shape_inference.per_axis(call.get("stride", 1), rank))
        dilation = tuple(shape_inference.per_axis(call.get("dilation", 1), rank))
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        given = call.get("padding", 0)
        if isinstance(given, str):
            pads = [(r // 2, r - r // 2) if given == "same" else (0, 0) for r in reach]
        else:
            pads = [(p, p) for p in shape_inference.per_axis(given, rank)]
        ones = (1,) * rank
        groups = call.get("groups", 1)
        if not transposed:
            return cls(kernel, stride, tuple(pads), dilation, ones, groups)
        extra = shape_inference.per_axis(call.get("output_padding", 0), rank)
        mirrored = tuple(
            (r - low, r - high + e) for r, (low, high), e in zip(reach, pads, extra, strict=True)
        )
        return cls(kernel, ones, mirrored, dilation, stride, groups, True)

    def windows(self, x: torch.Tensor) -> torch.Tensor:
        """A view of every patch: (images, channels, *places, *kernel)."""
        x = self._spread(x)
        pads = [side for pair in reversed(self.padding) for side in pair]
        if any(pads):
            x = F.pad(x, pads)
        for axis, (k, s, d) in enumerate(
            zip(self.kernel, self.stride, self.dilation, strict=True), start=2
        ):
            x = x.unfold(axis, d * (k - 1) + 1, s)[..., ::d]
        return x

    def _spread(self, x: torch.Tensor) -> torch.Tensor:
        if all(step == 1 for step in self.spread):
            return x
        lengths = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], self.spread, strict=True)]
        spread = x.new_zeros(*x.shape[:2], *lengths)
        every = tuple(slice(None, None, step) for step in self.spread)
        spread[(slice(None), slice(None), *every)] = x
        return spread


@dataclass(frozen=True, eq=False, slots=True)
class Map:
    """A contraction, or a normalisation's scale and shift, as a linear map of patches.

    Attributes:
        weight: weight of the model under examination.
        channel: axis of the outputs in its result.
        geometry: geometry of a convolution; None for other maps.
        columns: whether a linear layer's weight is (inputs, outputs).
        norm: a normalisation without scale and shift, whose result is the patches.
    """

    weight: torch.Tensor
    channel: int
    geometry: Geometry | None = None
    columns: bool = False
    norm: Call | None = None

    @property
    def groups(self) -> int:
        """Number of groups, each with a matrix of its own."""
        if self.norm is not None:
            return len(self.weight)
        return 1 if self.geometry is None else self.geometry.groups

    @property
    def taps(self) -> int:
        """Number of inputs for each channel."""
        return 1 if self.geometry is None else math.prod(self.geometry.kernel)

    @property
    def inputs(self) -> int:
        """Number of inputs for each output."""
        if self.norm is not None:
            return 1
        if self.geometry is None:
            return self.weight.shape[0 if self.columns else 1]
        per_group = self.weight.shape[0] // self.groups
        return self.taps * (per_group if self.geometry.transposed else self.weight.shape[1])

    def matrix(self) -> NDArray[np.float64]:
        """The weights as (groups, inputs, outputs)."""
        weight = self.weight.detach()
        if self.norm is not None:
            found = weight.reshape(-1, 1, 1)
        elif self.geometry is None:
            found = (weight if self.columns else weight.T)[None]
        elif self.geometry.transposed:
            flipped = weight.flip(tuple(range(2, weight.dim())))
            found = flipped.unflatten(0, (self.groups, -1)).movedim(2, -1).flatten(1, -2)
        else:
            found = weight.reshape(self.groups, len(weight) // self.groups, -1).transpose(1, 2)
        numbers: NDArray[np.float64] = found.double().cpu().numpy()
        return numbers

    def weight_from(self, matrix: NDArray[np.float64]) -> torch.Tensor:
        """The inverse of ``matrix``: a tensor of the weight's shape, dtype and device."""
        found = torch.from_numpy(np.ascontiguousarray(matrix))
        if self.norm is not None:
            found = found.reshape(-1)
        elif self.geometry is None:
            found = found[0] if self.columns else found[0].T
        elif self.geometry.transposed:
            shape = self.weight.shape
            inside = shape[0] // self.groups
            found = found.reshape(self.groups, inside, *shape[2:], shape[1])
            found = found.movedim(-1, 2).flatten(0, 1).flip(tuple(range(2, len(shape))))
        else:
            found = found.transpose(1, 2).reshape(self.weight.shape)
        return found.to(self.weight.device, self.weight.dtype)

    def tables(
        self,
        x: torch.Tensor,
        targets: Sequence[torch.Tensor],
        per_image: int,
        seed: int,
        present: Present = EVERYWHERE,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Rows of patches, and the same rows of values in the result's shape.

        Args:
            x: input of the contraction.
            targets: values of the shape of its result.
            per_image: maximum number of rows sampled from each image.
            seed: seed of the random sample.
            present: masks of the positions that are not padding.

        Returns:
            (patches of shape (groups, rows, inputs), for each target its rows (groups, rows,
            outputs)).
        """
        rows = [self._rows(target) for target in targets]
        each = max(1, rows[0].shape[1] // len(x))
        drawn = draw_rows(len(x), each, per_image, seed, present)
        if drawn is None:
            return self._patches(x, None), rows
        chosen = torch.from_numpy(drawn).to(x.device)
        return self._patches(x, chosen), [table[:, chosen] for table in rows]

    def _patches(self, x: torch.Tensor, chosen: torch.Tensor | None) -> torch.Tensor:
        """Patches of the input (groups, rows, inputs), of the chosen rows; None for all of them."""
        if self.norm is not None:
            flat = self._rows(_normalise(self.norm, x))
            return flat if chosen is None else flat[:, chosen]
        if self.geometry is None:
            flat = x.reshape(-1, x.shape[-1])
            return (flat if chosen is None else flat[chosen])[None].float()
        windows = self.geometry.windows(x)
        rank = len(self.geometry.kernel)
        places = windows.shape[2 : 2 + rank]
        if chosen is None:
            moved = windows.movedim(1, 1 + rank)  # images, places, channels, kernel
            flat = moved.reshape(-1, x.shape[1] * self.taps)
        else:
            at = torch.unravel_index(chosen, (len(x), *places))
            flat = windows.movedim(1, 1 + rank)[at].flatten(1)
        return flat.reshape(len(flat), self.groups, -1).transpose(0, 1).float()

    def _rows(self, y: torch.Tensor) -> torch.Tensor:
        """A value of the result's shape as rows (groups, rows, outputs)."""
        flat = y.movedim(self.channel, -1).reshape(-1, y.shape[self.channel])
        return flat.reshape(len(flat), self.groups, -1).transpose(0, 1).float()

    def long_geometry(self) -> KernelGeometry | None:
        """Geometry of an ungrouped convolution with a long kernel; None for other maps."""
        found = self.geometry
        if found is None or found.transposed or found.groups > 1:
            return None
        geometry = KernelGeometry(found.kernel, found.stride, found.padding, found.dilation)
        return geometry if geometry.is_long() else None

    def rows_per_image(self, images: int) -> int:
        """Number of rows to sample from each image."""
        return rows_per_image(self.inputs, images)


def _normalise(call: Call, x: torch.Tensor) -> torch.Tensor:
    """The result of a normalisation without its scale and shift."""
    return call.with_arguments(input=x).run_one()


def map_of(call: Call, x_dims: int) -> Map | None:
    """The linear map of an operation; None where it is none.

    Args:
        call: operation with its weight in place; what depends on the images may be sources.
        x_dims: number of axes of its input.
    """
    if call.packet is aten.linear and call["weight"].dim() == 2:
        return Map(call["weight"], x_dims - 1)
    if call.packet in (*CONVOLUTIONS, *TRANSPOSED, aten.convolution):
        rank = call["weight"].dim() - 2
        geometry = Geometry.of(call)
        return None if geometry is None or x_dims != rank + 2 else Map(call["weight"], 1, geometry)
    if call.packet is aten.addmm and _is_plain(call):
        return Map(call["mat2"], x_dims - 1, columns=True)
    if call.packet in (aten.mm, aten.matmul) and isinstance(call.arguments[1], torch.Tensor):
        weight = call.arguments[1]
        return Map(weight, x_dims - 1, columns=True) if weight.dim() == 2 else None
    return None


def _is_plain(call: Call) -> bool:
    factors = [call.named.get(name, 1) for name in ("beta", "alpha")]
    return factors == [1, 1]


def norm_of(call: Call) -> Map | None:
    """The scale and shift of a normalisation as a map; None unless they have one axis."""
    weight = call.get("weight")
    if call.packet not in NORMS or not isinstance(weight, torch.Tensor) or weight.dim() != 1:
        return None
    channel = -1 if call.packet in (aten.layer_norm, aten.rms_norm) else 1
    named = {**call.named, "weight": None}
    if "bias" in named:
        named["bias"] = None
    return Map(weight, channel, norm=Call(call.function, (), named))
