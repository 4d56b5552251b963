"""The loss and the metric that criteria, sensitivity and ablation go by: a task's, or one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from secateurs.backends import Loss, backend_named
from secateurs.errors import DataError, ModelError
from secateurs.training.task import LearningTask, task_of


def objective_of(
    framework: str,
    task: str | LearningTask | None,
    loss: Loss | None,
    metric: Any = None,
) -> LearningTask | None:
    """The task by which a network is looked at; None for cross-entropy and accuracy.

    Args:
        framework: of the network.
        task: a ready one's name, or one's own.
        loss: in place of the task's.
        metric: in place of the task's.

    Raises:
        UnknownNameError: there is no such task.
        ModelError: a task for a Keras model.
        DataError: the task has no loss of (outputs, targets).
    """
    if task is None and metric is None:
        return None
    ready = getattr(backend_named(framework), "TASKS", None)
    if ready is None:
        raise ModelError(
            "expected no task= or metric= for a Keras model; received one. Pass loss=, a function "
            "(outputs, labels) -> one loss for each example."
        )
    found = task_of("classification" if task is None else task, ready, loss=loss, metric=metric)
    if found is None or found.loss is None:
        name = "own" if found is None else found.name
        raise DataError(
            f"task {name!r}: expected one with a loss of (outputs, targets); received one that "
            "trains by its model's own. Pass loss=, a function (outputs, targets) -> one loss for "
            "each example; or take a criterion that needs no loss, such as l1 or apoz."
        )
    return found


def loss_of(
    framework: str, task: str | LearningTask | None, loss: Loss | None
) -> Callable[[Any, Any], Any] | None:
    """The loss alone; see ``objective_of``."""
    found = objective_of(framework, task, loss)
    return loss if found is None else found.loss
