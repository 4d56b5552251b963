"""A task as a value: what a model is trained for, and how well it does is told.

Without one, models classify images. A task says otherwise: a loss, a metric, how a step of training
is made, or how the whole of it is, by any loop or trainer of the user's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from secateurs.errors import UnknownNameError, nearest

TASKS = (
    "classification",
    "segmentation",
    "detection",
    "language-modelling",
    "masked-language-modelling",
    "regression",
    "embedding",
)
"""The ready ones, by name."""

Loss = Callable[[Any, Any], Any]
"""(outputs, targets) -> one loss for each example, or their mean."""


@dataclass(frozen=True, slots=True)
class LearningTask:
    """What a model is for.

    Attributes:
        name: for reports.
        loss: (outputs, targets) -> one loss for each example, in the model's framework. None takes
            the loss that the outputs hold themselves (``outputs.loss``, or a dictionary's).
        metric: (outputs, targets) -> a number for each example, or one for the batch; something of
            torchmetrics (``update``, ``compute``, ``reset``); or its name: accuracy, top5, f1, iou,
            map, perplexity, wer, mse, mae. None is the loss itself.
        higher_is_better: of the metric; None reads it off the metric, and takes a loss as better
            when lower, any other function as better when higher.
        train_step: (model, batch) -> the loss of this batch, to go back from; in place of ``loss``.
        predict: (model, batch) -> (outputs, targets); None calls the model on what it takes of the
            batch.
        fit: (model, steps) -> None or the mean loss: trains the model in place for so many
            steps, by a trainer of the user's; in place of ``train_step``.
        evaluate: (model) -> the metric, a number; in place of ``metric``. It decides, so it must
            look at validation data only.

    Example:
        >>> LearningTask(name="mine", metric="mae", higher_is_better=False).name
        'mine'
    """

    name: str = "own"
    loss: Loss | None = None
    metric: Any = None
    higher_is_better: bool | None = None
    train_step: Callable[[Any, Any], Any] | None = None
    predict: Callable[[Any, Any], tuple[Any, Any]] | None = None
    fit: Callable[[Any, int], Any] | None = None
    evaluate: Callable[[Any], float] | None = None

    def with_own(self, **own: Any) -> LearningTask:
        """The same task, with what is not None of these in place of its own."""
        return replace(self, **{name: value for name, value in own.items() if value is not None})


def check_task_name(name: str) -> None:
    """Raise ``UnknownNameError`` unless this is a ready task."""
    if name not in TASKS:
        raise UnknownNameError(f"task: no task {name!r}{nearest(name, TASKS)}")


def task_of(
    task: str | LearningTask | None, ready: Mapping[str, LearningTask], **own: Any
) -> LearningTask | None:
    """The task that was asked for, with the user's own parts in place.

    Args:
        task: a ready one's name, a task, or None.
        ready: by name.
        **own: parts; None leaves the task's.

    Returns:
        The task; None where nothing but the classification of images was asked for.
    """
    if isinstance(task, str):
        check_task_name(task)
        chosen = ready.get(task, LearningTask(task))
    elif task is None:
        if all(value is None for value in own.values()):
            return None
        chosen = LearningTask()
    else:
        chosen = task
    return chosen.with_own(**own)
