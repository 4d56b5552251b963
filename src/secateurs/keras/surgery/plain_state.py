"""Compare the values of layers' attributes, and look for layers inside them.

State may be of any Python type: numbers, arrays, lists and dictionaries, data classes, objects with
slots, closures. Values are compared by their contents.
"""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.keras.internals import (
    Layer,
    Operation,
    SeedGenerator,
    Variable,
    has_values,
    is_tensor,
)

_PARTS = (Variable, Layer, Operation, SeedGenerator, keras.KerasTensor)
_ATOMS = (bool, int, float, complex, str, bytes, type(None), np.generic, np.ndarray, type)
_LIBRARIES = ("keras", "tensorflow", "torch", "jax")


def holds_parts(value: object) -> bool:
    """Return whether a value contains a layer, a variable or a tensor without values.

    >>> holds_parts({"a": [1, 2]}), holds_parts([keras.layers.Dense(2)])
    (False, True)
    """
    waiting, seen = [value], set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, _PARTS) or (is_tensor(item) and not has_values(item)):
            return True
        if id(item) not in seen:
            seen.add(id(item))
            waiting += inside_of(item)
    return False


def is_alike(one: object, other: object, seen: frozenset[tuple[int, int]] = frozenset()) -> bool:
    """Return whether two values are equal, part by part.

    Layers and variables of the same class count as equal, because they are rebuilt; so do opaque
    objects of the same class.

    >>> is_alike(deque([1]), deque([1])), is_alike(range(3), range(2))
    (True, False)
    """
    if one is other or (id(one), id(other)) in seen:
        return True
    seen |= {(id(one), id(other))}
    if is_array(one) or is_array(other):
        return _equal_arrays(one, other)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return _are_alike(one, other, seen)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and _are_alike(
            list(one.values()), [other[key] for key in one], seen
        )
    return type(one) is type(other) and _is_alike_inside(one, other, seen)


def _is_alike_inside(one: object, other: object, seen: frozenset[tuple[int, int]]) -> bool:
    """Return whether two objects of one class are equal: attributes, and the code of functions."""
    if isinstance(one, _PARTS) or _is_of_library(one):
        return True
    mine, theirs = inside_of(one), inside_of(other)
    if isinstance(one, types.FunctionType) and isinstance(other, types.FunctionType):
        return one.__code__ == other.__code__ and _are_alike(mine, theirs, seen)
    if mine or theirs:
        return _are_alike(mine, theirs, seen)
    return isinstance(one, types.MethodType) or _equal(one, other)


def _are_alike(
    ones: Sequence[object], others: Sequence[object], seen: frozenset[tuple[int, int]]
) -> bool:
    return len(ones) == len(others) and all(
        is_alike(one, other, seen) for one, other in zip(ones, others, strict=True)
    )


def inside_of(value: object) -> list[object]:
    """Return the parts of a value in a fixed order; nothing for opaque objects."""
    if isinstance(value, _ATOMS) or is_array(value):
        return []
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple, deque)):
        return list(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)
    if isinstance(value, types.FunctionType):
        cells = [_content(cell) for cell in value.__closure__ or ()]
        return [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    return [] if _is_of_library(value) else [item for _, item in _attributes(value)]


def _attributes(value: object) -> Iterator[tuple[str, object]]:
    """Iterate over the attributes of an object, including those in slots."""
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)


def _content(cell: types.CellType) -> object:
    try:
        content: object = cell.cell_contents
        return content
    except ValueError:  # not filled yet
        return None


def _is_of_library(value: object) -> bool:
    return type(value).__module__.partition(".")[0] in _LIBRARIES


def is_array(value: object) -> bool:
    """Return whether it is a NumPy array or a tensor of the backend."""
    return isinstance(value, (np.ndarray, np.generic)) or is_tensor(value)


def _equal_arrays(one: object, other: object) -> bool:
    if not hasattr(one, "shape") or not hasattr(other, "shape"):
        return False
    mine, theirs = (_as_numbers(value) for value in (one, other))
    if mine.shape != theirs.shape:
        return False
    numbers = mine.dtype.kind in "fc" and theirs.dtype.kind in "fc"
    return bool(np.array_equal(mine, theirs, equal_nan=numbers))


def _as_numbers(value: object) -> NDArray[np.generic]:
    if is_tensor(value):
        if keras.backend.standardize_dtype(value.dtype) == "bfloat16":
            value = keras.ops.cast(value, "float32")
        value = keras.ops.convert_to_numpy(value)
    return np.asarray(value)


def _equal(one: object, other: object) -> bool:
    """Compare with ``==``; objects that only compare by identity count as equal."""
    if "__eq__" not in {name for kind in type(one).__mro__[:-1] for name in vars(kind)}:
        return True
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - a user's comparison may raise anything
        return False
