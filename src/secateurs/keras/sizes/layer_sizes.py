"""Change the sizes that layers keep in their configurations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict, TypeGuard

from secateurs.channels.cut import SizeChange
from secateurs.errors import CutError
from secateurs.keras.internals import GetItem, Operation, sublayers
from secateurs.keras.model.layer_tree import size_path
from secateurs.keras.tracing.rules.movement import PARTS
from secateurs.keras.tracing.rules.wrappers import INPUT

SizeChanges = Mapping[str, Sequence[SizeChange]]
"""Path of a layer -> size changes in its configuration."""


INDEX = "key"
"""Name of the argument of ``x[key]``, which belongs to the call and not to a configuration."""


def with_input_sizes(
    shapes: Sequence[Sequence[int | None]], changes: Sequence[SizeChange]
) -> list[tuple[int | None, ...]]:
    """Apply size changes to the input shapes of a model inside a layer.

    Raises:
        CutError: the model does not have the size that the cut expects.
    """
    changed = [list(shape) for shape in shapes]
    for change in changes:
        number, axis = int(change.attribute.removeprefix(INPUT)), int(change.position or 0)
        _check(changed[number][axis], change)
        changed[number][axis] = change.after
    return [tuple(shape) for shape in changed]


def by_owner(sizes: Iterable[SizeChange]) -> dict[str, list[SizeChange]]:
    """Group the changes by the path of their layer or sublayer."""
    owners: dict[str, list[SizeChange]] = {}
    for size in sizes:
        owners.setdefault(size.owner, []).append(size)
    return owners


def with_sizes(
    config: Mapping[str, object], path: str, changes: SizeChanges, layer: object
) -> dict[str, object]:
    """Apply size changes to a layer's configuration, including those of its sublayers.

    Args:
        config: result of ``layer.get_config()``; unchanged.
        path: path of the layer.
        changes: size changes by path.
        layer: layer that the configuration belongs to.

    Raises:
        CutError: the layer does not have the size that the cut expects.
    """
    if sublayers(layer):
        changed = {key: _inside(value, path, changes, layer) for key, value in config.items()}
    else:
        changed = dict(config)
    for change in changes.get(path, ()):
        if change.attribute == INDEX:
            continue
        changed[change.attribute] = _change(changed.get(change.attribute), change)
    return changed


def changed_attributes(layer: object, changes: Sequence[SizeChange]) -> dict[str, int]:
    """Return attribute -> new value of the integers that a layer's own code reads.

    Raises:
        CutError: the layer does not have the value that the cut expects.
    """
    for change in changes:
        _check(vars(layer).get(change.attribute), change)
    return {change.attribute: change.after for change in changes}


def _inside(value: object, path: str, changes: SizeChanges, layer: object) -> object:
    """Apply the changes inside a value that describes a layer or a list of layers."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)) and any(_is_layer(item) for item in value):
        return [_inside(item, path, changes, layer) for item in value]
    if not _is_layer(value):
        return value
    inner = value["config"]
    named = {child.name: child for child in sublayers(layer)}
    child = named.get(inner["name"])
    below = f"{path}.{inner['name']}" if child is None else size_path(path, layer, child)
    changed: dict[str, object] = {**value, "config": with_sizes(inner, below, changes, child)}
    # It lists the shapes the layer was built for, which may have changed; Keras infers them again.
    changed.pop("build_config", None)
    return changed


class _LayerConfig(TypedDict):
    """Entry of a configuration that describes a sublayer."""

    class_name: str
    config: dict[str, object]


def _is_layer(value: object) -> TypeGuard[_LayerConfig]:
    return (
        isinstance(value, Mapping)
        and "class_name" in value
        and isinstance(value.get("config"), Mapping)
        and "name" in value["config"]
    )


def _change(present: object, change: SizeChange) -> object:
    if change.position is None:
        _check(present, change)
        return change.after
    if present is None:  # a default derived from another size; from now on it is explicit
        return [change.after]
    items = list(present) if isinstance(present, (list, tuple)) else [present]
    place = int(change.position)
    _check(items[place], change)
    items[place] = change.after
    return type(present)(items) if isinstance(present, (list, tuple)) else items[0]


def _check(present: object, change: SizeChange) -> None:
    if present != change.before:
        raise CutError(
            f"{change.owner}.{change.attribute}: expected {change.before}; received a model with "
            f"{present}. Apply the cut to the model it was planned for, or to one built alike."
        )


def with_positions(
    operation: Operation, arguments: Sequence[object], changes: Sequence[SizeChange]
) -> list[object]:
    """Update the positions along channel axes in the index of a ``GetItem`` call."""
    given = list(arguments)
    if not isinstance(operation, GetItem) or not changes:
        return given
    tensor, key = given
    entries: list[object] = list(key) if isinstance(key, (tuple, list)) else [key]
    for change in changes:
        number, part = divmod(int(change.position or 0), len(PARTS))
        entry = entries[number]
        if not isinstance(entry, slice):
            entries[number] = change.after
        elif PARTS[part] == "start":
            entries[number] = slice(change.after, entry.stop, entry.step)
        else:
            entries[number] = slice(entry.start, change.after, entry.step)
    return [tensor, tuple(entries)]
