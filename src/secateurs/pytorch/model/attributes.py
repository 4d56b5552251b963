"""Where a model's modules keep whole numbers: attributes, lists, dictionaries, configurations.

A size is found by its value, in the modules whose code was running, and written back by its place:
``("blocks.0.attention", "num_heads", None)``, ``("", "sizes", "h")`` for ``self.sizes["h"]``,
``("encoder", "config.hidden_size", None)`` for ``self.config.hidden_size``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeGuard

import torch
from torch import nn

Item = int | str | None


class Attribute(NamedTuple):
    """Where a whole number is kept.

    Attributes:
        owner: dotted path of the module.
        name: of its attribute; dotted where that is in an object that the module holds.
        item: the place in it where it is a list or tuple, the key where it is a dictionary.
    """

    owner: str
    name: str
    item: Item = None

    @property
    def is_far(self) -> bool:
        """Whether another object holds it, such as a configuration, of which much is never read."""
        return "." in self.name


def numbers_in(owner: str, module: nn.Module) -> Iterator[tuple[Attribute, int]]:
    """The whole numbers that a module keeps, its own before those of objects that it holds."""
    attributes = vars(module)
    for name, value in attributes.items():
        yield from _numbers_of(owner, name, value)
    for name, value in attributes.items():
        if _is_holder(value):
            for inner, item in vars(value).items():
                yield from _numbers_of(owner, f"{name}.{inner}", item)


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


def _is_holder(value: object) -> bool:
    """Whether it is an object of somebody's class with attributes: a configuration, say."""
    kind = type(value)
    return (
        hasattr(value, "__dict__")
        and not isinstance(value, (nn.Module, torch.Tensor, type, dict, list, tuple))
        and not callable(value)
        and kind.__module__.partition(".")[0] not in ("builtins", "torch", "secateurs")
    )


def is_whole_number(value: object) -> TypeGuard[int]:
    """Whether it is an integer and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def read(model: nn.Module, at: Attribute) -> object:
    """What lies there; None where there is no such place."""
    holder, name = _holder(model, at)
    value = getattr(holder, name, None)
    if at.item is None:
        return value
    try:
        return value[at.item]  # type: ignore[index]
    except (LookupError, TypeError):
        return None


def kept_number(model: nn.Module, at: Attribute) -> int | None:
    """The whole number that is kept there; None where ``numbers_in`` would find none.

    What a class keeps for all, or computes (a property), is not a module's own.
    """
    try:
        module = model.get_submodule(at.owner)
    except AttributeError:
        return None
    own = vars(module)
    if at.item is None and not at.is_far:
        number = own.get(at.name)
        return number if is_whole_number(number) else None
    found = (number for place, number in numbers_in(at.owner, module) if place == at)
    return next(found, None)


def write_(model: nn.Module, at: Attribute, number: int) -> None:
    """Put a number there; the place has to exist."""
    holder, name = _holder(model, at)
    if at.item is None:
        _set_(holder, name, number)
        return
    present = getattr(holder, name)
    if isinstance(present, dict):
        present[at.item] = number
    elif isinstance(present, list):
        present[int(at.item)] = number
    else:
        items = list(present)
        items[int(at.item)] = number
        is_named = hasattr(present, "_fields")
        _set_(holder, name, type(present)(*items) if is_named else type(present)(items))
    _bring_einops_up_to_date_(holder)


def identity(model: nn.Module, at: Attribute) -> tuple[int, str, Item]:
    """The same for all modules that hold the same object: one number serves them all."""
    holder, name = _holder(model, at)
    value = getattr(holder, name, None)
    if at.item is not None and isinstance(value, (dict, list)):
        return id(value), "", at.item
    return id(holder), name, at.item


def _holder(model: nn.Module, at: Attribute) -> tuple[object, str]:
    holder: object = model.get_submodule(at.owner)
    *path, name = at.name.split(".")
    for step in path:
        holder = getattr(holder, step, None)
    return holder, name


def _set_(holder: object, name: str, value: object) -> None:
    try:
        setattr(holder, name, value)
    except AttributeError:  # a frozen dataclass; it is the cut copy's own
        object.__setattr__(holder, name, value)


def _bring_einops_up_to_date_(layer: object) -> None:
    """Layers of einops keep their lengths twice: as given, and as their forward reads them.

    A copy or a pickle of such a layer is made of the first.
    """
    given = getattr(layer, "axes_lengths", None)
    if isinstance(given, dict) and hasattr(layer, "_axes_lengths"):
        layer._axes_lengths = tuple(given.items())
