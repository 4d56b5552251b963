"""The task of a study and its learner: from a name, or from parts of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from secateurs.backends import Outputs, backend_named, backend_of, framework_of
from secateurs.errors import ModelError
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
        ModelError: a task for a Keras model, which is compiled with its loss and metrics.
        DataError: the data cannot be used.
    """
    backend = backend_of(model)
    data = (sources.train, sources.validation, sources.test)
    if learning is None:
        plain: Learner = backend.Learner(model, *data, training, outputs)
        return plain
    if not hasattr(backend, "TaskLearner"):
        raise ModelError(
            f"{type(model).__name__}: expected no task=, loss=, metric=, train_step= or evaluate= "
            "for a Keras model, which is compiled with them: model.compile(optimizer, loss, "
            "metrics), and training=None"
        )
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

    Raises:
        UnknownNameError: there is no such task.
    """
    ready = getattr(backend_named(framework_of(model)), "TASKS", {})
    return task_of(task, ready, loss=loss, metric=metric, train_step=train_step, evaluate=evaluate)


def learning_named(model: Any, task: Task) -> LearningTask | None:
    """The task that a study's settings name; None to classify images, by accuracy."""
    if task.learning is None and task.metric is None:
        return None
    return learning_of(model, task.learning or "classification", metric=task.metric)
