"""The configuration of a Transformers model, kept true to the model that a cut leaves.

``save_pretrained`` writes the configuration, and ``from_pretrained`` builds from it. Which field
says which size is not looked up in a table of architectures: fields whose value is a length that
was cut take the length that is left, and what they then describe is built without memory and held
against the model, tensor by tensor.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Protocol

import torch
from torch import nn

from secateurs.channels.cut import Cut

_LOG = logging.getLogger("secateurs")
_HEADS = ("num_attention_heads", "n_head", "num_heads", "num_key_value_heads")
_MOST_FIELDS = 6
_Changes = dict[str, int]


class Configuration(Protocol):
    """What of a Transformers configuration is used here; its fields differ from model to model."""

    def to_dict(self) -> dict[str, object]: ...
    @classmethod
    def from_dict(cls, fields: dict[str, object]) -> object: ...


def describe_cut_(model: nn.Module, cut: Cut) -> bool:
    """Let ``model.config`` describe the model as it is now, where a configuration can.

    Args:
        model: cut already; a Transformers model's own configuration is changed in place, anything
            else is left alone.
        cut: what went.

    Returns:
        Whether the configuration describes the model; False where the layers do not agree, which
        is logged: ``secateurs.save`` and ``secateurs.load`` serve such a model, ``from_pretrained``
        cannot.
    """
    config: Configuration | None = getattr(model, "config", None)
    if not cut or config is None or not hasattr(model, "save_pretrained"):
        return True
    if not hasattr(config, "to_dict"):
        return True
    shapes = _shapes(model)
    for changes in _iterate_changes(config, cut):
        if _builds(type(model), config, changes, shapes):
            for name, value in changes.items():
                setattr(config, name, value)
            return True
    _LOG.warning(
        "%s: its layers have different widths now, which its configuration cannot say: "
        "from_pretrained cannot build it. Keep it with secateurs.save and secateurs.load, or cut "
        "every layer of a kind alike: scope='group', amount=..., and skip what differs.",
        type(model).__name__,
    )
    return False


def _iterate_changes(config: Configuration, cut: Cut) -> Iterator[_Changes]:
    """Every set of fields that may have changed, the smallest sets first."""
    left: dict[int, set[int]] = {}
    for tensor in cut.tensors.values():
        for axis, removed in tensor.removed.items():
            length = tensor.shape[axis]
            left.setdefault(length, set()).add(length - len(removed))
    plain = {
        name: value
        for name, value in config.to_dict().items()
        if isinstance(value, int) and not isinstance(value, bool)
    }
    # Heads are counted, not measured: as many go as the head's width divides what went.
    found: list[tuple[str, int]] = [
        (name, new) for name, value in plain.items() for new in left.get(value, ())
    ]
    found += [(name, new) for name in _HEADS for new in _heads_left(config, plain, name, left)]
    if getattr(config, "n_inner", 0) is None:  # GPT-2's "four times the width"
        inner = 4 * int(getattr(config, "n_embd", 0))
        found += [("n_inner", new) for new in left.get(inner, ())]
    for count in range(1, min(_MOST_FIELDS, len(found)) + 1):
        for chosen in combinations(found, count):
            changes = dict(chosen)
            if len(changes) == count:
                yield _with_head_width(config, changes)


def _heads_left(
    config: Configuration, plain: Mapping[str, int], name: str, left: Mapping[int, set[int]]
) -> Iterator[int]:
    heads, width = plain.get(name, 0), _head_width(config)
    for new in left.get(heads * width, ()) if width else ():
        if new % width == 0:
            yield new // width


def _head_width(config: Configuration) -> int:
    stated = getattr(config, "head_dim", None)
    if stated:
        return int(stated)
    width = getattr(config, "hidden_size", 0) or 0
    heads = getattr(config, "num_attention_heads", 0) or 0
    return int(width) // int(heads) if heads else 0


def _with_head_width(config: Configuration, changes: _Changes) -> _Changes:
    """A head's width is said once heads go: left unsaid it would follow from their number."""
    if any(name in _HEADS for name in changes) and hasattr(config, "head_dim"):
        return {"head_dim": _head_width(config), **changes}
    return changes


def _builds(
    kind: type[nn.Module],
    config: Configuration,
    changes: _Changes,
    shapes: Mapping[str, torch.Size],
) -> bool:
    try:
        changed = type(config).from_dict({**config.to_dict(), **changes})
        with torch.device("meta"):
            return _shapes(kind(changed)) == shapes
    except Exception:  # noqa: BLE001 - widths that it cannot have; its validators' own kinds
        return False


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}
