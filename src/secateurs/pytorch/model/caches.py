"""What a model keeps of a pass for the next one, and would make again: attention's biases, grids.

A copy that was made of a weight before the cut would be read in the weight's place after it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from secateurs.pytorch.tracing.interpreter import in_mode

Kind = tuple[type, str]
Place = tuple[dict[str, Any], str, torch.Tensor]
"""(a module's attributes or a dictionary among them, the key there, what is kept)."""


def forget_caches_(
    model: nn.Module,
    arguments: Sequence[Any],
    keywords: Mapping[str, Any],
    suspects: Collection[torch.Tensor],
) -> bool:
    """Empty what the model's forward pass fills again with the same values by itself.

    The suspects are taken away and the model is run: those that are there again, with the same
    values, were a cache. All others are put back.

    Args:
        model: changed in that alone; nobody who runs it sees a difference.
        arguments: for its forward.
        keywords: for its forward.
        suspects: tensors of the model that its state does not hold.

    Returns:
        Whether there was any.
    """
    ids = {id(tensor) for tensor in suspects}
    found: dict[Kind, list[Place]] = {}
    for kind, place in _kept(model):
        if id(place[2]) in ids:
            found.setdefault(kind, []).append(place)
    everything = [place for places in found.values() for place in places]
    forgotten = _forgotten(model, arguments, keywords, everything, _nothing)
    for places in found.values() if forgotten is None else ():
        for stand_in in (_nothing, _too_small):
            these = _forgotten(model, arguments, keywords, places, stand_in)
            forgotten = (forgotten or 0) + (these or 0)
            if these is not None:
                break
    return bool(forgotten)


def _nothing(kept: torch.Tensor) -> None:
    """What some models have before their first pass."""
    del kept


def _too_small(kept: torch.Tensor) -> torch.Tensor:
    """What others have, that look whether the size is right."""
    return kept.new_zeros([1] * kept.dim())


def _kept(model: nn.Module) -> Iterator[tuple[Kind, Place]]:
    for module in model.modules():
        own = vars(module)
        for name, value in own.items():
            if name in ("_parameters", "_modules"):
                continue
            if isinstance(value, torch.Tensor):
                yield (type(module), name), (own, name, value)
            elif isinstance(value, dict):
                for key, item in value.items():
                    if isinstance(item, torch.Tensor):
                        inner = key if name == "_buffers" else name
                        yield (type(module), inner), (value, key, item)


def _forgotten(
    model: nn.Module,
    arguments: Sequence[Any],
    keywords: Mapping[str, Any],
    places: Sequence[Place],
    stand_in: Callable[[torch.Tensor], Any],
) -> int | None:
    """Take these away and put back those that a pass does not bring back.

    Returns:
        How many it did; None where it raises.
    """
    named = (name for module in model.modules() for name in (vars(module), module._buffers))
    of_modules = {id(holder) for holder in named}
    for holder, key, kept in places:
        if id(holder) in of_modules:
            holder[key] = stand_in(kept)
        else:
            del holder[key]
    again: list[bool] = []
    try:
        with in_mode(model), torch.inference_mode():
            model(*arguments, **keywords)
            again = [_is_same(holder.get(key), kept) for holder, key, kept in places]
    except Exception:  # noqa: BLE001 - whatever a forward does without what it kept
        return None
    finally:
        for (holder, key, kept), is_back in zip(
            places, again or [False] * len(places), strict=True
        ):
            if not is_back:
                holder[key] = kept
    return sum(again)


def _is_same(one: Any, other: torch.Tensor) -> bool:
    if not isinstance(one, torch.Tensor) or one.shape != other.shape or one.dtype != other.dtype:
        return False
    return one.is_meta or torch.equal(one, other)
