"""A task as a value: what a model is trained for, and how well it does is told.

Without one, models classify images. A task says otherwise: a loss, a metric, how a step of training
is made, or how the whole of it is, by any loop or trainer of the user's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.arguments import takes_known_names
from secateurs.backends import Loss
from secateurs.errors import DataError, UnknownNameError, nearest
from secateurs.training.metric import Metric

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


@takes_known_names
@dataclass(frozen=True, slots=True)
class LearningTask:
    """What a model is for.

    Attributes:
        name: for reports.
        loss: (outputs, targets) -> one loss for each example, in the model's framework. None takes
            the loss that the outputs hold themselves (``outputs.loss``, or a dictionary's).
        metric: (outputs, targets) -> a number for each example, or one for the batch; something of
            torchmetrics (``update``, ``compute``, ``reset``) or, for Keras models, of Keras; or its
            name: accuracy, top5, f1, iou, map, perplexity, wer, mse, mae. None is the loss itself.
        higher_is_better: of the metric; None reads it off the metric, and takes a loss as better
            when lower, any other function as better when higher.
        metric_name: of the metric, for reports; None takes the function's or class's own.
        is_share: whether the metric lies between 0 and 1 and is written in percent; None reads it
            off the metric, and writes what a function gives as a plain number.
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
    metric_name: str | None = None
    is_share: bool | None = None
    train_step: Callable[[Any, Any], Any] | None = None
    predict: Callable[[Any, Any], tuple[Any, Any]] | None = None
    fit: Callable[[Any, int], Any] | None = None
    evaluate: Callable[[Any], float] | None = None

    @property
    def described_metric(self) -> Metric:
        """Name, direction and format of the metric."""
        found = _metric_of(self)
        higher, share = self.higher_is_better, self.is_share
        return Metric(
            self.metric_name or found.name,
            higher_is_better=found.higher_is_better if higher is None else higher,
            is_share=found.is_share if share is None else share,
        )

    def with_own(self, **parts: Any) -> LearningTask:
        """The same task, with what is not None of these in place of its own."""
        return replace(self, **{name: value for name, value in parts.items() if value is not None})


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "accuracy": Metric(),
        "top5": Metric("top-5 accuracy"),
        "f1": Metric("F1"),
        "iou": Metric("mean IoU"),
        "map": Metric("mAP"),
        "recall1": Metric("recall at 1"),
        "perplexity": Metric("perplexity", higher_is_better=False, is_share=False),
        "wer": Metric("word error rate", higher_is_better=False),
        "mse": Metric("mean squared error", higher_is_better=False, is_share=False),
        "mae": Metric("mean absolute error", higher_is_better=False, is_share=False),
    }
)
"""Those that can be asked for by name."""


_CHOSEN_BY: Mapping[str, str] = MappingProxyType(
    {
        "classification": "accuracy",
        "segmentation": "iou",
        "detection": "map",
        "language-modelling": "perplexity",
        "masked-language-modelling": "perplexity",
        "regression": "mse",
        "embedding": "recall1",
    }
)


def ready_metric(task: str | None, metric: str | None = None) -> Metric:
    """What a ready task's models are chosen by, or the metric that is asked for by name.

    Raises:
        UnknownNameError: there is no such task or metric.
    """
    if task is not None:
        check_task_name(task)
    name = metric or _CHOSEN_BY[task or "classification"]
    check_metric_name(name)
    return METRICS[name]


def check_metric_name(name: str) -> None:
    """Raise ``UnknownNameError`` unless there is a metric of this name."""
    if name not in METRICS:
        raise UnknownNameError(f"metric: no metric {name!r}{nearest(name, tuple(METRICS))}")


def _metric_of(task: LearningTask) -> Metric:
    """What a task's metric says of itself."""
    metric = task.metric
    if isinstance(metric, str):
        return METRICS.get(metric, Metric(metric))
    if metric is None and task.evaluate is None:
        return Metric("loss", higher_is_better=False, is_share=False)
    if task.evaluate is not None:
        metric = task.evaluate
    direction = _direction_of(metric)
    shares = getattr(metric, "plot_lower_bound", None), getattr(metric, "plot_upper_bound", None)
    return Metric(
        _name_of(metric),
        higher_is_better=True if direction is None else bool(direction),
        is_share=shares == (0.0, 1.0),
    )


_LOWER_IS_BETTER = ("error", "loss", "entropy", "divergence", "poisson", "mse", "mae", "mape")
"""What names of Keras's metrics hold that are better when lower."""


def _direction_of(metric: Any) -> bool | None:
    """Whether higher is better, as torchmetrics or Keras say; None where nothing does."""
    found: bool | None = getattr(metric, "higher_is_better", None)
    if found is None and hasattr(metric, "update_state"):
        direction = getattr(metric, "_direction", None)
        if direction in ("up", "down"):
            return bool(direction == "up")
        name = str(getattr(metric, "name", "")).lower()
        return not any(word in name for word in _LOWER_IS_BETTER)
    return found


def _name_of(metric: Any) -> str:
    """A function's name, or that of the class of something with ``update`` and ``compute``."""
    name = getattr(metric, "__name__", None) or type(metric).__name__
    if hasattr(metric, "update_state"):  # Keras's has a name
        name = str(getattr(metric, "name", name))
    return "metric" if name in ("<lambda>", "evaluate", "metric") else name.replace("_", " ")


def is_judged_by_loss(task: LearningTask) -> bool:
    """Whether a task's metric is its loss, or made of it alone."""
    by_name = isinstance(task.metric, str) and task.metric == "perplexity"
    return task.evaluate is None and (task.metric is None or by_name)


def number_from(found: Any) -> float:
    """What ``evaluate`` gave for a model.

    Raises:
        DataError: it is no number.

    Example:
        >>> number_from(np.float32(0.5))
        0.5
    """
    value = found.item() if getattr(found, "shape", None) == () else found
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(
            f"evaluate: expected a number for the model; received {type(found).__name__}"
        )
    return float(value)


def numbers_from(found: Any) -> NDArray[np.float64]:
    """What a metric function gave for a batch: a number, or one for each example.

    Raises:
        DataError: it is none.
    """
    values = np.asarray(found)
    if values.dtype.kind not in "biuf":
        raise DataError(
            "metric: expected a number, or one for each example, of (outputs, targets); received "
            f"{type(found).__name__}"
        )
    return values.astype(np.float64)


def check_task_name(name: str) -> None:
    """Raise ``UnknownNameError`` unless this is a ready task."""
    if name not in TASKS:
        raise UnknownNameError(f"task: no task {name!r}{nearest(name, TASKS)}")


def task_of(
    task: str | LearningTask | None, ready: Mapping[str, LearningTask], **parts: Any
) -> LearningTask | None:
    """The task that was asked for, with the user's own parts in place.

    Args:
        task: a ready one's name, a task, or None.
        ready: by name.
        **parts: parts; None leaves the task's.

    Returns:
        The task; None where nothing but the classification of images was asked for.
    """
    if isinstance(task, str):
        check_task_name(task)
        chosen = ready.get(task, LearningTask(task))
    elif task is None:
        if all(value is None for value in parts.values()):
            return None
        chosen = LearningTask()
    else:
        chosen = task
    return chosen.with_own(**parts)
