"""Rules for layers that only move elements: run on labels, they show where each unit goes."""

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
    """Rule for movements of one value: apply the movement to the labels of its units."""
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
    """Flatten into one axis; with ``channels_first``, channels are moved last first."""

    def movement(labels: Ids) -> Ids:
        if call.layer.data_format == "channels_first" and labels.ndim > 1:
            labels = np.moveaxis(labels, 1, -1)
        return labels.reshape(call.output.shape)

    move(tracer, call, movement)


@rule(layers.Reshape)
def reshape(tracer: Tracer, call: Call) -> None:
    """Reshape all axes but the batch; sizes that equal a number of channels follow it."""
    move(tracer, call, lambda labels: labels.reshape(call.output.shape))
    for position, size in enumerate(call.layer.target_shape):
        if size != -1:
            tracer.counts(call.path, "target_shape", call.output.axes.get(position + 1), position)


@rule(layers.Permute)
def permute(tracer: Tracer, call: Call) -> None:
    """Permute all axes but the batch."""
    move(tracer, call, lambda labels: labels.transpose(0, *call.layer.dims))


@rule(layers.RepeatVector)
def repeat_vector(tracer: Tracer, call: Call) -> None:
    """Repeat along a new axis."""
    move(tracer, call, lambda labels: np.repeat(labels[:, None], call.layer.n, axis=1))


@rule(layers.Concatenate)
def concatenate(tracer: Tracer, call: Call) -> None:
    """Concatenate along one axis; equate the others."""
    _concatenate(tracer, call, call.inputs, call.layer.axis)


@rule(*operation_classes("Concatenate", "Append"))
def concatenate_operation(tracer: Tracer, call: Call) -> None:
    """Concatenate like the layer; constants are operands with frozen positions."""
    if call.layer.axis is None:
        return unknown(tracer, call, "it flattens what it joins")
    return _concatenate(tracer, call, call.operands, call.layer.axis)


def _concatenate(tracer: Tracer, call: Call, values: Sequence[Value], given: int) -> None:
    """Label a concatenation along one axis."""
    axis = given % call.output.rank
    axes: dict[int, Ids | None] = {
        other: tracer.unify([Place(value, other) for value in values])
        for other in range(call.output.rank)
        if other != axis
    }
    parts = [value.axes.get(axis) for value in values]
    if any(part is not None for part in parts):
        # A part without channels gets frozen units, so that its positions are kept.
        axes[axis] = np.concatenate(
            [
                add_frozen_side(tracer.equations, value.shape[axis]) if part is None else part
                for value, part in zip(values, parts, strict=True)
            ]
        )
    tracer.put(call.output, axes)


@rule(*operation_classes("Stack"))
def stack(tracer: Tracer, call: Call) -> None:
    """A new axis without channels; the others are equal."""
    axis = call.layer.axis % call.output.rank
    others = [at for at in range(call.output.rank) if at != axis]
    tracer.put(
        call.output,
        {
            new: tracer.unify([Place(value, old) for value in call.operands])
            for old, new in enumerate(others)
        },
    )


def _run_on_labels(call: Call) -> Movement:
    """Return a movement that runs the operation on the labels in place of its input."""

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
    """Move elements without any argument that depends on the number of channels."""
    if len(call.inputs) > 1:
        return unknown(tracer, call, "its arguments are tensors")
    return move(tracer, call, _run_on_labels(call))


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
    """Sort, accumulate or pick along one axis, which is frozen; the others are carried."""
    x = call.input
    axis = getattr(call.layer, "axis", -1)
    if len(call.inputs) > 1 or not isinstance(axis, int):
        why = "it runs along several axes, or along one that a computed tensor gives"
        return unknown(tracer, call, why)
    axis %= x.rank
    tracer.freeze_known(x, f"{call} runs along this axis", [axis])
    longer = call.output.rank - x.rank
    for output in call.outputs:
        moved = {at: at if at < axis else at + longer for at in x.axes if at != axis}
        tracer.put(output, {new: x.axes[old] for old, new in moved.items()})
    return None


@rule(*operation_classes("Roll"))
def roll(tracer: Tracer, call: Call) -> None:
    """Entries that wrap around the end are frozen."""
    shifts, axes = (
        value if isinstance(value, (list, tuple)) else (value,)
        for value in (call.layer.shift, call.layer.axis)
    )
    if axes == (None,):
        tracer.freeze_known(call.input, f"{call} over all values", range(call.input.rank))
    for shift, axis in zip(shifts * len(axes) if len(shifts) == 1 else shifts, axes, strict=True):
        units = None if axis is None else call.input.axes.get(axis % call.input.rank)
        if units is not None:
            tracer.equations.freeze(round_the_end(units, shift), f"{call} wraps it around")
    rearrange(tracer, call)


@rule(*operation_classes("Reshape", "BroadcastTo"))
def reshape_operation(tracer: Tracer, call: Call) -> None:
    """Reshape to integer lengths; those of axes that carry channels follow the channels."""
    attribute = "newshape" if hasattr(call.layer, "newshape") else "shape"
    asked = getattr(call.layer, attribute)
    if len(call.inputs) > 1 or not all(isinstance(size, int) for size in asked):
        return unknown(tracer, call, "its shape is a tensor")
    move(tracer, call, _run_on_labels(call))
    wholes = _wholes_of(tracer, call)
    for position, size in enumerate(asked):
        if size != -1:
            units = call.output.axes.get(position)
            tracer.counts(call.path, attribute, units, position, wholes)
    return None


def _wholes_of(tracer: Tracer, call: Call) -> list[Ids]:
    """Return the widths that a length in a reshape may be a fraction of."""
    axes = call.output.axes
    grids = [(axes[at], axes[at + 1]) for at in axes if at + 1 in axes]
    return [*call.input.axes.values(), *(tracer.equations.compose(sides) for sides in grids)]


@rule(*operation_classes("Slice"))
def slice_operation(tracer: Tracer, call: Call) -> None:
    """Slice along each axis from a start position, with a given length."""
    x, lengths = call.input, call.layer.shape
    starts = call.arguments[1] if len(call.arguments) > 1 else call.keywords["start_indices"]
    if (
        len(call.inputs) > 1
        or not isinstance(starts, (list, tuple))
        or not all(isinstance(at, int) for at in starts)
    ):
        return unknown(tracer, call, "its start index is a tensor")
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
    """Split into equal pieces, which lose the same channels, or at positions that are updated."""
    asked = call.layer.indices_or_sections
    axis = call.layer.axis % call.input.rank
    units = call.input.axes.get(axis)
    if units is not None and isinstance(asked, int):
        if asked > 1 and len(units) % asked:
            return unknown(tracer, call, "its pieces are of unequal size")
        rows, _ = tracer.equations.factor(units, (asked, len(units) // asked))
        tracer.equations.freeze(rows, f"{call} needs {asked} pieces")
    elif units is not None:
        for position, place in enumerate(asked):
            tracer.counts(call.path, "indices_or_sections", units[:place], position)
    return move(tracer, call, _run_on_labels(call))


@rule(*operation_classes("Pad"))
def pad(tracer: Tracer, call: Call) -> None:
    """Constant padding along an axis of channels adds frozen positions."""
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
            tracer.equations.freeze(units, f"{call} pads it in mode {call.layer.mode!r}")
    tracer.put(call.output, axes)


@rule(GetItem)
def get_item(tracer: Tracer, call: Call) -> None:
    """Index with integers and slices; positions along an axis of channels are updated."""
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
    return move(tracer, call, _run_on_labels(call))


PARTS = ("start", "stop", "index")
"""Parts of an index entry that hold a size; its position is 3 * entry + the part's index here."""


def _follow_entry(tracer: Tracer, call: Call, number: int, entry: int | slice, axis: int) -> None:
    """Record the sizes in one entry of an index, or freeze the axis if it is irregular."""
    units = call.input.axes.get(axis)
    if units is None or entry == slice(None):
        return
    if isinstance(entry, slice):
        ends = {"start": entry.start, "stop": entry.stop}
        regular = entry.step in (None, 1)
    else:
        ends, regular = {"index": entry}, True
    if not regular or any(end is not None and end < 0 for end in ends.values()):
        reason = f"{call} counts positions from the end or in steps; count from the front instead"
        tracer.equations.freeze(units, reason)
        return
    for part, end in ends.items():
        if end:
            position = len(PARTS) * number + PARTS.index(part)
            tracer.counts(call.path, "key", units[:end], position)


OF_ALL_OPERANDS |= {concatenate_operation, stack}
