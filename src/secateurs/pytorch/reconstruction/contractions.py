"""Convolutions and linear layers as matrix products of patches: what least squares are solved for.

A convolution of any rank, stride, padding, dilation and number of groups, a transposed one, a
linear layer, and the scale and shift of a normalisation (one input and one output a channel) all
become ``y = u Z + b`` with ``u`` of shape (groups, rows, inputs).
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
"""In patches that are made at a time: 64 MB in single precision."""


@dataclass(frozen=True, eq=False, slots=True)
class Geometry:
    """How patches lie in what a convolution reads.

    Attributes:
        kernel: its lengths.
        stride: of the patches.
        padding: (before, after) of each axis; negative ones crop.
        dilation: of the kernel.
        spread: zeros and values alternate by this, for a transposed convolution.
        groups: of channels.
        transposed: whether it is one.
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
        """Of a convolution; None where its arguments are of no known kind."""
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
    """One contraction, or one normalisation's scale and shift, as a linear map of patches.

    Attributes:
        weight: of the model that is looked at.
        channel: the axis of its result that its outputs lie along.
        geometry: of a convolution; None of anything else.
        columns: whether a linear layer's weight is (inputs, outputs).
        norm: a normalisation's call without scale and shift; its patches are what that gives.
    """

    weight: torch.Tensor
    channel: int
    geometry: Geometry | None = None
    columns: bool = False
    norm: Call | None = None

    @property
    def groups(self) -> int:
        """Of channels, each with a matrix of its own."""
        if self.norm is not None:
            return len(self.weight)
        return 1 if self.geometry is None else self.geometry.groups

    @property
    def taps(self) -> int:
        """How many inputs each channel makes."""
        return 1 if self.geometry is None else math.prod(self.geometry.kernel)

    @property
    def inputs(self) -> int:
        """How many inputs an output has."""
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
        """The reverse of ``matrix``, in the weight's shape, type and place."""
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
        """Rows of patches, (groups, rows, inputs), and of values that are as the result is.

        Args:
            x: what the contraction reads.
            targets: values of the shape of its result.
            per_image: how many rows to take of each image at most, drawn by lot.
            seed: of the lots.
            present: which places hold more than filling.
        """
        rows = [self._rows(target) for target in targets]
        each = max(1, rows[0].shape[1] // len(x))
        drawn = draw_rows(len(x), each, per_image, seed, present)
        if drawn is None:
            return self._patches(x, None), rows
        chosen = torch.from_numpy(drawn).to(x.device)
        return self._patches(x, chosen), [table[:, chosen] for table in rows]

    def _patches(self, x: torch.Tensor, chosen: torch.Tensor | None) -> torch.Tensor:
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
        """(groups, rows, outputs) of a value of the result's shape."""
        flat = y.movedim(self.channel, -1).reshape(-1, y.shape[self.channel])
        return flat.reshape(len(flat), self.groups, -1).transpose(0, 1).float()

    def long_geometry(self) -> KernelGeometry | None:
        """Of a convolution over a long kernel, of one group; None of anything else."""
        found = self.geometry
        if found is None or found.transposed or found.groups > 1:
            return None
        geometry = KernelGeometry(found.kernel, found.stride, found.padding, found.dilation)
        return geometry if geometry.is_long() else None

    def rows_per_image(self, images: int) -> int:
        """How many rows of each image are wanted."""
        return rows_per_image(self.inputs, images)


def _normalise(call: Call, x: torch.Tensor) -> torch.Tensor:
    """What a normalisation gives without its scale and shift."""
    return call.with_arguments(input=x).run_one()


def map_of(call: Call, x_dims: int) -> Map | None:
    """The map that an operation is; None where it is none.

    Args:
        call: with its weight in place; what depends on the images may be sources.
        x_dims: how many axes its input has.
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
    """The scale and shift of a normalisation, as a map; None where it has none of one axis."""
    weight = call.get("weight")
    if call.packet not in NORMS or not isinstance(weight, torch.Tensor) or weight.dim() != 1:
        return None
    channel = -1 if call.packet in (aten.layer_norm, aten.rms_norm) else 1
    named = {**call.named, "weight": None}
    if "bias" in named:
        named["bias"] = None
    return Map(weight, channel, norm=Call(call.function, (), named))
