"""Integers kept by a model's modules: in attributes, lists, dictionaries and configurations.

A size is searched by its value, in the modules whose code was running, and written back to its
place: ``("blocks.0.attention", "num_heads", None)``, ``("", "sizes", "h")`` for
``self.sizes["h"]``, ``("encoder", "config.hidden_size", None)`` for ``self.config.hidden_size``,
and ``("", "sizes.first", 1)`` for ``self.sizes["first"][1]``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import NamedTuple, TypeGuard

import torch
from torch import nn

from secateurs.pytorch.model.copies import OF_EVERY_MODULE, find_module

ItemKey = int | str | None


class Attribute(NamedTuple):
    """The place of an integer in a model.

    Attributes:
        owner: dotted path of the module.
        name: name of its attribute; dotted where an object that the module holds has the integer.
        item: index in a list or tuple, or key in a dictionary; None for a plain attribute.
    """

    owner: str
    name: str
    item: ItemKey = None

    @property
    def is_far(self) -> bool:
        """Whether another object holds it, such as a configuration with many unread fields."""
        return "." in self.name


def numbers_in(owner: str, module: nn.Module) -> Iterator[tuple[Attribute, int]]:
    """Iterate over the integers of a module, its own before those of the objects it holds."""
    later: list[tuple[str, object]] = []
    is_einops_layer = type(module).__module__.startswith("einops.")  # it derives its recipes anew
    for name, value in vars(module).items():
        if name in OF_EVERY_MODULE or type(value) in _WITHOUT_NUMBERS:
            continue
        yield from _numbers_of(owner, name, value)
        if not is_einops_layer:
            later += _inside(name, value)
    for _ in range(_DEPTH):
        waiting, later = later, []
        for name, value in waiting:
            yield from _numbers_of(owner, name, value)
            later += _inside(name, value)


_WITHOUT_NUMBERS = (str, bool, float, type(None))

_DEPTH = 3
"""Maximum depth of the search: ``self.config.stages["first"].widths[0]`` is found."""


def _numbers_of(owner: str, name: str, value: object) -> Iterator[tuple[Attribute, int]]:
    if is_whole_number(value):
        yield Attribute(owner, name), value
    elif isinstance(value, (list, tuple)):
        for place, item in enumerate(value):
            if is_whole_number(item):
                yield Attribute(owner, name, place), item
    elif isinstance(value, dict):
        for key, item in value.items():
            if is_whole_number(item) and isinstance(key, (str, int)):
                yield Attribute(owner, name, key), item


def _inside(name: str, value: object) -> Iterator[tuple[str, object]]:
    """Containers and objects inside a value that may hold integers in turn, by dotted name."""
    if isinstance(value, dict):
        items: Iterable[tuple[object, object]] = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    elif _is_holder(value):
        items = _attributes(value)
    else:
        return
    holds = _is_holder(value)
    for key, item in items:
        if "." in str(key) or not isinstance(key, (str, int)):
            continue
        if holds or isinstance(item, (dict, list, tuple)) or _is_holder(item):
            yield f"{name}.{key}", item


def _attributes(value: object) -> Iterator[tuple[str, object]]:
    """Attributes of an object of a user's class, those in slots included."""
    if isinstance(value, functools.partial):
        yield "keywords", value.keywords
        return
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if not name.startswith("__") and hasattr(value, name):
                yield name, getattr(value, name)


def _is_holder(value: object) -> bool:
    """Whether a value is an object of a user's class with attributes, such as a configuration."""
    kind = type(value)
    return isinstance(value, functools.partial) or (
        (hasattr(value, "__dict__") or hasattr(kind, "__slots__"))
        and not isinstance(value, (nn.Module, torch.Tensor, type, dict, list, tuple, Enum))
        and not callable(value)
        and kind.__module__.partition(".")[0] not in _NOT_HOLDERS
    )


_NOT_HOLDERS = ("builtins", "torch", "numpy", "secateurs", "collections", "pathlib", "datetime")


def is_whole_number(value: object) -> TypeGuard[int]:
    """Whether the value is an int and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def read(model: nn.Module, at: Attribute) -> object:
    """The value at this place; None if there is no such place."""
    value = _step(*_holder(model, at))
    if at.item is None:
        return value
    return _step(value, at.item) if isinstance(value, (dict, list, tuple)) else None


def read_number(model: nn.Module, at: Attribute) -> int | None:
    """The integer at this place; None where ``numbers_in`` would find none.

    Class attributes and properties do not count.
    """
    try:
        module = find_module(model, at.owner)
    except AttributeError:
        return None
    attributes = vars(module)
    if at.item is None and not at.is_far:
        number = attributes.get(at.name)
        return number if is_whole_number(number) else None
    found = (number for place, number in numbers_in(at.owner, module) if place == at)
    return next(found, None)


def write_(model: nn.Module, at: Attribute, number: int) -> None:
    """Write an integer to a place that exists."""
    name, *path = at.name.split(".")
    steps: list[ItemKey] = [*path] if at.item is None else [*path, at.item]
    module = find_module(model, at.owner)
    if not steps:
        _set_(module, name, number)
        return
    before = getattr(module, name)
    after = _with(before, steps, number)
    if after is not before:
        _set_(module, name, after)
    _sync_einops_(module)


def _with(value: object, steps: Sequence[ItemKey], number: int) -> object:
    """The container or object with the integer written inside; the same object if it is mutable."""
    step, *rest = steps
    if isinstance(value, dict):
        key = _key_of(value, step)
        value[key] = _with(value[key], rest, number) if rest else number
        return value
    if isinstance(value, (list, tuple)):
        items = list(value)
        place = int(step or 0)
        items[place] = _with(items[place], rest, number) if rest else number
        if isinstance(value, list):
            value[:] = items
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    present = getattr(value, str(step))
    after = _with(present, rest, number) if rest else number
    if after is not present:
        _set_(value, str(step), after)
    return value


def _key_of(value: Mapping[object, object], step: ItemKey) -> object:
    """The dictionary key whose text the dotted name has; it may be an integer."""
    return next((key for key in value if key == step or str(key) == str(step)), step)


def identity(module: nn.Module, at: Attribute) -> tuple[int, str, ItemKey]:
    """A key equal for all modules that hold the same object, so that one integer serves them all.

    A tuple does not count: it is replaced in one module and stays what it was in the others.
    """
    holder: object = module
    steps = at.name.split(".")
    changed, rest = holder, steps
    for number, step in enumerate(steps):
        holder = _step(holder, step)
        last = number == len(steps) - 1
        if (not last or at.item is not None) and not isinstance(holder, tuple):
            changed, rest = holder, steps[number + 1 :]
    return id(changed), ".".join(rest), at.item


def _holder(model: nn.Module, at: Attribute) -> tuple[object, str]:
    holder: object = find_module(model, at.owner)
    *path, name = at.name.split(".")
    for step in path:
        holder = _step(holder, step)
    return holder, name


def _step(holder: object, step: ItemKey) -> object:
    """A holder's value under a name, key or index; None if there is none."""
    try:
        if isinstance(holder, dict):
            return holder[_key_of(holder, step)]
        if isinstance(holder, (list, tuple)):
            return holder[int(step or 0)]
    except (LookupError, TypeError, ValueError):
        return None
    return getattr(holder, str(step), None)


def _set_(holder: object, name: str, value: object) -> None:
    if type(holder).__setattr__ is nn.Module.__setattr__ and type(vars(holder).get(name)) is int:
        # A plain attribute of a module: its __setattr__ would look for it among the tensors first.
        object.__setattr__(holder, name, value)
        return
    try:
        setattr(holder, name, value)
    except AttributeError:  # a frozen dataclass, which belongs to the cut copy
        object.__setattr__(holder, name, value)


def _sync_einops_(layer: object) -> None:
    """Update the second copy of its lengths that an einops layer keeps.

    ``axes_lengths`` holds them as given, and copies and pickles are built from it; its forward
    reads ``_axes_lengths``.
    """
    given = getattr(layer, "axes_lengths", None)
    if isinstance(given, dict) and hasattr(layer, "_axes_lengths"):
        layer._axes_lengths = tuple(given.items())
