"""Example inputs, as users give them, made into what a model's forward takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from secateurs.errors import ModelError


def as_call(example_inputs: Any, model: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(positional, keyword) arguments: a tensor or array, or a tuple, list or dictionary of them.

    Arrays become tensors on the model's device, floating-point ones of the model's type.
    """
    if isinstance(example_inputs, Mapping):
        return (), {key: _as_tensor(value, model) for key, value in example_inputs.items()}
    if isinstance(example_inputs, (tuple, list)):
        return tuple(_as_tensor(value, model) for value in example_inputs), {}
    return (_as_tensor(example_inputs, model),), {}


def _as_tensor(value: Any, model: nn.Module) -> Any:
    if isinstance(value, np.ndarray):
        tensor = torch.from_numpy(np.ascontiguousarray(value))
        like = next(model.parameters(), None)
        if like is None:
            return tensor
        return tensor.to(like.device, like.dtype if tensor.is_floating_point() else None)
    return value


def described(example_inputs: Any) -> str:
    """'(1, 3, 224, 224) float32' for error messages."""
    if isinstance(example_inputs, Mapping):
        return "{" + ", ".join(f"{k}: {described(v)}" for k, v in example_inputs.items()) + "}"
    if isinstance(example_inputs, (tuple, list)):
        return "(" + ", ".join(described(value) for value in example_inputs) + ")"
    if isinstance(example_inputs, (np.ndarray, torch.Tensor)):
        return f"{tuple(example_inputs.shape)} {str(example_inputs.dtype).removeprefix('torch.')}"
    return type(example_inputs).__name__


def checked_model(model: Any) -> nn.Module:
    """The model, unless it is something that cannot be traced; then the error says what to pass."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"expected a torch.nn.Module; received {type(model).__name__}")
    return model
