"""The task of a study and its learner, from a name or from the user's own parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from secateurs.backends import Outputs, backend_of
from secateurs.settings.study import Task
from secateurs.settings.training import Training
from secateurs.study.sources import Sources
from secateurs.training.learner import Learner
from secateurs.training.task import LearningTask, task_of


def learner_of(
    model: Any,
    sources: Sources,
    training: Training,
    learning: LearningTask | None = None,
    outputs: Outputs | None = None,
) -> Learner:
    """Make the learner of a model: for image classification, or for a task.

    Args:
        model: the model; it is not changed.
        sources: the data.
        training: settings of training.
        learning: the task; None is image classification.
        outputs: outputs of the model that are used; None for all.

    Raises:
        ModelError: the model cannot be trained for this task.
        DataError: the data cannot be used.
    """
    backend = backend_of(model)
    data = (sources.train, sources.validation, sources.test)
    if learning is None:
        plain: Learner = backend.Learner(model, *data, training, outputs)
        return plain
    learner: Learner = backend.TaskLearner(model, *data, training, learning, outputs)
    return learner


def learning_of(
    model: Any,
    task: str | LearningTask | None,
    *,
    loss: Callable[[Any, Any], Any] | None = None,
    metric: Any = None,
    train_step: Callable[[Any, Any], Any] | None = None,
    evaluate: Callable[[Any], float] | None = None,
) -> LearningTask | None:
    """The requested task, for the model's framework; None if none was requested.

    What is left open for a Keras model is taken from its compilation.

    Raises:
        UnknownNameError: there is no such task.
    """
    backend = backend_of(model)
    parts = {"loss": loss, "metric": metric, "train_step": train_step, "evaluate": evaluate}
    asked = any(part is not None for part in parts.values())
    if task is None and asked and loss is None and train_step is None:
        task = backend.default_task(model)
    return task_of(task, backend.tasks_of(model), **parts)


def learning_named(model: Any, task: Task) -> LearningTask | None:
    """The task that a study's settings name; None for image classification by accuracy."""
    if task.learning is None and task.metric is None:
        return None
    return learning_of(model, task.learning or "classification", metric=task.metric)
