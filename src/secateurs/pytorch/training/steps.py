"""One training step of a task: a model's outputs for a batch of any kind, and their loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from secateurs.calibration.examples import split_of
from secateurs.errors import ModelError, SecateursError
from secateurs.pytorch.model.copies import list_modules
from secateurs.pytorch.training.batches import call_model, takes_targets
from secateurs.pytorch.training.tasks import check_needs_none
from secateurs.training.objectives import label_batch
from secateurs.training.task import LearningTask

_SETTLED = (_BatchNorm, _InstanceNorm, _DropoutNd)
"""Layers kept in eval mode: their behaviour in training is unrelated to a channel's importance."""


class TaskStep:
    """The loss of a task for a batch: by its own step, its own loss, or the model's.

    Args:
        task: the task.
        used: selects the outputs in use; None keeps all.
    """

    def __init__(self, task: LearningTask, used: Callable[[object], object] | None = None) -> None:
        self.task = task
        self._select_outputs = used or (lambda outputs: outputs)

    def loss(self, model: nn.Module, given: object, plain: nn.Module | None = None) -> torch.Tensor:
        """The loss of a batch, a scalar with gradients.

        Args:
            model: model, possibly wrapped.
            given: batch on the model's device.
            plain: the unwrapped model; None where ``model`` is unwrapped.
        """
        if self.task.train_step is not None:
            return self.one_number(self.task.train_step(model, given))
        outputs, targets = self.forward(model, given, plain)
        return self.one_number(self.of_outputs(outputs, targets, plain or model))

    def judge(self, model: nn.Module, given: object) -> float:
        """The loss of a batch by the task's own step, for evaluation.

        In eval mode; or, for a model that returns losses in train mode only, as detectors do, in
        train mode with normalisations and dropouts in eval mode. Random draws are the same each
        time.
        """
        step, was_training = self.task.train_step, model.training
        if step is None:
            raise TypeError("judge: a task without a step of its own")
        try:
            with torch.no_grad(), alike():
                try:
                    return float(self.one_number(step(model.eval(), given)))
                except Exception:  # noqa: BLE001 - a user's step may raise anything on detections
                    settle_(model.train())
                    return float(self.one_number(step(model, given)))
        finally:
            model.train(was_training)

    def forward(
        self, model: nn.Module, given: object, plain: nn.Module | None = None
    ) -> tuple[object, object]:
        """(outputs, targets) of a batch."""
        if self.task.predict is not None:
            return self.task.predict(model, given)
        inputs, targets = split_of(label_batch(self.task, given))
        if targets is None:
            check_needs_none(self.task, inputs)
        if self.task.loss is None and takes_targets(plain or model, given):
            return self._select_outputs(call_model(model, given)), targets
        return self._select_outputs(call_model(model, inputs)), targets

    def of_outputs(self, outputs: object, targets: object, model: nn.Module) -> object:
        """The task's loss, or the loss among the outputs.

        Raises:
            ModelError: there is neither.
        """
        if self.task.loss is not None:
            return self.task.loss(outputs, targets)
        held_loss = outputs.get("loss") if isinstance(outputs, Mapping) else None
        held_loss = getattr(outputs, "loss", None) if held_loss is None else held_loss
        if held_loss is None:
            raise ModelError(
                f"{type(model).__name__}: expected outputs that hold their loss; received "
                f"{type(outputs).__name__} without. Pass loss=, a function (outputs, targets) -> "
                f"one loss for each example, or task=, such as 'classification'."
            )
        return held_loss

    def one_number(self, loss: object) -> torch.Tensor:
        """The mean of a step's loss, as a scalar tensor.

        Raises:
            SecateursError: it is not a loss.
        """
        if isinstance(loss, Mapping):
            loss = loss.get("loss")
        if not isinstance(loss, torch.Tensor) or not loss.is_floating_point():
            raise SecateursError(
                f"{self.task.name}: expected a loss tensor to backpropagate from; received "
                f"{type(loss).__name__}. Return the loss of the batch."
            )
        return loss.mean()


def settle_(model: nn.Module) -> None:
    """Switch normalisations and dropouts of a model in train mode to eval mode."""
    for _, module in list_modules(model):
        if isinstance(module, _SETTLED):
            module.training = False


@contextmanager
def alike() -> Iterator[None]:
    """Make random draws repeatable, and restore the user's generators afterwards."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        yield
