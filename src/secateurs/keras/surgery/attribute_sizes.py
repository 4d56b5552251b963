"""Lengths that a layer's code reads from its own integers: ``reshape(x, (-1, n, self.heads))``.

Nothing says which attribute a length came from. An integer attribute of the layer that equals the
length is a candidate; a dry run with the attribute changed shows whether it is the one.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from secateurs.channels.equations import Ids
from secateurs.keras.internals import GetItem, is_tensor
from secateurs.keras.model.layer_tree import attributes_of
from secateurs.keras.model.nested import flatten
from secateurs.keras.model.tensors import layers_by_path
from secateurs.keras.tracing.interpreter import CallSite
from secateurs.keras.tracing.op_record import Assumed

AttributePlace = tuple[str, str]
"""(Path of a layer, name of one of its attributes)."""


def find_attributes(
    model: keras.Model, assumed: Sequence[Assumed]
) -> dict[AttributePlace, list[Ids]]:
    """Return the integer attributes that may hold these sizes, with the units that each counts.

    Lengths in one call come from distinct attributes, in the order in which these were set.

    Args:
        model: dense model.
        assumed: sizes in the code of its layers.
    """
    paths = {id(layer): path for path, layer in layers_by_path(model)} | {id(model): ""}
    found: dict[AttributePlace, list[Ids]] = {}
    taken: dict[int, set[str]] = {}
    for one in assumed:
        path = paths.get(id(one.layer))
        in_call = taken.setdefault(one.step, set())
        names = [] if path is None else _integers_of(one.layer, len(one.units))
        name = next((name for name in names if name not in in_call), None)
        if path is None or name is None:
            continue
        in_call.add(name)
        counted = found.setdefault((path, name), [])
        if not any(np.array_equal(units, one.units) for units in counted):
            counted.append(one.units)
    return found


def _integers_of(layer: object, value: int) -> list[str]:
    return [
        name
        for name, held in attributes_of(layer).items()
        if type(held) is int and held == value and not name.startswith("_")
    ]


def list_constants(
    site: CallSite, arguments: Sequence[object], keywords: dict[str, object]
) -> list[float]:
    """Return the numbers that a call computes with, such as attention's scale.

    They may be computed from an attribute that counts channels; then they change where it does, and
    with them what the layer computes.
    """
    if not site.written:
        return []
    given = [] if isinstance(site.operation, GetItem) else flatten([list(arguments), keywords])
    # Integers of an operation, such as an axis or a number of repeats, are lengths or positions.
    held = [item for item in vars(site.operation).values() if isinstance(item, float)]
    items = [*filter(_is_number, given), *held]
    return [float(np.asarray(keras.ops.convert_to_numpy(item)).item()) for item in items]


def _is_number(item: object) -> bool:
    """Return whether it is a single number, as Python's, NumPy's or the backend's."""
    if isinstance(item, (int, float, np.generic)) and not isinstance(item, (bool, np.bool_)):
        return True
    if isinstance(item, np.ndarray):
        return item.size == 1 and item.dtype.kind in "iuf"
    return is_tensor(item) and not isinstance(item, keras.KerasTensor) and _size(item) == 1


def _size(item: object) -> int:
    return int(np.prod([int(length) for length in getattr(item, "shape", ())]))
