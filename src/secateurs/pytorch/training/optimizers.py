"""Optimizers of PyTorch models: created from settings, saved and restored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from secateurs.errors import ModelError
from secateurs.settings.training import Training
from secateurs.training.learner import Snapshot


def make_optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Create the optimizer of a model's trainable parameters.

    Raises:
        ModelError: there are none, or 'compiled' is requested, which only Keras models have.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ModelError(
            f"{type(model).__name__}: expected parameters that can be trained; all of them are "
            "frozen (requires_grad=False)"
        )
    if training.optimizer == "compiled":
        raise ModelError(
            f"{type(model).__name__}: expected optimizer 'sgd' or 'adamw'; received 'compiled', "
            "which only a Keras model can be"
        )
    return make_optimizer_of(parameters, training)


def make_optimizer_of(
    parameters: Sequence[torch.Tensor], training: Training
) -> torch.optim.Optimizer:
    """Create the optimizer of these parameters."""
    rate, decay = training.learning_rate, training.weight_decay
    if training.optimizer == "adamw":
        return torch.optim.AdamW(parameters, rate, weight_decay=decay)
    momentum = training.momentum
    return torch.optim.SGD(
        parameters, rate, momentum=momentum, weight_decay=decay, nesterov=momentum > 0
    )


def optimizer_values(
    optimizer: torch.optim.Optimizer,
) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """(copies of an optimizer's tensors by name, the rest of its state in JSON types)."""
    state = optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    plain: dict[str, object] = {}
    for number, values in state["state"].items():
        for key, value in values.items():
            name = f"{number}.{key}"
            if isinstance(value, torch.Tensor):
                tensors[name] = copy_to_cpu(value)
            else:
                plain[name] = value
    return tensors, {"groups": state["param_groups"], "plain": plain}


def restore_optimizer_(optimizer: torch.optim.Optimizer, snapshot: Snapshot) -> None:
    """Restore a snapshot's optimizer state from copies, so that the snapshot can be used again."""
    state: dict[int, dict[str, object]] = {}
    tensors: Mapping[str, torch.Tensor] = snapshot.optimizer
    # load_state_dict does not copy tensors that have the right dtype and device already, and the
    # next step would write into the snapshot.
    values = {name: tensor.clone() for name, tensor in tensors.items()}
    for name, value in (*values.items(), *snapshot.settings["plain"].items()):
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": snapshot.settings["groups"]})


def copy_to_cpu(tensor: torch.Tensor) -> torch.Tensor:
    """A detached copy in CPU memory."""
    return tensor.detach().to("cpu", copy=True)
