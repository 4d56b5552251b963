"""A fast path for ``keras.tree``: tensors in nested lists, tuples and dictionaries.

``keras.tree`` tests every leaf against many kinds of containers, which takes longer than most
tracing rules. Plain containers are handled here; all others are passed to ``keras.tree``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import keras

from secateurs.keras.protocols import Node

T = TypeVar("T")


def flatten(structure: object) -> list[Any]:
    """List the leaves in order; dictionaries are traversed by sorted key.

    >>> flatten([1, {"b": (2, None), "a": "x"}])
    [1, 'x', 2, None]
    """
    if _is_leaf(structure):
        return [structure]
    kind = type(structure)
    if kind is list or kind is tuple:
        return [leaf for item in structure for leaf in flatten(item)]  # type: ignore[attr-defined]
    if kind is dict:
        return [leaf for key in sorted(structure) for leaf in flatten(structure[key])]  # type: ignore[call-overload,index]
    leaves: list[Any] = keras.tree.flatten(structure)
    return leaves


def map_structure(function: Callable[[Any], object], structure: object) -> Any:
    """Apply a function to each leaf and return the results in the same structure.

    >>> map_structure(lambda n: n + 1, (1, {"a": [2]}))
    (2, {'a': [3]})
    """
    if _is_leaf(structure):
        return function(structure)
    kind = type(structure)
    if kind is list or kind is tuple:
        return kind([map_structure(function, item) for item in structure])  # type: ignore[attr-defined]
    if kind is dict:
        made = {key: map_structure(function, structure[key]) for key in sorted(structure)}  # type: ignore[call-overload,index]
        return {key: made[key] for key in structure}  # type: ignore[attr-defined]
    return keras.tree.map_structure(function, structure)


def fill_in(node: Node, known: Mapping[int, T]) -> tuple[Any, dict[str, Any]]:
    """Return the (arguments, keywords) of a call, with tensors replaced by what ``known`` holds."""

    def find(item: object) -> object:
        return known.get(id(item)) if isinstance(item, keras.KerasTensor) else item

    arguments = node.arguments
    if len(node.input_tensors) == 1 and len(arguments.args) == 1:
        (given,), (tensor,) = arguments.args, node.input_tensors
        if given is tensor:  # no other is anywhere
            return (known.get(id(tensor)),), dict(arguments.kwargs)
    return map_structure(find, arguments.args), map_structure(find, arguments.kwargs)


def _is_leaf(item: object) -> bool:
    """Return whether it is certainly not a container."""
    if item is None or isinstance(item, (bool, int, float, str, keras.KerasTensor)):
        return True
    # Of a class it is known at once; TensorFlow's tensors make a new object to tell theirs.
    return hasattr(type(item), "shape") or hasattr(item, "shape")
