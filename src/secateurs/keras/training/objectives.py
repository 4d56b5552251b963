"""Losses for ``fit`` other than a compiled loss: the loss of a task, or a user's training step.

Both replace what Keras would compute itself, so that ``fit`` trains every kind of task on
TensorFlow, JAX and PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras

from secateurs.errors import SecateursError
from secateurs.keras.protocols import BackendTensor

OBJECTIVE = "compute_loss"
"""Name of the method of ``keras.Model`` with which ``fit`` computes a batch's loss."""

_OWN = ("train_step", OBJECTIVE)
"""Methods with which a user's class defines its own training."""


def learns_by_itself(model: keras.Model) -> bool:
    """Return whether the model's class defines its own training, as many detectors do."""
    kind = type(model)
    return any(getattr(kind, name) is not getattr(keras.Model, name) for name in _OWN)


@contextmanager
def refuse_no_loss(model: keras.Model) -> Iterator[None]:
    """Let a model that is trained without a loss raise on JAX as on the other backends.

    There, Keras takes 0 for the loss of a model that has none, and trains nothing.

    Raises:
        ValueError: Keras computes the loss, and neither the model's compilation nor its layers
            have one.
    """
    held = vars(model)
    if keras.backend.backend() != "jax" or getattr(model, "loss", None) or OBJECTIVE in held:
        yield
        return
    compute = model.compute_loss
    if getattr(type(model), OBJECTIVE) is not getattr(keras.Model, OBJECTIVE):
        yield
        return

    def compute_loss(*arguments: object, **keywords: object) -> BackendTensor:
        if not model.losses:
            raise ValueError("No loss to compute. Provide a `loss` argument in `compile()`.")
        loss: BackendTensor = compute(*arguments, **keywords)
        return loss

    held[OBJECTIVE] = compute_loss
    try:
        yield
    finally:
        del held[OBJECTIVE]


class TaskObjective:
    """Replacement of ``keras.Model.compute_loss``: the mean of a task's losses, plus penalties.

    Args:
        model: model to train.
        loss: function (outputs, targets) -> mean loss of a batch, or losses of shape (examples,).
    """

    def __init__(self, model: keras.Model, loss: Callable[[Any, Any], BackendTensor]) -> None:
        self._model, self._loss = model, loss

    def __call__(
        self,
        x: object = None,
        y: object = None,
        y_pred: object = None,
        sample_weight: object = None,
        training: bool = True,
    ) -> BackendTensor:
        """Return the loss of a batch."""
        del x, sample_weight, training
        total: BackendTensor = keras.ops.mean(self._loss(y_pred, y))
        for penalty in self._model.losses:
            total = total + keras.ops.sum(keras.ops.cast(penalty, total.dtype))
        return total


class Stepper(keras.Model):  # type: ignore[misc]
    """Wrapper model whose output is the loss of a user's step: ``fit`` trains the inner model.

    It has only the inner model's weights, and shares its optimizer. The loss is exactly what the
    step returns: regularisation penalties must be added there.

    Args:
        model: compiled model to train.
        step: function (model, batch) -> loss of the batch, written with ``keras.ops``.
        task: name of the task, for error messages.
    """

    def __init__(self, model: keras.Model, step: Callable[[Any, Any], Any], task: str) -> None:
        super().__init__(name=f"{model.name}_in_training")
        self.inner = model
        self._step, self._task_name = step, task
        self._runner = _StepRunner(self._run)
        self.raised: Exception | None = None
        self.built = True
        self.compile(model.optimizer, run_eagerly=model.run_eagerly, jit_compile=model.jit_compile)

    def call(self, batch: object, training: bool | None = None) -> BackendTensor:
        """Return the loss of a batch."""
        loss: BackendTensor = self._runner(batch, training=training)
        return loss

    def _run(self, batch: object) -> BackendTensor:
        try:
            return one_number(self._step(self.inner, batch), self._task_name)
        except Exception as error:  # Keras would raise another in its place
            self.raised = error
            raise

    def compute_loss(
        self,
        x: object = None,
        y: object = None,
        y_pred: Any = None,
        sample_weight: object = None,
        training: bool = True,
    ) -> BackendTensor:
        """Return the output of ``call``, which is the loss."""
        del x, y, sample_weight, training
        loss: BackendTensor = y_pred
        return loss


class _StepRunner(keras.layers.Layer):  # type: ignore[misc]
    """Runs a step inside a layer's call, which passes ``training`` on to the layers inside.

    On JAX, ``fit`` runs a model's ``call`` directly, where nothing passes ``training`` on.

    Args:
        run: function batch -> loss.
    """

    def __init__(self, run: Callable[[object], BackendTensor]) -> None:
        super().__init__(name="step", autocast=False)
        self._run = run
        self.built = True

    def call(self, batch: object, training: bool | None = None) -> BackendTensor:
        """Return the loss of a batch; Keras passes ``training`` on to the inner model."""
        del training
        return self._run(batch)


def one_number(loss: Any, task: str) -> BackendTensor:
    """Return the mean of the loss that a step returns, or of its 'loss' entry.

    Raises:
        SecateursError: it is not a floating-point tensor.
    """
    if isinstance(loss, Mapping):
        loss = loss.get("loss")
    if not hasattr(loss, "shape") or not keras.backend.is_float_dtype(
        keras.backend.standardize_dtype(loss.dtype)
    ):
        raise SecateursError(
            f"{task}: expected a train_step that returns the loss of the batch, a tensor; received "
            f"{type(loss).__name__}"
        )
    mean: BackendTensor = keras.ops.mean(loss)
    return mean
