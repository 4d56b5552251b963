"""Layers and operations that only move elements about: run on the labels, they say what they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from secateurs.channels.equations import Ids
from secateurs.channels.moved_labels import (
    add_frozen_side,
    axes_of,
    lay_out,
    merge_labels,
    round_the_end,
)
from secateurs.keras.internals import GetItem, operation_classes
from secateurs.keras.tracing.op_call import Call
from secateurs.keras.tracing.op_record import Axes, Place, Value
from secateurs.keras.tracing.rules.registry import OF_ALL_OPERANDS, rule, unknown
from secateurs.keras.tracing.tracer import Tracer

UnitLabels = NDArray[np.integer]
Movement = Callable[[Ids], UnitLabels | Sequence[UnitLabels]]


def move(tracer: Tracer, call: Call, movement: Movement) -> None:
    """The rule for movements of one value: ``movement`` does to an array what the layer does."""
    found: list[list[Axes]] = [[] for _ in call.outputs]
    for axis, units in list(call.input.axes.items()):
        moved = movement(lay_out(call.input.shape, axis, units))
        results = moved if isinstance(moved, (list, tuple)) else [moved]
        for number, labels in enumerate(results):
            reason = f"{call} picks it by its position"
            found[number].append(axes_of(tracer.equations, np.asarray(labels), units, reason))
    reason = f"{call}: a reshape that cannot be followed"
    for output, layers_found in zip(call.outputs, found, strict=True):
        tracer.put(output, merge_labels(tracer.equations, output.rank, layers_found, reason))


@rule(layers.Flatten)
def flatten(tracer: Tracer, call: Call) -> None:
    """Into one axis; from channels first, the channels are moved last before."""

    def movement(labels: Ids) -> Ids:
        if call.layer.data_format == "channels_first" and labels.ndim > 1:
            labels = np.moveaxis(labels, 1, -1)
        return labels.reshape(call.output.shape)

    move(tracer, call, movement)


@rule(layers.Reshape)
def reshape(tracer: Tracer, call: Call) -> None:
    """All axes but the batch's; sizes that follow channels are kept in step."""
    move(tracer, call, lambda labels: labels.reshape(call.output.shape))
    for position, size in enumerate(call.layer.target_shape):
        if size != -1:
            tracer.counts(call.path, "target_shape", call.output.axes.get(position + 1), position)


@rule(layers.Permute)
def permute(tracer: Tracer, call: Call) -> None:
    """All axes but the batch's."""
    move(tracer, call, lambda labels: labels.transpose(0, *call.layer.dims))


@rule(layers.RepeatVector)
def repeat_vector(tracer: Tracer, call: Call) -> None:
    """A new axis of copies."""
    move(tracer, call, lambda labels: np.repeat(labels[:, None], call.layer.n, axis=1))


@rule(layers.Concatenate)
def concatenate(tracer: Tracer, call: Call) -> None:
    """One axis is put end to end; the others are one."""
    _join(tracer, call, call.inputs, call.layer.axis)


@rule(*operation_classes("Concatenate", "Append"))
def concatenate_operation(tracer: Tracer, call: Call) -> None:
    """As the layer; constants keep their places."""
    if call.layer.axis is None:
        return unknown(tracer, call, "it flattens what it joins")
    return _join(tracer, call, call.operands, call.layer.axis)


def _join(tracer: Tracer, call: Call, values: Sequence[Value], given: int) -> None:
    axis = given % call.output.rank
    axes: dict[int, Ids | None] = {
        other: tracer.unify([Place(value, other) for value in values])
        for other in range(call.output.rank)
        if other != axis
    }
    parts = [value.axes.get(axis) for value in values]
    if any(part is not None for part in parts):
        # A part without channels keeps its place: units of its own that nothing may remove.
        axes[axis] = np.concatenate(
            [
                add_frozen_side(tracer.equations, value.shape[axis]) if part is None else part
                for value, part in zip(values, parts, strict=True)
            ]
        )
    tracer.put(call.output, axes)


@rule(*operation_classes("Stack"))
def stack(tracer: Tracer, call: Call) -> None:
    """A new axis without channels; the others are one."""
    axis = call.layer.axis % call.output.rank
    others = [at for at in range(call.output.rank) if at != axis]
    tracer.put(
        call.output,
        {
            new: tracer.unify([Place(value, old) for value in call.operands])
            for old, new in enumerate(others)
        },
    )


def _on_labels(call: Call) -> Movement:
    """The operation itself, run on the labels in the place of its first argument."""

    def movement(labels: Ids) -> UnitLabels | Sequence[UnitLabels]:
        tensor = keras.ops.convert_to_tensor(np.ascontiguousarray(labels, np.int32))
        arguments = [tensor if item is call.input else item for item in call.arguments]
        keywords = {k: tensor if item is call.input else item for k, item in call.keywords.items()}
        moved = call.layer(*arguments, **keywords)
        if isinstance(moved, (list, tuple)):
            return [np.asarray(keras.ops.convert_to_numpy(item)) for item in moved]
        return np.asarray(keras.ops.convert_to_numpy(moved))

    return movement


@rule(
    *operation_classes(
        "ExpandDims",
        "Flip",
        "Fliplr",
        "Flipud",
        "Moveaxis",
        "Ravel",
        "Repeat",
        "Rot90",
        "Squeeze",
        "Swapaxes",
        "Tile",
        "Transpose",
        "Unstack",
    )
)
def rearrange(tracer: Tracer, call: Call) -> None:
    """Told nothing of the lengths of axes that carry channels."""
    if len(call.inputs) > 1:
        return unknown(tracer, call, "it is told by a tensor what to do")
    return move(tracer, call, _on_labels(call))


@rule(
    *operation_classes(
        "TakeAlongAxis",
        "Cumsum",
        "Cumprod",
        "Sort",
        "Argsort",
        "Argmax",
        "Argmin",
        "Quantile",
        "TopK",
    )
)
def along_axis(tracer: Tracer, call: Call) -> None:
    """Each line along one axis is picked from, sorted, summed up, ... on its own."""
    x = call.input
    axis = getattr(call.layer, "axis", -1)
    if len(call.inputs) > 1 or not isinstance(axis, int):
        return unknown(tracer, call, "it runs along several axes, or by a tensor that is computed")
    axis %= x.rank
    tracer.freeze_known(x, f"{call} runs along it", [axis])
    longer = call.output.rank - x.rank
    for output in call.outputs:
        moved = {at: at if at < axis else at + longer for at in x.axes if at != axis}
        tracer.put(output, {new: x.axes[old] for old, new in moved.items()})
    return None


@rule(*operation_classes("Roll"))
def roll(tracer: Tracer, call: Call) -> None:
    """As many come round the end as were asked for; these stay."""
    shifts, axes = (
        value if isinstance(value, (list, tuple)) else (value,)
        for value in (call.layer.shift, call.layer.axis)
    )
    if axes == (None,):
        tracer.freeze_known(call.input, f"{call} of all values", range(call.input.rank))
    for shift, axis in zip(shifts * len(axes) if len(shifts) == 1 else shifts, axes, strict=True):
        units = None if axis is None else call.input.axes.get(axis % call.input.rank)
        if units is not None:
            tracer.equations.freeze(round_the_end(units, shift), f"{call} takes it round the end")
    rearrange(tracer, call)


@rule(*operation_classes("Reshape", "BroadcastTo"))
def reshape_operation(tracer: Tracer, call: Call) -> None:
    """Told lengths as integers: those of axes that carry channels are kept in step."""
    attribute = "newshape" if hasattr(call.layer, "newshape") else "shape"
    asked = getattr(call.layer, attribute)
    if len(call.inputs) > 1 or not all(isinstance(size, int) for size in asked):
        return unknown(tracer, call, "its shape is a tensor")
    move(tracer, call, _on_labels(call))
    wholes = _wholes_of(tracer, call)
    for position, size in enumerate(asked):
        if size != -1:
            units = call.output.axes.get(position)
            tracer.counts(call.path, attribute, units, position, wholes)
    return None


def _wholes_of(tracer: Tracer, call: Call) -> list[Ids]:
    """The widths that a number a reshape is told may be a share of."""
    axes = call.output.axes
    grids = [(axes[at], axes[at + 1]) for at in axes if at + 1 in axes]
    return [*call.input.axes.values(), *(tracer.equations.compose(sides) for sides in grids)]


@rule(*operation_classes("Slice"))
def slice_operation(tracer: Tracer, call: Call) -> None:
    """So many positions from one on, along each axis."""
    x, lengths = call.input, call.layer.shape
    starts = call.arguments[1] if len(call.arguments) > 1 else call.keywords["start_indices"]
    if (
        len(call.inputs) > 1
        or not isinstance(starts, (list, tuple))
        or not all(isinstance(at, int) for at in starts)
    ):
        return unknown(tracer, call, "where it begins is a tensor")
    for axis, length in enumerate(lengths):
        if (units := x.axes.get(axis)) is None:
            continue
        if starts[axis]:
            tracer.counts(call.path, "start_indices", units[: starts[axis]], axis)
        if length != -1:
            tracer.counts(call.path, "shape", units[starts[axis] : starts[axis] + length], axis)
    places = tuple(
        slice(start, None if length == -1 else start + length)
        for start, length in zip(starts, lengths, strict=True)
    )
    return move(tracer, call, lambda labels: labels[places])


@rule(*operation_classes("Split", "ArraySplit"))
def split(tracer: Tracer, call: Call) -> None:
    """Equal pieces all lose the same channels, so that they stay equal; others go by position."""
    asked = call.layer.indices_or_sections
    axis = call.layer.axis % call.input.rank
    units = call.input.axes.get(axis)
    if units is not None and isinstance(asked, int):
        if asked > 1 and len(units) % asked:
            return unknown(tracer, call, "its pieces are not equal")
        rows, _ = tracer.equations.factor(units, (asked, len(units) // asked))
        tracer.equations.freeze(rows, f"{call} needs {asked} pieces")
    elif units is not None:
        for position, place in enumerate(asked):
            tracer.counts(call.path, "indices_or_sections", units[:place], position)
    return move(tracer, call, _on_labels(call))


@rule(*operation_classes("Pad"))
def pad(tracer: Tracer, call: Call) -> None:
    """Along an axis of channels, a constant pad adds positions that nothing may remove."""
    x = call.input
    amounts = np.broadcast_to(np.asarray(call.layer.pad_width), (x.rank, 2)).tolist()
    axes: Axes = {}
    for axis, units in x.axes.items():
        before, after = amounts[axis]
        if before == after == 0:
            axes[axis] = units
        elif call.layer.mode == "constant":
            ends = [add_frozen_side(tracer.equations, size) for size in (before, after)]
            axes[axis] = np.concatenate([ends[0], units, ends[1]])
        else:
            tracer.equations.freeze(units, f"{call} pads it by {call.layer.mode}")
    tracer.put(call.output, axes)


@rule(GetItem)
def get_item(tracer: Tracer, call: Call) -> None:
    """``x[..., 8:16]``: positions along an axis of channels are kept in step."""
    key = call.by_name["key"]
    entries = list(key) if isinstance(key, (tuple, list)) else [key]
    plain = all(isinstance(e, (int, slice, type(None), type(Ellipsis))) for e in entries)
    if not plain or len(call.inputs) > 1:
        return unknown(tracer, call, "it is indexed by a tensor")
    axis = 0
    for number, entry in enumerate(entries):
        if entry is Ellipsis:
            axis += call.input.rank - sum(e is not None and e is not Ellipsis for e in entries)
        elif entry is not None:
            _follow_entry(tracer, call, number, entry, axis)
            axis += 1
    return move(tracer, call, _on_labels(call))


PARTS = ("start", "stop", "index")
"""What of an entry of an index a size stands for: its position is 3 * entry + this."""


def _follow_entry(tracer: Tracer, call: Call, number: int, entry: int | slice, axis: int) -> None:
    units = call.input.axes.get(axis)
    if units is None or entry == slice(None):
        return
    if isinstance(entry, slice):
        ends = {"start": entry.start, "stop": entry.stop}
        regular = entry.step in (None, 1)
    else:
        ends, regular = {"index": entry}, True
    if not regular or any(end is not None and end < 0 for end in ends.values()):
        reason = f"{call} counts positions from the end or in steps; write them from the front"
        tracer.equations.freeze(units, reason)
        return
    for part, end in ends.items():
        if end:
            position = len(PARTS) * number + PARTS.index(part)
            tracer.counts(call.path, "key", units[:end], position)


OF_ALL_OPERANDS |= {concatenate_operation, stack}
