"""Move batches of any kind to the model's device, and call the model with them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from secateurs.calibration.batches import LABELS


def has_channels_last(model: nn.Module, shape: tuple[int, int, int]) -> bool:
    """Whether a model takes images of shape (C, H, W) with their channels last: none here does."""
    return False


def on_device(batch: object, device: torch.device) -> object:
    """The batch as tensors on the device; floating-point tensors at most in single precision."""
    if isinstance(batch, Mapping):
        return {key: on_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(on_device(value, device) for value in batch)
    if isinstance(batch, np.ndarray) and batch.dtype.kind in "biuf":
        batch = torch.from_numpy(np.ascontiguousarray(batch))
    if isinstance(batch, torch.Tensor):
        batch = batch.float() if batch.dtype == torch.float64 else batch
        return batch.to(device, non_blocking=True)
    return batch


def call_model(model: nn.Module, inputs: object) -> object:
    """Call the model with inputs of any kind."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def takes_targets(model: nn.Module, batch: object) -> bool:
    """Whether the model takes a dictionary's targets, and so computes its own loss."""
    if not isinstance(batch, Mapping):
        return False
    key = next((name for name in LABELS if name in batch), None)
    return key is not None and key in inspect.signature(model.forward).parameters
