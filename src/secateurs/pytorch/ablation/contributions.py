"""The contribution of one input channel to the result of a convolution or matrix product.

It is computed for many pairs of a channel and an image at once: each pair takes its own channel of
its own image, so all pairs together are one batch of small matrix products.
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
"""Mean number of pairs for each channel from which on channels are multiplied one by one."""


def subtract_(
    output: torch.Tensor,
    call: Call,
    operand: torch.Tensor,
    images: torch.Tensor,
    index: torch.Tensor,
) -> None:
    """Subtract from each pair's output the contribution of its channel.

    Args:
        output: result of the operation for the image of each pair, changed in place; pairs of the
            same channel are consecutive. Images are in channels-last format, as in ``operand``.
        call: an ungrouped convolution, or a matrix product.
        operand: input of the operation for every image.
        images: image of each pair, shape (pairs,).
        index: indices of each pair's channel along the axis that is read, shape (pairs, each).
    """
    if call.packet not in CONVOLUTIONS:
        if index.shape[1] == 1:
            _subtract_outer_products_(output, call, operand[images, ..., index[:, 0]], index[:, 0])
            return
    elif _has_small_kernels(call, index):
        last = operand.movedim(1, -1)  # a view
        _subtract_patches_(output, call, last[images[:, None], ..., index], index)
        return
    axis = 1 if call.packet in CONVOLUTIONS else operand.dim() - 1
    for rows in _runs(index[:, 0]):
        input_index = index[rows][0]
        # Narrowed first: selecting along the channels would copy all of the operand.
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
    """Whether a pair's patches are no larger than its output, and the padding is known."""
    weight = call["weight"]
    taps = weight[0, 0].numel() * index.shape[1]
    return taps <= len(weight) and not isinstance(call.get("padding", 0), str)


def _subtract_patches_(
    output: torch.Tensor, call: Call, values: torch.Tensor, index: torch.Tensor
) -> None:
    """Convolve each pair's channel as one matrix product of patches and kernels.

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
        same = kernels.expand(len(patches[rows]), *kernels.shape)  # a view
        _subtract_products_(output[rows], patches[rows], same)


def _subtract_products_(output: torch.Tensor, patches: torch.Tensor, kernels: torch.Tensor) -> None:
    """Subtract from each pair's output its kernels (outputs, taps) times patches (taps, places)."""
    if output.dim() == 4:
        rows = output.permute(0, 2, 3, 1).flatten(1, 2)
        rows.baddbmm_(patches.transpose(1, 2), kernels.transpose(1, 2), alpha=-1)
    else:
        output.flatten(2).baddbmm_(kernels, patches, alpha=-1)


def _patches(values: torch.Tensor, call: Call) -> torch.Tensor:
    """Inputs of each output position: (pairs, each, *space) -> (pairs, taps, places)."""
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
    """Slices of consecutive pairs of the same channel."""
    _, counts = torch.unique_consecutive(channels, return_counts=True)
    start = 0
    for count in counts.tolist():
        yield slice(start, start + count)
        start += count


def inputs_first(call: Call) -> torch.Tensor:
    """The weight of a matrix product as (inputs, outputs)."""
    # ``Routes`` counts only steps with a weight of the model's own as linear.
    weight = cast(torch.Tensor, weight_of(call)).detach()
    return weight.T if call.packet is aten.linear else weight


def summand(call: Call, part: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The contribution of some input channels to the result."""
    if call.packet in CONVOLUTIONS:
        weight = channels_last(call["weight"].detach().index_select(1, index))
        small = call.with_arguments(input=channels_last(part), weight=weight, bias=None)
        return small.run_one()
    return part @ inputs_first(call).index_select(0, index)
