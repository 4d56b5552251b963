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
    """The average once the model has made another step; begun with its values where it is empty.

    As ``torch.optim.swa_utils.AveragedModel`` with ``use_buffers=True`` takes it, kept by name in
    the place of a second model: it is written to checkpoints, and put into the model to be judged.
    What is no floating-point number (how many batches were seen) is the model's.

    Args:
        average: so far; changed in place.
        model: after the step.
        decay: share of the average that stays; 0 takes none.
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
    """The model with these values; afterwards it has its own again, to the last bit."""
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
    """The model's tensors themselves; what else it keeps in its state is not averaged."""
    state = model.state_dict()
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
