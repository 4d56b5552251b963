"""Stable names for the sublayers and variables of a layer.

Keras numbers unnamed layers in the order of construction, so the parts of two identical layers may
be called 'conv2d_4' and 'conv2d_11'. A part without an explicit name is called by the attribute
that holds it, as in Keras's own files: 'block.conv', 'block.layers.0'.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache

from keras import layers

from secateurs.keras.internals import Layer, Variable, own_variables, sublayers

_BOOKKEEPING = frozenset(
    {
        "_layers",
        "_metrics",
        "_tracker",
        "_functional",
        "_losses",
        "_modules",
        "_parameters",
        "_self_extra_variables",
        "_self_name_based_restores",
        "_self_saveable_object_factories",
        "_self_setattr_tracking",
        "_self_unconditional_checkpoint_dependencies",
        "_self_unconditional_deferred_dependencies",
        "_self_unconditional_dependency_names",
        "_self_update_uid",
    }
)
"""Attributes in which Keras and its backends register objects that other attributes hold too."""

_NUMBER = re.compile(r"_\d+$")


def named_children(layer: object) -> list[tuple[str, Layer]]:
    """List (name, layer) of the direct sublayers of a layer.

    The cell of a recurrent layer is not visible to users: its name is ''.
    """
    children = sublayers(layer)
    if not children:
        return []
    names = [_explicit_name(child) for child in children]
    if None in names or len(set(names)) < len(names):
        names = _by_attribute(layer, children, names)
    cell = getattr(layer, "cell", None)
    return [
        ("" if child is cell else str(name), child)
        for name, child in zip(names, children, strict=True)
    ]


def named_own_variables(layer: object) -> list[tuple[str, Variable, bool]]:
    """List (name, variable, whether a parameter) of a layer, without its sublayers."""
    known = sorted(own_variables(layer), key=_rank)
    found = [variable for variable, _ in known]
    names = [_explicit_name(variable) for variable in found]
    if None in names:
        names = _by_attribute(layer, found, names)
    unique = _distinct(str(name) for name in names)
    return [(name, *entry) for name, entry in zip(unique, known, strict=True)]


def path_below(path: str, name: str) -> str:
    """Join a path and the name of a child; either may be '' (a subclassed model, a cell)."""
    return ".".join(part for part in (path, name) if part)


def size_path(path: str, layer: object, child: object) -> str:
    """Return the path under which a child's sizes are listed; a cell has sizes of its own."""
    names = {id(part): name for name, part in named_children(layer)}
    return path_below(path, names[id(child)] or "cell")


def _rank(entry: tuple[Variable, bool]) -> int:
    """Sort key: puts a separable convolution's pointwise kernel, which holds its filters, first."""
    return int(entry[0].name == "depthwise_kernel")


def _explicit_name(part: Layer | Variable) -> str | None:
    """Return the name that the user gave; None for an automatic one."""
    name = str(part.name)
    if isinstance(part, Variable):
        return None if _NUMBER.sub("", name) == "variable" else name
    made_up = {snake_case(type(part).__name__), "variable"}
    if isinstance(part, Layer):
        inner = getattr(part, "layer", None)
        # Bidirectional names its two layers after the given one, automatic number included.
        for direction in ("forward", "backward"):
            made_up.add(f"{direction}_{snake_case(type(part).__name__)}")
        if isinstance(part, layers.Wrapper) and isinstance(inner, Layer):
            made_up.add(snake_case(type(inner).__name__))
    return None if _NUMBER.sub("", name) in made_up else name


@cache
def snake_case(name: str) -> str:
    """'Conv2D' -> 'conv2d', 'BatchNormalization' -> 'batch_normalization', as Keras does."""
    plain = re.sub(r"\W+", "", name)
    spaced = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", plain)
    return re.sub("([a-z])([A-Z])", r"\1_\2", spaced).lower()


def _by_attribute(
    layer: object, parts: Sequence[Layer | Variable], given: Sequence[str | None]
) -> list[str | None]:
    """Name all parts: by a unique given name, else by attribute, else by class and number."""
    attributes = {id(part): name for name, part in _parts_in(attributes_of(layer))}
    times = Counter(given)
    names: list[str] = []
    for part, name in zip(parts, given, strict=True):
        if name is not None and times[name] == 1:
            names.append(name)
        else:
            names.append(attributes.get(id(part)) or snake_case(type(part).__name__))
    return list(_distinct(names))


def attributes_of(layer: object) -> dict[str, object]:
    """Return a layer's attributes; on the PyTorch backend, sublayers are stored apart."""
    attributes = vars(layer)
    modules = {
        name: part for name, part in attributes.get("_modules", {}).items() if part is not None
    }
    return {
        **{name: attributes[name] for name in attributes if name not in _BOOKKEEPING},
        **modules,
    }


def _distinct(names: Iterable[str]) -> Iterator[str]:
    """Make names unique by numbering repeats: 'part', 'part_1'."""
    used: Counter[str] = Counter()
    for name in names:
        used[name] += 1
        yield name if used[name] == 1 else f"{name}_{used[name] - 1}"


def _parts_in(values: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Iterate over (attribute, layer or variable), also in containers, the last attribute first."""
    for name, value in reversed(list(values.items())):
        if not name.startswith(("_trainable", "_non_trainable")):
            yield from _parts_of(name.lstrip("_"), value)


def _parts_of(name: str, value: object, depth: int = 0) -> Iterator[tuple[str, object]]:
    if isinstance(value, (Layer, Variable)):
        yield name, value
    elif isinstance(value, (list, tuple)) and depth < 3:
        for number, item in enumerate(value):
            yield from _parts_of(f"{name}.{number}", item, depth + 1)
    elif isinstance(value, dict) and depth < 3:
        for key, item in value.items():
            yield from _parts_of(f"{name}.{key}", item, depth + 1)
