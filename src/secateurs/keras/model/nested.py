"""Tensors in nested lists, tuples and dictionaries, as ``keras.tree`` goes through them.

``keras.tree`` knows containers of many kinds and asks for each of them at every leaf, which takes
longer than most rules do. The plain ones are gone through here; of any other it is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import keras

from secateurs.keras.protocols import Node

T = TypeVar("T")


def flatten(structure: object) -> list[Any]:
    """The leaves, in order; dictionaries by their keys, sorted.

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
    """The same structure with something else in the place of each leaf.

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
    """A call's arguments, with what is known of its tensors (by ``id``) in the places of these."""

    def find(item: object) -> object:
        return known.get(id(item)) if isinstance(item, keras.KerasTensor) else item

    arguments = node.arguments
    if len(node.input_tensors) == 1:  # Keras has a short way for these
        return arguments.fill_in(known)
    return map_structure(find, arguments.args), map_structure(find, arguments.kwargs)


def _is_leaf(item: object) -> bool:
    """What is surely none of ``keras.tree``'s containers."""
    if item is None or isinstance(item, (bool, int, float, str, keras.KerasTensor)):
        return True
    return hasattr(item, "shape")
