"""Find caches that a forward pass keeps for the next one, such as attention biases and grids.

A cached copy of a weight, made before the cut, would be read in place of the weight after it. So
caches are deleted: we delete candidates and run the model; what reappears unchanged was a cache.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from secateurs.channels.cut import Cache
from secateurs.pytorch.tracing.interpreter import in_mode

CacheKind = tuple[type, str]


@dataclass(frozen=True, slots=True, eq=False)
class CacheLocation:
    """Place of a cached tensor.

    Attributes:
        owner: path of the module.
        attribute: name of the module's attribute: the tensor, or the dictionary that holds it.
        holder: dictionary of the module's attributes or buffers, or the dictionary in the
            attribute.
        key: key in the holder.
        tensor: the cached tensor.
        is_in_dictionary: whether the holder is a dictionary in an attribute of the module.
    """

    owner: str
    attribute: str
    holder: dict[object, object]
    key: object
    tensor: torch.Tensor
    is_in_dictionary: bool = False

    def cache(self, is_sized: bool = False) -> Cache:
        """The place in terms that hold for any copy of the model."""
        key = self.key if self.is_in_dictionary and isinstance(self.key, str) else None
        return Cache(self.owner, self.attribute, key, is_sized and not self.is_in_dictionary)


def forget_caches_(
    model: nn.Module,
    arguments: Sequence[object],
    keywords: Mapping[str, object],
    suspects: Collection[torch.Tensor],
) -> tuple[Cache, ...]:
    """Delete caches that the model's forward pass fills again with the same values.

    The suspects are deleted and the model is run: those that reappear with the same values were
    caches. All others are restored.

    Args:
        model: a private copy; nothing but its caches is changed.
        arguments: positional arguments of its forward.
        keywords: keyword arguments of its forward.
        suspects: tensors of the model that are not in its state.

    Returns:
        The deleted caches.
    """
    ids = {id(tensor) for tensor in suspects}
    found: dict[CacheKind, list[CacheLocation]] = {}
    for kind, place in _iterate_kept(model):
        if id(place.tensor) in ids:
            found.setdefault(kind, []).append(place)
    everything = [place for places in found.values() for place in places]
    forgotten = _forget(model, arguments, keywords, everything, _no_tensor)
    if forgotten is not None:
        return tuple(place.cache() for place in forgotten)
    gone: list[Cache] = []
    for places in found.values():
        for stand_in in (_no_tensor, _one_element):
            forgotten = _forget(model, arguments, keywords, places, stand_in)
            if forgotten is not None:
                gone += [place.cache(is_sized=stand_in is _one_element) for place in forgotten]
                break
    return tuple(gone)


def _no_tensor(kept: torch.Tensor) -> None:
    """None in place of a cache: the value some models have before their first pass."""
    del kept


def _one_element(kept: torch.Tensor) -> torch.Tensor:
    """A one-element tensor in place of a cache, for models that check its size."""
    return kept.new_zeros([1] * kept.dim())


def _iterate_kept(model: nn.Module) -> Iterator[tuple[CacheKind, CacheLocation]]:
    """Tensors in attributes, buffers and dictionaries, with (class of the module, attribute)."""
    for path, module in model.named_modules():
        attributes = cast("dict[object, object]", vars(module))
        for name, value in vars(module).items():
            if name in ("_parameters", "_modules"):
                continue
            if isinstance(value, torch.Tensor):
                yield (type(module), name), CacheLocation(path, name, attributes, name, value)
            elif isinstance(value, dict):
                for key, item in value.items():
                    if isinstance(item, torch.Tensor):
                        is_own = name != "_buffers"
                        inner = name if is_own else key
                        yield (
                            (type(module), inner),
                            CacheLocation(path, inner, value, key, item, is_own),
                        )


def _forget(
    model: nn.Module,
    arguments: Sequence[object],
    keywords: Mapping[str, object],
    places: Sequence[CacheLocation],
    stand_in: Callable[[torch.Tensor], torch.Tensor | None],
) -> list[CacheLocation] | None:
    """Delete these tensors, run the model, and restore those that do not reappear.

    Returns:
        Those that reappeared; None where the forward pass raises.
    """
    for place in places:
        if place.is_in_dictionary:
            del place.holder[place.key]
        else:
            place.holder[place.key] = stand_in(place.tensor)
    again: list[bool] = []
    try:
        with in_mode(model), torch.random.fork_rng(devices=[]), torch.inference_mode():
            model(*arguments, **keywords)
            again = [_is_same(place.holder.get(place.key), place.tensor) for place in places]
    except Exception:  # noqa: BLE001 - a forward without its cache may raise anything
        return None
    finally:
        for place, is_back in zip(places, again or [False] * len(places), strict=True):
            if not is_back:
                place.holder[place.key] = place.tensor
    return [place for place, is_back in zip(places, again, strict=True) if is_back]


def _is_same(one: object, other: torch.Tensor) -> bool:
    if not isinstance(one, torch.Tensor) or one.shape != other.shape or one.dtype != other.dtype:
        return False
    return one.is_meta or torch.equal(one, other)
