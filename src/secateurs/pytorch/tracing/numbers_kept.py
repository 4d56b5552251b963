"""Keep the values of tensors that a forward pass makes from Python numbers.

``torch.tensor(d, device=q.device)`` asks for the device of a tensor without data, and would have no
value itself: the scale of an attention, say, could not be compared any more. Operations on
constants run on the CPU anyway; these factory functions make tensors without being operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.overrides import TorchFunctionMode

_FROM_VALUES = {torch.tensor, torch.as_tensor, torch.asarray}
_FROM_VALUES_LIKE = torch.Tensor.new_tensor


class NumbersKept(TorchFunctionMode):
    """Mode that makes tensors from values on the CPU where the meta device is asked for."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        keywords = kwargs or {}
        if func in _FROM_VALUES and _is_meta(keywords.get("device")):
            keywords = {**keywords, "device": "cpu"}
        elif func is _FROM_VALUES_LIKE and _is_like_meta(args, keywords):
            like, *values = args
            options = {"dtype": like.dtype, **keywords, "device": "cpu"}  # type: ignore[attr-defined]
            options["dtype"] = options["dtype"] or like.dtype  # type: ignore[attr-defined]
            return torch.tensor(*values, **options)  # type: ignore[arg-type]
        return func(*args, **keywords)


def _is_like_meta(args: Sequence[object], keywords: dict[str, object]) -> bool:
    like = args[0] if args else None
    return isinstance(like, torch.Tensor) and _is_meta(keywords.get("device") or like.device)


def _is_meta(device: object) -> bool:
    return device is not None and str(device) == "meta"
