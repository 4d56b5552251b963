"""The task of a study and its learner: from a name, or from parts of the user's own."""

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
    """A model in training: to classify images, or for a task.

    Args:
        model: unchanged.
        sources: the data.
        training: how to train.
        learning: the task; None classifies images.
        outputs: those of the model's that are used; None for all.

    Raises:
        ModelError: the model cannot be trained for the task so.
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
    """The task that was asked for, of the model's framework; None where none was.

    What is left open of a Keras model's is as it was compiled.

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
    """The task that a study's settings name; None to classify images, by accuracy."""
    if task.learning is None and task.metric is None:
        return None
    return learning_of(model, task.learning or "classification", metric=task.metric)
