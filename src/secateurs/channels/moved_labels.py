"""What a movement did to the labels, read off the moved labels themselves.

The label of an axis is laid out as an array of unit numbers of the operand's shape, constant along
all other axes; the movement is done to it; the axes along which the result varies are the ones that
carry the channels now. If two do, a reshape has divided the axis, and it is a grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.equations import Equations, Ids

LabelArray = NDArray[np.integer[Any]]


def lay_out(shape: Sequence[int], axis: int, units: Ids) -> Ids:
    """Unit numbers in an array of this shape that takes no room: constant along all other axes."""
    lengths = [1] * len(shape)
    lengths[axis] = len(units)
    return np.broadcast_to(units.reshape(lengths), shape)


def axes_of(equations: Equations, moved: LabelArray, units: Ids, reason: str) -> dict[int, Ids]:
    """Along which axes a moved label varies, and the units there.

    Args:
        equations: where a grid is stated, if a reshape made one.
        moved: the label of one axis, after the movement.
        units: along that axis, before it.
        reason: why a unit that was picked by its position is frozen.
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
    """A grid without the rows, columns, ... that it has more than once.

    They come from axes without channels that were merged into one with channels, such as a batch
    into the heads.

    Returns:
        (each different slice once, for each axis which of them is where; None where all differ).
    """
    repeats: list[NDArray[np.intp] | None] = []
    for axis in range(values.ndim):
        slices = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
        repeats.append(None)
        if len(np.unique(slices[:, 0])) == len(slices):
            continue  # they differ in their first entries already
        _, first, where = np.unique(slices, axis=0, return_index=True, return_inverse=True)
        if len(first) < len(slices):
            order = np.argsort(first)  # in the order of their first places
            values = values.take(first[order], axis=axis)
            repeats[-1] = np.argsort(order)[where.ravel()]
    return values, repeats


def _varying(moved: LabelArray) -> tuple[LabelArray, list[int]]:
    """The label without the axes along which it is constant, and the numbers of the others."""
    # Axes that were broadcast cost nothing to look at; they go first.
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
    """One label an axis: where several came together, they are the sides of a grid."""
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
    """The axis of a grid whose rows, columns, ... these labels name; None if it is no grid.

    Between two sides there may be axes without channels: they become sides that are frozen.
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
    """(base, run) such that ``labels`` is base, each entry ``run`` times, over and over."""
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
    """Units of their own for positions that no channel lies at."""
    side = equations.units(size)
    equations.freeze(side, "positions that carry no channels")
    return side


def round_the_end(units: Ids, shift: int) -> Ids:
    """The units that a roll takes round the end: were one of these gone, another would go round."""
    if abs(shift) >= len(units):
        return units
    return units[len(units) - shift :] if shift > 0 else units[:-shift]
