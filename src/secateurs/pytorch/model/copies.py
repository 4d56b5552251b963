"""Copies of a model: its modules anew, around tensors that are cut, cloned or shared.

Nothing in this package runs the user's own modules, switches them to eval, or hooks them: it runs a
copy of them that holds the very same tensors. So a model is the same after a call as before, and
may answer in another thread meanwhile.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import nn

from secateurs.channels.cut import Cache
from secateurs.errors import ModelError


def copy_modules(model: nn.Module, memo: dict[int, object]) -> nn.Module:
    """A deep copy of a model, but for what is in the memo.

    What no copy can be made of (a lock, an open file, a generator) is shared with the model.

    Args:
        model: unchanged.
        memo: id of an object -> what to take in its place; ties between tensors stay ties.

    Raises:
        ModelError: the model cannot be copied all the same.
    """
    memo = memo | _empty_containers(model)
    try:
        # It adds to the memo what it has copied, also where it fails then.
        return copy.deepcopy(model, dict(memo))
    except Exception:  # noqa: BLE001 - whatever a user's object raises when it is copied
        shared = {id(value): value for value in _not_copyable(model, memo)}
    try:
        return copy.deepcopy(model, memo | shared)
    except Exception as error:
        message = " ".join(str(error).split())
        raise ModelError(
            f"{type(model).__name__}: expected a model that can be copied; copy.deepcopy raised "
            f"{type(error).__name__}: {message}. Keep what cannot be copied out of its attributes."
        ) from error


def share_tensors(model: nn.Module, caches: Iterable[Cache] = ()) -> nn.Module:
    """The same modules anew, around the very same tensors.

    Args:
        model: unchanged.
        caches: what the copy is not to have.
    """
    made = copy_modules(model, {id(tensor): tensor for tensor in tensors_of(model)})
    empty_caches_(made, caches)
    return made


def empty_caches_(model: nn.Module, caches: Iterable[Cache]) -> None:
    """Take away what the model's next pass makes again."""
    modules = dict(model.named_modules())
    for cache in caches:
        module = modules.get(cache.owner)
        if module is None:
            continue
        attributes: dict[str, object] = module.__dict__
        holder = attributes if cache.attribute in attributes else module._buffers
        kept = holder.get(cache.attribute)
        if isinstance(kept, torch.Tensor):
            holder[cache.attribute] = kept.new_zeros([1] * kept.dim()) if cache.is_sized else None
        elif isinstance(kept, dict):
            for key in [key for key, value in kept.items() if _is_entry(cache, key, value)]:
                del kept[key]


def _is_entry(cache: Cache, key: object, value: object) -> bool:
    return isinstance(value, torch.Tensor) and cache.key in (None, key)


def _empty_containers(model: nn.Module) -> dict[int, object]:
    """New ones for a module's many empty dictionaries (of hooks, mostly).

    ``deepcopy`` takes longer over these than over everything else in a model.
    """
    return {
        id(value): type(value)()
        for module in model.modules()
        for value in vars(module).values()
        if type(value) in (dict, OrderedDict) and not value
    }


def tensors_of(model: nn.Module) -> Iterator[torch.Tensor]:
    """Every tensor that a module keeps, private ones too."""
    for module in model.modules():
        for value in vars(module).values():
            yield from _tensors_among(value)


def _tensors_among(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors_among(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors_among(item)


def _not_copyable(model: nn.Module, memo: Mapping[int, object]) -> Iterator[object]:
    """What among the attributes of a model's modules cannot be copied."""
    for module in model.modules():
        for value in vars(module).values():
            yield from _stubborn(value, memo)


def _stubborn(value: object, memo: Mapping[int, object]) -> Iterator[object]:
    if isinstance(value, nn.Module):
        return  # its own attributes are looked at in its turn
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _stubborn(item, memo)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _stubborn(item, memo)
    else:
        try:
            copy.deepcopy(value, dict(memo))
        except Exception:  # noqa: BLE001 - as above
            yield value
