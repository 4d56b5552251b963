"""Optimizers of Keras models: created from settings, saved and restored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.errors import CheckpointError
from secateurs.keras.internals import Variable
from secateurs.keras.surgery.rebuilding import keep_random_state
from secateurs.settings.training import Training
from secateurs.training.learner import Snapshot


def make_optimizer(training: Training) -> keras.optimizers.Optimizer:
    """Create Keras's optimizer for these settings; weight decay is decoupled, in SGD too."""
    rate, decay = training.learning_rate, training.weight_decay or None
    average = {"use_ema": True, "ema_momentum": training.ema} if training.ema else {}
    if training.optimizer == "adamw":
        return keras.optimizers.AdamW(rate, weight_decay=training.weight_decay, **average)
    momentum = training.momentum
    return keras.optimizers.SGD(
        rate, momentum, nesterov=momentum > 0, weight_decay=decay, **average
    )


@contextmanager
def average_put(model: keras.Model) -> Iterator[None]:
    """Temporarily replace the model's weights by their moving average in the optimizer."""
    if not _is_averaged(model):
        yield
        return
    variables = model.trainable_variables
    before = values_of(variables)
    # Copies, because on JAX an assigned array would be shared, and JAX donates its buffers.
    assign_(variables, values_of(averaging_part(model.optimizer)._model_variables_moving_average))
    try:
        yield
    finally:
        assign_(variables, before)


def begin_average_(model: keras.Model) -> None:
    """Restart the moving average of a model's weights from their current values.

    Keras starts it at an optimizer's first step; a study restarts it after each cut.
    """
    if _is_averaged(model):
        averages = averaging_part(model.optimizer)._model_variables_moving_average
        assign_(averages, values_of(model.trainable_variables))


def values_of(variables: Sequence[Variable]) -> list[NDArray[np.generic]]:
    """Copy the values of variables."""
    return [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in variables]


def assign_(variables: Sequence[Variable], values: Sequence[NDArray[np.generic]]) -> None:
    """Assign values to variables."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _is_averaged(model: keras.Model) -> bool:
    """Return whether there is an average of the model's weights, as there is after a first step."""
    optimizer = averaging_part(model.optimizer)
    return bool(optimizer.use_ema and optimizer.built)


def averaging_part(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Return the optimizer that averages: the inner one, where one scales the loss for another."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def optimizer_values(
    optimizer: keras.optimizers.Optimizer,
) -> tuple[dict[str, NDArray[np.generic]], dict[str, str]]:
    """(copies of an optimizer's tensors by number, the rest of its state in JSON types)."""
    tensors = {str(number): one for number, one in enumerate(values_of(optimizer.variables))}
    return tensors, {"optimizer": type(optimizer).__name__}


def restore_optimizer_(model: keras.Model, snapshot: Snapshot) -> None:
    """Restore the state in a snapshot to the optimizer that a model is compiled with.

    Raises:
        CheckpointError: the state belongs to another optimizer or another model.
    """
    optimizer = model.optimizer
    if not optimizer.built and len(snapshot.optimizer) > len(optimizer.variables):
        with keep_random_state():
            optimizer.build(model.trainable_variables)
    for number, variable in enumerate(optimizer.variables):
        value = snapshot.optimizer.get(str(number))
        if value is None:  # not saved: left at its initial value
            continue
        if tuple(value.shape) != tuple(variable.shape):
            raise CheckpointError(
                f"expected the state of this {type(optimizer).__name__}, {variable.name} of shape "
                f"{tuple(variable.shape)}; received shape {tuple(value.shape)}"
            )
        variable.assign(np.array(value))
