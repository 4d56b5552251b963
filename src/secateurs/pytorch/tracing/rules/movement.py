"""Rules for operations that only move elements: run on labels, they show where each unit goes.

See ``secateurs.channels.moved_labels``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch

from secateurs.channels.equations import Ids
from secateurs.channels.moved_labels import add_frozen_side, axes_of, merge_labels, round_the_end
from secateurs.pytorch.tracing.interpreter import aten
from secateurs.pytorch.tracing.op_call import Call, iterate_tensors
from secateurs.pytorch.tracing.op_record import Axes, Place
from secateurs.pytorch.tracing.rules.registry import rule
from secateurs.pytorch.tracing.tracer import Tracer


def move(tracer: Tracer, call: Call) -> object:
    """Rule for movements of one tensor: apply the movement to the labels of its units."""
    source = call.arguments[0]
    output = call.run()
    results = list(iterate_tensors(output))
    found: list[list[Axes]] = [[] for _ in results]
    where = tracer.where()
    for axis, units in list(tracer.axes(source).items()):
        moved = iterate_tensors(_move_labels(call, source.shape, axis, units))
        reason = f"picked by its position at {where}"
        for place, labels in enumerate(moved):
            found[place].append(axes_of(tracer.equations, labels.numpy(), units, reason))
    reason = f"a reshape that cannot be followed, at {where}"
    for result, layers in zip(results, found, strict=True):
        is_empty = not result.numel() and call.packet in PIECES
        lying = _drop_ambiguous_copies(tracer, layers)
        if is_empty:
            lying = [_axes_of_empty(tracer.axes(source), result)]
        tracer.put(result, merge_labels(tracer.equations, result.dim(), lying, reason))
    return output


PIECES = {aten.split, aten.split_with_sizes, aten.chunk, aten.tensor_split, aten.slice, aten.narrow}
"""Movements whose results have the operand's axes in the operand's order."""


def _axes_of_empty(axes: Axes, result: torch.Tensor) -> Axes:
    """Units along the axes of an empty piece, which has no element to carry a label.

    An expert that no token is sent to gets such a piece; on other inputs it is not empty.
    """
    return {axis: units for axis, units in axes.items() if len(units) == result.shape[axis]}


def _drop_ambiguous_copies(tracer: Tracer, layers: list[Axes]) -> list[Axes]:
    """Drop units of repeated values where as many entries are repeated as there are copies of each.

    Keys repeated for several query heads make a grid: heads of the keys, and copies of each. Where
    there are as many of one as of the other, a number in the model's code may be either; then all
    copies of a head go together.
    """
    if not tracer.spread or len(layers) < 2:
        return layers
    lengths: dict[int, list[int]] = {}
    for layer in layers:
        for axis, units in layer.items():
            lengths.setdefault(axis, []).append(len(np.unique(units)))
    return [
        {
            axis: units
            for axis, units in layer.items()
            if len(set(lengths[axis])) == len(lengths[axis]) or int(units[0]) not in tracer.spread
        }
        for layer in layers
    ]


IN_PLACE = {
    aten.squeeze_: aten.squeeze,
    aten.unsqueeze_: aten.unsqueeze,
    aten.transpose_: aten.transpose,
    aten.t_: aten.t,
}
"""In-place movement -> the movement that returns a new tensor."""


@rule(*IN_PLACE)
def move_in_place(tracer: Tracer, call: Call) -> object:
    """An in-place movement: labelled like the movement of a view of the original."""
    packet = IN_PLACE[call.packet]
    name = "int" if packet is aten.transpose else call.function._overloadname
    beside = Call(getattr(packet, name), call.arguments, call.keywords)
    axes = tracer.labels(_only(move(tracer, beside))).axes
    output = call.run_one()
    tracer.put(output, axes)
    return output


def _move_labels(call: Call, shape: Sequence[int], axis: int, units: Ids) -> object:
    lengths = [1] * len(shape)
    lengths[axis] = len(units)
    labels = torch.from_numpy(units).view(lengths).expand(shape)
    # The labels may need a copy where the operand allows a view.
    function = (
        aten.reshape.default if call.packet in (aten.view, aten._unsafe_view) else call.function
    )
    return function(labels, *call.arguments[1:], **call.keywords)


rule(
    aten.permute,
    aten.transpose,
    aten.t,
    aten.numpy_T,
    aten.mT,
    aten.swapaxes,
    aten.swapdims,
    aten.movedim,
    aten.unsqueeze,
    aten.squeeze,
    aten.flatten,
    aten.flip,
    aten.rot90,
    aten.unbind,
    aten.diagonal,
)(move)


@rule(aten.roll)
def roll(tracer: Tracer, call: Call) -> object:
    """Entries that wrap around the end are frozen."""
    x, shifts, dims = call["self"], call["shifts"], call.get("dims", ())
    known = tracer.axes(x)
    reason = f"wrapped around by roll at {tracer.where()}"
    if not dims:
        tracer.freeze_known(x, "roll over the flattened tensor", range(x.dim()))
    for shift, axis in zip(shifts, dims, strict=False):
        units = known.get(axis % x.dim())
        if units is not None:
            tracer.equations.freeze(round_the_end(units, shift), reason)
    return move(tracer, call)


@rule(
    aten.view,
    aten._unsafe_view,
    aten.reshape,
    aten.unflatten,
    aten.slice,
    aten.select,
    aten.narrow,
    aten.unfold,
    aten.split_with_sizes,
)
def move_by_sizes(tracer: Tracer, call: Call) -> object:
    """A movement with lengths or positions as arguments, which user code may hard-code."""
    if tracer.axes(call.arguments[0]):
        tracer.reads_sizes = True
    return move(tracer, call)


@rule(aten.expand, aten.repeat, aten.tile)
def spread(tracer: Tracer, call: Call) -> object:
    """Repeat an axis of length one, as often as the number of channels it is aligned with.

    The copies get units of their own, which become those they align with (``scale.expand(-1,
    16)``).
    """
    output = _only(move_by_sizes(tracer, call))
    source = call.tensors()[0]
    axes = tracer.labels(output).axes
    copied = {
        axis: tracer.spread_units(output.shape[axis])
        for axis in range(output.dim())
        if axis not in axes and output.shape[axis] > 1 and _length(source, output, axis) == 1
    }
    tracer.put(output, axes | copied)
    return output


@rule(aten.repeat_interleave)
def repeat_each(tracer: Tracer, call: Call) -> object:
    """Repeat each entry of an axis: a grid of the entries and their copies.

    For example, keys repeated for the query heads that share them: a head of the keys goes with
    all its copies, or the same copy of every head.
    """
    source, repeats, axis = call["self"], call.get("repeats"), call.get("dim")
    units = None if axis is None else tracer.axes(source).get(axis % source.dim())
    if units is None or not isinstance(repeats, int) or repeats in (1, len(units)):
        return spread(tracer, call)  # see _drop_ambiguous_copies
    output = _only(move_by_sizes(tracer, call))
    grid = tracer.equations.compose([units, tracer.spread_units(repeats)])
    tracer.put(output, dict(tracer.labels(output).axes) | {axis % source.dim(): grid})
    return output


@rule(aten.view_as_real, aten.view_as_complex)
def pair(tracer: Tracer, call: Call) -> object:
    """Two real numbers along the last axis as one complex number, or the reverse."""
    x = call["self"]
    if call.packet is aten.view_as_complex:
        tracer.freeze_known(x, "real and imaginary parts of complex numbers", (x.dim() - 1,))
    output = call.run_one()
    last = min(x.dim(), output.dim())
    tracer.put(output, {axis: units for axis, units in tracer.axes(x).items() if axis < last})
    return output


@rule(aten.diag_embed)
def diagonal_of(tracer: Tracer, call: Call) -> object:
    """Matrices with the last axis on their diagonal: a channel's row and column go together."""
    x = call["self"]
    output = call.run_one()
    rank = output.dim()
    sides = [call.get("dim1", -2) % rank, call.get("dim2", -1) % rank]
    rest = [axis for axis in range(rank) if axis not in sides]
    axes = tracer.axes(x)
    if call.get("offset", 0):
        tracer.freeze_known(x, "placed off the main diagonal by diag_embed", (x.dim() - 1,))
        axes = tracer.axes(x)
        units = None
    else:
        units = axes.get(x.dim() - 1)
    known: dict[int, Ids | None] = {at: axes.get(axis) for axis, at in enumerate(rest)}
    tracer.put(output, known | dict.fromkeys(sides, units))
    return output


@rule(aten.expand_as)
def spread_as(tracer: Tracer, call: Call) -> object:
    """Like ``expand``, with one copy for each channel of the other tensor."""
    output = _only(move_by_sizes(tracer, call))
    source, other = call.tensors()
    axes = dict(tracer.labels(output).axes)
    for axis, units in tracer.axes(other).items():
        if axis not in axes and _length(source, output, axis) == 1:
            axes[axis] = units
    tracer.put(output, axes)
    return output


def _only(output: object) -> torch.Tensor:
    """The single tensor that an operation returned."""
    (tensor,) = iterate_tensors(output)
    return tensor


def _length(source: torch.Tensor, output: torch.Tensor, axis: int) -> int:
    """Length of the source's axis behind this axis of the result; 1 where there is none."""
    at = axis - output.dim() + source.dim()
    return source.shape[at] if at >= 0 else 1


@rule(aten.chunk, aten.split, aten.unsafe_chunk, aten.unsafe_split, aten.tensor_split)
def divide(tracer: Tracer, call: Call) -> object:
    """Equal pieces of an axis: all lose the same channels, so that they stay equal.

    ``chunk`` and ``tensor_split`` divide whatever length there is; ``split`` takes the length of a
    piece.
    """
    source, amount = call.arguments[:2]
    axis = (call.arguments[2] if len(call.arguments) > 2 else call.get("dim", 0)) % source.dim()
    units = tracer.axes(source).get(axis)
    if units is None:
        return move(tracer, call)
    if not isinstance(amount, int):
        return move_by_sizes(tracer, call)
    is_chunk = call.packet in (aten.chunk, aten.unsafe_chunk, aten.tensor_split)
    pieces = amount if is_chunk else -(-len(units) // amount)
    if not is_chunk:
        tracer.reads_sizes = True
    if pieces > 1 and len(units) % pieces == 0:
        rows, _ = tracer.equations.factor(units, (pieces, len(units) // pieces))
        tracer.equations.freeze(rows, f"{call.name} at {tracer.where()} needs {pieces} pieces")
    elif pieces > 1:
        tracer.equations.freeze(units, f"{call.name} into unequal pieces at {tracer.where()}")
    return move(tracer, call)


@rule(aten.cat, aten.concat, aten.concatenate)
def cat(tracer: Tracer, call: Call) -> object:
    """One axis is concatenated; the others are equal."""
    tensors = [t for t in call.arguments[0] if t.dim() > 1 or t.numel()]
    output = call.run_one()
    axis = (call.arguments[1] if len(call.arguments) > 1 else call.get("dim", 0)) % output.dim()
    axes: dict[int, Ids | None] = {}
    for other in range(output.dim()):
        if other != axis:
            axes[other] = tracer.unify([Place(tensor, other) for tensor in tensors])
    # A uniform constant, such as a state of zeros, may lose channels too.
    parts = [tracer.free_units(tensor, axis) for tensor in tensors]
    if any(part is not None for part in parts):
        # A part without channels keeps its positions: it gets units of its own, which are frozen.
        axes[axis] = np.concatenate(
            [
                add_frozen_side(tracer.equations, tensor.shape[axis]) if part is None else part
                for tensor, part in zip(tensors, parts, strict=True)
            ]
        )
    tracer.put(output, axes)
    return output


@rule(aten.stack)
def stack(tracer: Tracer, call: Call) -> object:
    """A new axis without channels; the others are equal."""
    tensors = list(call.arguments[0])
    output = call.run_one()
    axis = (call.arguments[1] if len(call.arguments) > 1 else call.get("dim", 0)) % output.dim()
    others = itertools.chain(range(axis), range(axis + 1, output.dim()))
    axes = {
        new: tracer.unify([Place(tensor, old) for tensor in tensors])
        for old, new in enumerate(others)
    }
    tracer.put(output, axes)
    return output


@rule(aten.pad, aten.constant_pad_nd)
def pad(tracer: Tracer, call: Call) -> object:
    """Constant padding along an axis of channels adds frozen positions."""
    x, amounts = call.arguments[:2]
    mode = call.get("mode", "constant") if call.packet is aten.pad else "constant"
    if len(call.arguments) > 2 and isinstance(call.arguments[2], str):
        mode = call.arguments[2]
    output = call.run_one()
    axes: Axes = {}
    for axis, units in tracer.axes(x).items():
        place = 2 * (x.dim() - 1 - axis)
        before, after = amounts[place : place + 2] if place < len(amounts) else (0, 0)
        if before == after == 0:
            axes[axis] = units
        elif mode == "constant" and before >= 0 and after >= 0:
            ends = [add_frozen_side(tracer.equations, size) for size in (before, after)]
            axes[axis] = np.concatenate([ends[0], units, ends[1]])
        else:
            tracer.equations.freeze(units, f"padded by {mode} at {tracer.where()}")
    tracer.put(output, axes)
    return output


@rule(aten.im2col)
def im2col(tracer: Tracer, call: Call) -> object:
    """Patches: each channel becomes one entry for each tap of the kernel."""
    x, kernel = call.arguments[:2]
    output = call.run_one()
    channel = x.dim() - 3
    units = tracer.axes(x).get(channel)
    tracer.freeze_known(x, "im2col runs along this axis", (channel + 1, channel + 2))
    taps = int(np.prod(kernel))
    tracer.put(output, {channel: None if units is None else np.repeat(units, taps)})
    return output


@rule(aten.col2im)
def col2im(tracer: Tracer, call: Call) -> object:
    """Patches summed back to images: entries for all taps of the kernel become one channel."""
    x, _, kernel = call.arguments[:3]
    output = call.run_one()
    channel = x.dim() - 2
    units = tracer.axes(x).get(channel)
    tracer.freeze_known(x, "col2im reads every position", (channel + 1,))
    if units is not None:
        taps = int(np.prod(kernel))
        sides = tracer.equations.factor(units, (len(units) // taps, taps))
        tracer.equations.freeze(sides[1], "kernel positions of col2im")
        tracer.put(output, {channel: sides[0]})
    return output
