"""Stable names for what a layer keeps inside: other layers, and variables of its own.

Keras numbers layers that were given no name as they are made, so the parts of two layers built
alike are called 'conv2d_4' and 'conv2d_11'. A part that has no name of its own goes by the
attribute that it is kept in, as in Keras's own files: 'block.conv', 'block.layers.0'.
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
"""Where Keras, and PyTorch or TensorFlow below it, keep what attributes hold once more."""

_NUMBER = re.compile(r"_\d+$")


def named_children(layer: object) -> list[tuple[str, Layer]]:
    """(name, layer) of the layers that a layer keeps inside, one level deep.

    The cell of a recurrent layer is no layer to its users: its name is ''.
    """
    children = sublayers(layer)
    names = [_explicit_name(child) for child in children]
    if None in names or len(set(names)) < len(names):
        names = _by_attribute(layer, children, names)
    cell = getattr(layer, "cell", None)
    return [
        ("" if child is cell else str(name), child)
        for name, child in zip(names, children, strict=True)
    ]


def named_own_variables(layer: object) -> list[tuple[str, Variable, bool]]:
    """(name, variable, whether a parameter) of a layer, without those of the layers inside."""
    known = sorted(own_variables(layer), key=_rank)
    found = [variable for variable, _ in known]
    names = [_explicit_name(variable) for variable in found]
    if None in names:
        names = _by_attribute(layer, found, names)
    unique = _distinct(str(name) for name in names)
    return [(name, *entry) for name, entry in zip(unique, known, strict=True)]


def path_below(path: str, name: str) -> str:
    """The path of a child of this name; that of a subclassed model itself is ''."""
    return ".".join(part for part in (path, name) if part)


def size_path(path: str, layer: object, child: object) -> str:
    """The path that the sizes of a child go by; a cell has sizes apart from its layer's."""
    names = {id(part): name for name, part in named_children(layer)}
    return path_below(path, names[id(child)] or "cell")


def _rank(entry: tuple[Variable, bool]) -> int:
    """A separable convolution's filters are those of its second step, so these come first."""
    return int(entry[0].name == "depthwise_kernel")


def _explicit_name(part: Layer | Variable) -> str | None:
    """The name that its maker chose; None where Keras made one up."""
    made_up = {snake_case(type(part).__name__), "variable"}
    name = str(part.name)
    if isinstance(part, Layer):
        inner = getattr(part, "layer", None)
        # Bidirectional calls its two layers after the one it was given, made-up number and all.
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
    """Names for all parts: given where these are unique, else the attribute, else a number."""
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
    """What a layer's attributes hold; below PyTorch, layers are kept apart from the others."""
    attributes = vars(layer)
    modules = {
        name: part for name, part in attributes.get("_modules", {}).items() if part is not None
    }
    return {
        **{name: attributes[name] for name in attributes if name not in _BOOKKEEPING},
        **modules,
    }


def _distinct(names: Iterable[str]) -> Iterator[str]:
    """The names, numbered from the second time on: 'part', 'part_1'."""
    used: Counter[str] = Counter()
    for name in names:
        used[name] += 1
        yield name if used[name] == 1 else f"{name}_{used[name] - 1}"


def _parts_in(values: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """(attribute, layer or variable), those in lists and dictionaries too; first ones last."""
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
