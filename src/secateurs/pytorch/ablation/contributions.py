"""What one input channel adds to the result of a convolution or a matrix product.

For many pairs of a channel and an image at once: each takes its own channel of its own image, so
all of them are one batch of small matrix products.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import cast

import torch
from torch.nn import functional as F

from secateurs.pytorch.ablation.downstream import CONVOLUTIONS, channels_last, weight_of
from secateurs.pytorch.tracing.interpreter import aten
from secateurs.pytorch.tracing.op_call import Call

LONG = 16
"""Pairs of the same channel from which on they are multiplied on their own, with its kernels."""


def subtract_(
    output: torch.Tensor,
    call: Call,
    operand: torch.Tensor,
    images: torch.Tensor,
    index: torch.Tensor,
) -> None:
    """Take from each pair's output what its channel adds to it.

    Args:
        output: what the operation gives for the image of each pair; of pairs with the same channel
            next to each other. Images with their channels last, as ``operand``'s.
        call: a convolution that is not grouped, or a matrix product.
        operand: what it reads of every image.
        images: of the pairs; (pairs,).
        index: of what each pair's channel is, along the axis that is read; (pairs, each).
    """
    if call.packet not in CONVOLUTIONS:
        if index.shape[1] == 1:
            _subtract_outer_products_(output, call, operand[images, ..., index[:, 0]], index[:, 0])
            return
    elif _has_small_kernels(call, index):
        last = operand.movedim(1, -1)  # nothing is copied
        _subtract_patches_(output, call, last[images[:, None], ..., index], index)
        return
    axis = 1 if call.packet in CONVOLUTIONS else operand.dim() - 1
    for rows in _runs(index[:, 0]):
        input_index = index[rows][0]
        # Narrowed first: to select along the channels would lay all of the operand out anew.
        slices = [operand.narrow(axis, place, 1) for place in input_index.tolist()]
        part = torch.cat(slices, axis).index_select(0, images[rows])
        output[rows] -= summand(call, part, input_index)


def _subtract_outer_products_(
    output: torch.Tensor, call: Call, values: torch.Tensor, column: torch.Tensor
) -> None:
    weights = inputs_first(call)[column]
    by_output = weights.reshape(len(column), *[1] * (values.dim() - 1), -1)
    output.addcmul_(values[..., None], by_output, value=-1)


def _has_small_kernels(call: Call, index: torch.Tensor) -> bool:
    """Whether the patches of a pair are no more than its output, and how they lie is known."""
    weight = call["weight"]
    taps = weight[0, 0].numel() * index.shape[1]
    return taps <= len(weight) and not isinstance(call.get("padding", 0), str)


def _subtract_patches_(
    output: torch.Tensor, call: Call, values: torch.Tensor, index: torch.Tensor
) -> None:
    """The convolution of each pair's channel as one matrix product: its patches by its kernels.

    The values of the channels have the shape (pairs, each, *space).
    """
    patches = _patches(values, call)
    by_input = call["weight"].detach().transpose(0, 1).flatten(2).contiguous()
    parts = list(_runs(index[:, 0]))
    if len(index) < LONG * len(parts):
        _subtract_products_(output, patches, by_input[index].transpose(1, 2).flatten(2))
        return
    for rows in parts:
        kernels = by_input[index[rows][0]].transpose(0, 1).flatten(1)
        same = kernels.expand(len(patches[rows]), *kernels.shape)  # nothing is copied
        _subtract_products_(output[rows], patches[rows], same)


def _subtract_products_(output: torch.Tensor, patches: torch.Tensor, kernels: torch.Tensor) -> None:
    """From each pair's output, its kernels (outputs, taps) times its patches (taps, places)."""
    if output.dim() == 4:
        rows = output.permute(0, 2, 3, 1).flatten(1, 2)
        rows.baddbmm_(patches.transpose(1, 2), kernels.transpose(1, 2), alpha=-1)
    else:
        output.flatten(2).baddbmm_(kernels, patches, alpha=-1)


def _patches(values: torch.Tensor, call: Call) -> torch.Tensor:
    """What each place of the output meets; (pairs, each, *space) -> (pairs, taps, places)."""
    space = values.dim() - 2
    sizes = call["weight"].shape[2:]
    stride, padding, dilation = (
        _of_each_axis(call.get(name, default), space)
        for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))
    )
    padded = F.pad(values, [side for pad in reversed(padding) for side in (pad, pad)])
    lengths = [
        (length - dilation[axis] * (sizes[axis] - 1) - 1) // stride[axis] + 1
        for axis, length in enumerate(padded.shape[2:])
    ]
    taps = []
    for tap in itertools.product(*(range(size) for size in sizes)):
        starts = [at * step for at, step in zip(tap, dilation, strict=True)]
        where = [
            slice(start, start + (length - 1) * step + 1, step)
            for start, length, step in zip(starts, lengths, stride, strict=True)
        ]
        taps.append(padded[(slice(None), slice(None), *where)])
    return torch.stack(taps, 2).flatten(3).flatten(1, 2)


def _of_each_axis(value: int | list[int], axes: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * axes if len(values) == 1 else values


def _runs(channels: torch.Tensor) -> Iterator[slice]:
    """Where pairs of the same channel are."""
    _, counts = torch.unique_consecutive(channels, return_counts=True)
    start = 0
    for count in counts.tolist():
        yield slice(start, start + count)
        start += count


def inputs_first(call: Call) -> torch.Tensor:
    """The weight of a matrix product as (inputs, outputs)."""
    # Only steps with a weight of the model's own are linear (``Routes``).
    weight = cast(torch.Tensor, weight_of(call)).detach()
    return weight.T if call.packet is aten.linear else weight


def summand(call: Call, part: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """What some input channels add to the result."""
    if call.packet in CONVOLUTIONS:
        weight = channels_last(call["weight"].detach().index_select(1, index))
        small = call.with_arguments(input=channels_last(part), weight=weight, bias=None)
        return small.run_one()
    return part @ inputs_first(call).index_select(0, index)
