"""Read checkpoints of training scripts: nested, averaged, with names that a wrapper changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

import torch

from secateurs.errors import CheckpointError

PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "encoder.")
"""Name prefixes that DataParallel, ``torch.compile`` and Lightning modules add to a model's names.
"""

_NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "ema_model", "params_ema")
_MOST_PREFIXES = 3
"""Maximum number of prefixes in a row, as in ``module._orig_mod.model.``."""

_HEADS = re.compile(r"(^|\.)(fc|head|heads|classifier|linear|last_linear|output|logits)(\.|$)")


AnyValue = TypeVar("AnyValue")


class Shaped(Protocol):
    """A tensor or an array."""

    @property
    def shape(self) -> Sequence[int]: ...


def tensors_in(content: object, where: str, *, ema: bool = False) -> dict[str, torch.Tensor]:
    """Extract a model's tensors from the content of a checkpoint file.

    Args:
        content: the loaded object: a state_dict, or a dictionary that holds one (of a training
            script or of Lightning).
        where: path of the file, for messages.
        ema: take the averaged weights, which many scripts keep beside the others.

    Raises:
        CheckpointError: there are no tensors, or no averaged ones.
    """
    if isinstance(content, Mapping) and ema:
        content = _take_averaged(content, where)
    content = _unwrap(content)
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(
            f"{where}: expected a dictionary of tensors; received {type(content).__name__}"
        )
    tensors = {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)}
    others = [str(key) for key in content if str(key) not in tensors]
    if not tensors or len(others) > len(tensors):
        raise CheckpointError(
            f"{where}: expected a dictionary of tensors; received one that holds "
            f"{', '.join(others[:6])}. Save the model's state_dict()."
        )
    return tensors


def _take_averaged(content: Mapping[str, object], where: str) -> Mapping[str, object]:
    """The averaged weights: an entry of their own, or entries among the plain ones."""
    for key in _AVERAGED:
        found = content.get(key)
        if isinstance(found, Mapping) and _is_state(found):
            return found
    averaged = _find_averaged(content)
    if not averaged:
        raise CheckpointError(
            f"{where}: expected averaged weights ({', '.join(_AVERAGED)}); received "
            f"{', '.join(map(str, list(content)[:6]))}. Leave ema out."
        )
    return averaged


def _unwrap(content: object) -> object:
    """The state inside a training script's dictionary, which may be nested twice."""
    for _ in range(2):  # {'model': {'state_dict': ...}}
        if not isinstance(content, Mapping):
            return content
        inside = next((content[key] for key in _NESTED if key in content), None)
        if isinstance(inside, Mapping) and inside:
            content = inside
    return content


def fit_names(
    state: Mapping[str, AnyValue],
    names: Mapping[str, object],
    own_name: Callable[[str], str] | None = None,
) -> dict[str, AnyValue]:
    """Rename tensors to the model's own names by removing a wrapper's prefixes.

    What a wrapper holds besides the model (a loss's weights, say) is dropped only if that prefix
    gives more of the model's names.

    Args:
        state: name -> tensor, as read.
        names: names of the model's own tensors.
        own_name: maps the name that other implementations give a tensor to this model's name for
            it.
    """
    if own_name is not None and not set(state) & set(names):
        renamed = {own_name(name): value for name, value in _without_prefix(state).items()}
        if set(renamed) & set(names):
            return renamed
    if set(state) == set(names):
        return dict(state)
    best, most = dict(state), len(set(state) & set(names))
    for prefix in _prefixes(state):
        inside = {
            name.removeprefix(prefix): value
            for name, value in state.items()
            if name.startswith(prefix)
        }
        shared = len(set(inside) & set(names))
        if shared > most:
            best, most = inside, shared
    # AveragedModel's counter of updates (n_averaged) belongs to no model.
    return {name: value for name, value in best.items() if name != "n_averaged"}


def _without_prefix(state: Mapping[str, AnyValue]) -> dict[str, AnyValue]:
    """Remove the longest prefix chain that all names share."""
    for prefix in ["", *_prefixes(state)][::-1]:
        inside = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
        if len(inside) == len(state):
            return inside
    return dict(state)


def classes_in(state: Mapping[str, Shaped]) -> int | None:
    """The number of classes of a classifier, from the shape of its last weight matrix.

    Args:
        state: name -> tensor or array, in the model's order.

    Returns:
        The number; None where no layer looks like a classifier.

    Example:
        >>> classes_in({"conv.weight": torch.zeros(8, 3, 3, 3), "fc.weight": torch.zeros(5, 8)})
        5
    """
    layers = [
        (name, tuple(value.shape))
        for name, value in state.items()
        if name.endswith("weight") and (len(value.shape) == 2 or tuple(value.shape)[2:] == (1, 1))
    ]
    named = [shape for name, shape in layers if _HEADS.search(name) and "aux" not in name.lower()]
    if named:
        return int(named[-1][0])
    return int(layers[-1][1][0]) if layers and len(layers[-1][1]) == 2 else None


def _prefixes(state: Mapping[str, object]) -> Iterator[str]:
    """Every chain of prefixes that some of the names begin with."""
    found = [""]
    for _ in range(_MOST_PREFIXES):
        found = [
            before + prefix
            for before in found
            for prefix in PREFIXES
            if any(name.startswith(before + prefix) for name in state)
        ]
        yield from found


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and any(isinstance(v, torch.Tensor) for v in value.values())


def _find_averaged(content: Mapping[str, object]) -> dict[str, torch.Tensor]:
    """Averaged weights stored beside the plain ones, such as Lightning's ``ema_model.`` entries."""
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping):
        return {}
    for prefix in ("ema_model.", "model_ema.", "ema."):
        found = {
            name.removeprefix(prefix): value
            for name, value in state.items()
            if str(name).startswith(prefix) and isinstance(value, torch.Tensor)
        }
        if found:
            return found
    return {}
