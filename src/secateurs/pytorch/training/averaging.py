"""An exponential moving average of a model's weights, and of its running statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

NamedTensors = dict[str, torch.Tensor]
"""Tensors of a model's state, by name."""


@torch.no_grad()
def update_average(average: NamedTensors, model: nn.Module, decay: float) -> NamedTensors:
    """Update the average after a step of the model; an empty average starts with its values.

    Equivalent to ``torch.optim.swa_utils.AveragedModel`` with ``use_buffers=True``, but stored by
    name instead of in a second model: it is written to checkpoints, and put into the model for
    evaluation. Integers (the number of batches seen) are copied from the model.

    Args:
        average: average so far; changed in place.
        model: model after the step.
        decay: fraction of the average that is kept; 0 disables averaging.
    """
    if not decay:
        return average
    present = _state(model)
    if not average:
        return {name: tensor.clone() for name, tensor in present.items()}
    floating = [name for name, tensor in present.items() if tensor.is_floating_point()]
    step = get_ema_multi_avg_fn(decay)
    step([average[name] for name in floating], [present[name] for name in floating], 0)
    for name in present.keys() - set(floating):
        average[name].copy_(present[name])
    return average


@contextmanager
def values_put(model: nn.Module, values: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Context in which the model has these values; its own are restored exactly afterwards."""
    before = {name: tensor.clone() for name, tensor in _state(model).items() if name in values}
    _fill_(model, values)
    try:
        yield
    finally:
        _fill_(model, before)


@torch.no_grad()
def _fill_(model: nn.Module, values: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in _state(model).items():
        if name in values:
            tensor.copy_(values[name])


def _state(model: nn.Module) -> NamedTensors:
    """The tensors in the model's state; anything else there is not averaged.

    Of a model that is spread over processes (FSDP), they are this process's parts.
    """
    state = model.state_dict()
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    return {
        name: value.to_local() if hasattr(value, "to_local") else value
        for name, value in tensors.items()
    }
