"""The effect of a data movement on labels, read from the moved labels themselves.

The label of an axis is laid out as an array of unit numbers with the operand's shape, constant
along all other axes. The movement is applied to that array, and the axes along which the result
varies are those that carry the channels now. If two axes do, a reshape has split the axis into a
grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.equations import Equations, Ids

LabelArray = NDArray[np.integer[Any]]


def lay_out(shape: Sequence[int], axis: int, units: Ids) -> Ids:
    """Broadcast unit numbers along one axis to this shape, without copying (strides of 0)."""
    lengths = [1] * len(shape)
    lengths[axis] = len(units)
    return np.broadcast_to(units.reshape(lengths), shape)


def axes_of(equations: Equations, moved: LabelArray, units: Ids, reason: str) -> dict[int, Ids]:
    """The axes along which a moved label varies, and the units along each.

    Args:
        equations: equations to which a grid is added, if a reshape made one.
        moved: label of one axis, after the movement.
        units: units along that axis, before the movement.
        reason: reason for freezing a unit that was selected by its position.
    """
    if not moved.size:
        return {}
    varying, places = _varying(moved)
    values: Ids = np.ascontiguousarray(varying, np.int64)
    if not places:
        equations.freeze(values.reshape(1), reason)
        return {}
    if len(places) == 1:
        return {places[0]: units if np.array_equal(values, units) else values}
    once, repeats = _without_repeats(values)
    sides = equations.factor(once.ravel(), once.shape)
    return {
        place: side if repeat is None else side[repeat]
        for place, side, repeat in zip(places, sides, repeats, strict=True)
    }


def _without_repeats(values: Ids) -> tuple[Ids, list[NDArray[np.intp] | None]]:
    """Remove repeated rows, columns, ... from a grid.

    Repeats come from axes without channels that were merged into one with channels, such as a batch
    into the heads.

    Returns:
        (the grid with each distinct slice once; for each axis the index of the distinct slice at
        each position, or None where all differ).
    """
    repeats: list[NDArray[np.intp] | None] = []
    for axis in range(values.ndim):
        slices = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
        repeats.append(None)
        if len(np.unique(slices[:, 0])) == len(slices):
            continue  # their first entries differ already
        _, first, where = np.unique(slices, axis=0, return_index=True, return_inverse=True)
        if len(first) < len(slices):
            order = np.argsort(first)  # in the order of first occurrence
            values = values.take(first[order], axis=axis)
            repeats[-1] = np.argsort(order)[where.ravel()]
    return values, repeats


def _varying(moved: LabelArray) -> tuple[LabelArray, list[int]]:
    """The label without the axes along which it is constant, and the numbers of the others."""
    # Broadcast axes are recognised by their strides at no cost, so they are dropped first.
    steps = zip(moved.strides, moved.shape, strict=True)
    places = [axis for axis, (step, size) in enumerate(steps) if step != 0 and size != 1]
    index = tuple(slice(None) if axis in places else 0 for axis in range(moved.ndim))
    values: LabelArray = moved[index]
    for number in reversed(range(len(places))):
        first = values.take([0], axis=number)
        if (values == first).all():
            values = first.squeeze(number)
            del places[number]
    return values, places


def merge_labels(
    equations: Equations, rank: int, found: Sequence[Mapping[int, Ids]], reason: str
) -> dict[int, Ids]:
    """Merge labels to one for each axis: several on one axis are the sides of a grid."""
    axes: dict[int, Ids] = {}
    for axis in range(rank):
        layers = [layer[axis] for layer in found if axis in layer]
        if len(layers) == 1:
            axes[axis] = layers[0]
        elif layers:
            cells = _compose(equations, layers)
            if cells is not None:
                axes[axis] = cells
            for units in layers if cells is None else ():
                equations.freeze(units, reason)
    return axes


def _compose(equations: Equations, layers: Sequence[Ids]) -> Ids | None:
    """The axis of a grid whose rows, columns, ... these labels name; None if it is not a grid.

    Axes without channels that lie between two sides become sides that are frozen.
    """
    sides: list[Ids] = []
    rest = len(layers[0])
    for base, run in sorted((_pattern(layer) for layer in layers), key=lambda p: -p[1]):
        size = 0 if base is None else len(base) * run
        if base is None or size == 0 or rest % size:
            return None
        if rest != size:
            sides.append(add_frozen_side(equations, rest // size))
        sides.append(base)
        rest = run
    if rest != 1:
        sides.append(add_frozen_side(equations, rest))
    return equations.compose(sides)


def _pattern(labels: Ids) -> tuple[Ids | None, int]:
    """(base, run) such that ``labels`` is base with each entry ``run`` times, tiled."""
    changes = np.flatnonzero(labels[1:] != labels[:-1])
    run = int(changes[0]) + 1 if len(changes) else len(labels)
    if len(labels) % run:
        return None, 1
    steps = labels[::run]
    again = np.flatnonzero(steps[1:] == steps[0])
    period = int(again[0]) + 1 if len(again) else len(steps)
    base = steps[:period]
    whole = len(steps) % period == 0 and np.array_equal(
        np.tile(np.repeat(base, run), len(steps) // period), labels
    )
    return (base if whole else None), run


def add_frozen_side(equations: Equations, size: int) -> Ids:
    """New frozen units for positions that carry no channels."""
    side = equations.units(size)
    equations.freeze(side, "positions without channels")
    return side


def round_the_end(units: Ids, shift: int) -> Ids:
    """The units that a roll wraps around the end; removing one would make another wrap."""
    if abs(shift) >= len(units):
        return units
    return units[len(units) - shift :] if shift > 0 else units[:-shift]
