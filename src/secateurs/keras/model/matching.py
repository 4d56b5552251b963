"""Match automatic layer names between a file and a model.

Keras numbers unnamed layers in the order in which a session constructs them. The same code
constructs the same layers in the same order, whatever their numbers are. So where the names of a
file and of a model differ, automatic names of the same class are paired in order of their numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

import keras

from secateurs.keras.internals import Operation, graph_of, is_model, name_in, nodes_of
from secateurs.keras.model.layer_tree import snake_case
from secateurs.keras.model.tensors import list_tensors

_ANY = "*"
"""Placeholder for the tensors of a layer that was removed whole."""

_NUMBERED = re.compile(r"^(.*?)(?:_(\d+))?$")


def match_names(
    model: keras.Model, names: Iterable[str], gone: Iterable[str] = ()
) -> Callable[[str], str] | None:
    """Map the names of another model, built by the same code, to the names in this one.

    Args:
        model: model whose names are wanted.
        names: names of all tensors of the other model.
        gone: layers of the other model that have no tensors left.

    Returns:
        A function from a name in the other model to one in this; None if they cannot be matched.

    >>> first, second = (
    ...     keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)]) for _ in range(2)
    ... )
    >>> match_names(second, [leaf.name for leaf in list_tensors(first)])(
    ...     f"{first.layers[0].name}.kernel"
    ... ) == f"{second.layers[0].name}.kernel"
    True
    """
    mine = {name for leaf in list_tensors(model) for name in (leaf.name, *leaf.aliases)}
    kinds = {path: snake_case(type(operation).__name__) for path, operation in _paths(model)}
    known: dict[str, str] = {}
    theirs = _segments([*names, *(f"{layer}.{_ANY}" for layer in gone)])
    if not _match(_segments(mine), theirs, "", "", kinds, known):
        return None

    def rename(name: str) -> str:
        begin = name
        while begin not in known and begin:
            begin = begin.rpartition(".")[0]
        return known[begin] + name[len(begin) :] if begin else name

    return rename


def _paths(model: keras.Model, prefix: str = "") -> Iterator[tuple[str, Operation]]:
    """Iterate over (path, layer, operation or model) of all calls in a model's graph."""
    for node in nodes_of(graph_of(model)):
        path = prefix + name_in(model, node.operation)
        yield path, node.operation
        if is_model(node.operation):
            yield from _paths(node.operation, f"{path}.")


_Tree = dict[str, "_Tree"]


def _segments(names: Iterable[str]) -> _Tree:
    """Split dotted names into a tree."""
    tree: _Tree = {}
    for name in names:
        branch = tree
        for part in name.split("."):
            branch = branch.setdefault(part, {})
    return tree


def _match(
    mine: _Tree, theirs: _Tree, path: str, other: str, kinds: dict[str, str], known: dict[str, str]
) -> bool:
    """Return whether two trees match completely; fills ``known`` with other path -> path here."""
    if theirs.keys() == {_ANY}:
        return True
    made_up: dict[str, list[str]] = {}
    for name in mine:
        base = _base(name)
        if kinds.get(f"{path}{name}") == base:
            made_up.setdefault(base, []).append(name)
    pairs = {name: name for name in theirs if _base(name) not in made_up}
    for base, names in made_up.items():
        others = [name for name in theirs if _base(name) == base]
        if len(others) != len(names):
            return False
        pairs |= dict(zip(sorted(others, key=_number), sorted(names, key=_number), strict=True))
    if pairs.keys() != theirs.keys() or set(pairs.values()) != mine.keys():
        return False
    known |= {f"{other}{name}": f"{path}{to}" for name, to in pairs.items()}
    return all(
        _match(mine[to], theirs[name], f"{path}{to}.", f"{other}{name}.", kinds, known)
        for name, to in pairs.items()
    )


def _base(name: str) -> str:
    found = _NUMBERED.match(name)
    return found[1] if found else name


def _number(name: str) -> int:
    found = _NUMBERED.match(name)
    return int(found[2] or 0) if found else 0
