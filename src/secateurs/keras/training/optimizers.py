"""Optimizers of Keras models: made as the settings say, kept, and brought back."""

from __future__ import annotations

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.errors import CheckpointError
from secateurs.keras.surgery.rebuilding import keep_random_state
from secateurs.settings.training import Training
from secateurs.training.learner import Snapshot


def make_optimizer(training: Training) -> keras.optimizers.Optimizer:
    """Keras's own; its weight decay is apart from the gradient, in SGD too."""
    rate, decay = training.learning_rate, training.weight_decay or None
    if training.optimizer == "adamw":
        return keras.optimizers.AdamW(rate, weight_decay=training.weight_decay)
    momentum = training.momentum
    return keras.optimizers.SGD(rate, momentum, nesterov=momentum > 0, weight_decay=decay)


def optimizer_values(
    optimizer: keras.optimizers.Optimizer,
) -> tuple[dict[str, NDArray[np.generic]], dict[str, str]]:
    """(copies of an optimizer's tensors by number, the rest of its state as JSON can hold it)."""
    tensors = {
        str(number): np.array(keras.ops.convert_to_numpy(variable.value))
        for number, variable in enumerate(optimizer.variables)
    }
    return tensors, {"optimizer": type(optimizer).__name__}


def restore_optimizer_(model: keras.Model, snapshot: Snapshot) -> None:
    """Bring the state of a snapshot back into the optimizer that a model is compiled with.

    Raises:
        CheckpointError: the state is another optimizer's, or another model's.
    """
    optimizer = model.optimizer
    if not optimizer.built and len(snapshot.optimizer) > len(optimizer.variables):
        with keep_random_state():
            optimizer.build(model.trainable_variables)
    for number, variable in enumerate(optimizer.variables):
        value = snapshot.optimizer.get(str(number))
        if value is None:  # it was not kept: the optimizer begins anew
            continue
        if tuple(value.shape) != tuple(variable.shape):
            raise CheckpointError(
                f"expected the state of this {type(optimizer).__name__}, {variable.name} of shape "
                f"{tuple(variable.shape)}; received shape {tuple(value.shape)}"
            )
        variable.assign(np.array(value))
