"""What ``fit`` learns by where that is no compiled loss: a task's, a step of the user's own.

Both are put in the place of what Keras would do by itself, so that one ``fit`` trains all, on
TensorFlow, JAX and PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from secateurs.errors import SecateursError
from secateurs.keras.protocols import BackendTensor

OBJECTIVE = "compute_loss"
"""The method of ``keras.Model`` that ``fit`` asks for a batch's loss."""

_OWN = ("train_step", OBJECTIVE)
"""Methods by which a class of the user's says how its models learn."""


def learns_by_itself(model: keras.Model) -> bool:
    """Whether the model's own class says how it learns, as many detectors' do."""
    kind = type(model)
    return any(getattr(kind, name) is not getattr(keras.Model, name) for name in _OWN)


class TaskObjective:
    """In the place of ``keras.Model.compute_loss``: the mean of a task's losses, and penalties.

    Args:
        model: that learns.
        loss: (outputs, targets) -> the mean loss of a batch, or one for each example.
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
        """The loss of a batch, as ``fit`` asks for it."""
        del x, sample_weight, training
        total: BackendTensor = keras.ops.mean(self._loss(y_pred, y))
        for penalty in self._model.losses:
            total = total + keras.ops.sum(keras.ops.cast(penalty, total.dtype))
        return total


class Stepper(keras.Model):  # type: ignore[misc]
    """A model around another, that gives the loss of a user's step: ``fit`` trains the inner one.

    It has no weights but those of the inner model, and shares its optimizer. What the step returns
    is all that is learned by: penalties are the user's to add.

    Args:
        model: compiled.
        step: (model, batch) -> the loss of the batch, made of ``keras.ops``.
        task: its name, for messages.
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
        """The loss of a batch."""
        loss: BackendTensor = self._runner(batch, training=training)
        return loss

    def _run(self, batch: object) -> BackendTensor:
        try:
            return one_number(self._step(self.inner, batch), self._task_name)
        except Exception as error:  # Keras raises another in its place
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
        """What ``call`` gave."""
        del x, y, sample_weight, training
        loss: BackendTensor = y_pred
        return loss


class _StepRunner(keras.layers.Layer):  # type: ignore[misc]
    """Runs a step inside a layer's call: from that the layers inside learn whether they train.

    On JAX ``fit`` asks a model's ``call`` directly, where nothing says so to what is called inside.

    Args:
        run: a batch -> the loss.
    """

    def __init__(self, run: Callable[[object], BackendTensor]) -> None:
        super().__init__(name="step", autocast=False)
        self._run = run
        self.built = True

    def call(self, batch: object, training: bool | None = None) -> BackendTensor:
        """The loss of a batch; ``training`` reaches the inner model by Keras's own ways."""
        del training
        return self._run(batch)


def one_number(loss: Any, task: str) -> BackendTensor:
    """The mean of whatever a step gives.

    Raises:
        SecateursError: it is no loss.
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
