"""What a model keeps of a pass for the next one, and would make again: attention's biases, grids.

A copy that was made of a weight before the cut would be read in the weight's place after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from secateurs.pytorch.counted import in_mode

Kind = tuple[type, str]
Place = tuple[dict[str, Any], str, torch.Tensor]
"""(a module's attributes or a dictionary among them, the key there, what is kept)."""


def forget_caches_(model: nn.Module, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> None:
    """Empty what the model's forward pass fills again with the same values by itself.

    Tensors that are neither parameters nor buffers are taken away and the model is run: those that
    are there again, with the same values, were a cache. All others are put back.
    """
    found: dict[Kind, list[Place]] = {}
    for kind, place in _kept(model):
        found.setdefault(kind, []).append(place)
    if not found:
        return
    everything = [place for places in found.values() for place in places]
    if not _forgotten(model, arguments, keywords, everything):
        for places in found.values() if len(found) > 1 else ():
            _forgotten(model, arguments, keywords, places)


def _kept(model: nn.Module) -> Iterator[tuple[Kind, Place]]:
    for module in model.modules():
        own = vars(module)
        for name, value in own.items():
            if name in ("_parameters", "_buffers", "_modules"):
                continue
            kind = (type(module), name)
            if isinstance(value, torch.Tensor):
                yield kind, (own, name, value)
            elif isinstance(value, dict):
                yield from (
                    (kind, (value, key, item))
                    for key, item in value.items()
                    if isinstance(item, torch.Tensor)
                )


def _forgotten(
    model: nn.Module,
    arguments: Sequence[Any],
    keywords: Mapping[str, Any],
    places: Sequence[Place],
) -> bool:
    """Take these away; those that a pass does not bring back are put back. False if it raises."""
    attributes = {id(vars(module)) for module in model.modules()}
    for holder, key, _ in places:
        if id(holder) in attributes:
            holder[key] = None
        else:
            del holder[key]
    again: list[bool] = []
    try:
        with in_mode(model), torch.inference_mode():
            model(*arguments, **keywords)
            again = [_is_same(holder.get(key), kept) for holder, key, kept in places]
    except Exception:  # noqa: BLE001 - whatever a forward does without what it kept
        return False
    finally:
        for (holder, key, kept), is_back in zip(
            places, again or [False] * len(places), strict=True
        ):
            if not is_back:
                holder[key] = kept
    return True


def _is_same(one: Any, other: torch.Tensor) -> bool:
    if not isinstance(one, torch.Tensor) or one.shape != other.shape or one.dtype != other.dtype:
        return False
    return one.is_meta or torch.equal(one, other)
