"""Learning tasks: what a model is trained for, and how it is evaluated.

By default, models classify images. A task replaces that: its loss, its metric, the training step,
or the whole training, by any loop or trainer of the user's.
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
"""Names of the built-in tasks."""


@takes_known_names
@dataclass(frozen=True, slots=True)
class LearningTask:
    """What a model is trained for.

    Attributes:
        name: name in reports.
        loss: (outputs, targets) -> one loss for each example, in the model's framework. None uses
            the loss that the outputs contain (``outputs.loss``, or a dictionary's).
        metric: (outputs, targets) -> a number for each example, or one for the batch; a metric of
            torchmetrics (``update``, ``compute``, ``reset``) or, for Keras models, of Keras; or its
            name: accuracy, top5, f1, iou, map, recall1, perplexity, wer, mse, mae. None is the loss
            itself.
        higher_is_better: direction of the metric; None asks the metric, and takes a loss as better
            when lower, any other function as better when higher.
        metric_name: name of the metric in reports; None uses the function's or class's name.
        is_share: whether the metric lies between 0 and 1 and is shown in percent; None asks the
            metric, and shows what a function returns as a plain number.
        train_step: (model, batch) -> loss of this batch, to backpropagate; in place of ``loss``.
        predict: (model, batch) -> (outputs, targets); None calls the model on those entries of the
            batch that it takes.
        fit: (model, steps) -> None or the mean loss: trains the model in place for this number of
            steps, by a trainer of the user's; in place of ``train_step``.
        evaluate: (model) -> the metric, a number; in place of ``metric``. Models are chosen by it,
            so it must use validation data only.

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
        """Replace the parts that are given and not None."""
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
"""Metrics available by name."""


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
    """The metric with this name, or else the one that a built-in task's models are chosen by.

    Raises:
        UnknownNameError: there is no such task or metric.
    """
    if task is not None:
        check_task_name(task)
    name = metric or _CHOSEN_BY[task or "classification"]
    check_metric_name(name)
    return METRICS[name]


def check_metric_name(name: str) -> None:
    """Raise ``UnknownNameError`` unless there is a metric with this name."""
    if name not in METRICS:
        raise UnknownNameError(f"metric: no metric {name!r}{nearest(name, tuple(METRICS))}")


def _metric_of(task: LearningTask) -> Metric:
    """Name, direction and format as the metric itself defines them."""
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
"""Words in the names of Keras metrics for which lower is better."""


def _direction_of(metric: Any) -> bool | None:
    """Whether higher is better, according to torchmetrics or Keras; None if unknown."""
    found: bool | None = getattr(metric, "higher_is_better", None)
    if found is None and hasattr(metric, "update_state"):
        direction = getattr(metric, "_direction", None)
        if direction in ("up", "down"):
            return bool(direction == "up")
        name = str(getattr(metric, "name", "")).lower()
        return not any(word in name for word in _LOWER_IS_BETTER)
    return found


def _name_of(metric: Any) -> str:
    """Name of a function, or of the class of a metric object."""
    name = getattr(metric, "__name__", None) or type(metric).__name__
    if hasattr(metric, "update_state"):  # a Keras metric has a name
        name = str(getattr(metric, "name", name))
    return "metric" if name in ("<lambda>", "evaluate", "metric") else name.replace("_", " ")


def is_judged_by_loss(task: LearningTask) -> bool:
    """Whether a task's metric is its loss, or a function of it alone."""
    by_name = isinstance(task.metric, str) and task.metric == "perplexity"
    return task.evaluate is None and (task.metric is None or by_name)


def number_from(found: Any) -> float:
    """Check the result of ``evaluate`` for a model.

    Raises:
        DataError: it is not a number.

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
    """Check a metric function's result for a batch: a number, or one for each example.

    Raises:
        DataError: it is something else.
    """
    values = np.asarray(found)
    if values.dtype.kind not in "biuf":
        raise DataError(
            "metric: expected a number, or one for each example, of (outputs, targets); received "
            f"{type(found).__name__}"
        )
    return values.astype(np.float64)


def check_task_name(name: str) -> None:
    """Raise ``UnknownNameError`` unless this is a built-in task."""
    if name not in TASKS:
        raise UnknownNameError(f"task: no task {name!r}{nearest(name, TASKS)}")


def task_of(
    task: str | LearningTask | None, ready: Mapping[str, LearningTask], **parts: Any
) -> LearningTask | None:
    """The requested task, with the user's own parts in place.

    Args:
        task: name of a built-in task, a task, or None.
        ready: built-in tasks by name.
        **parts: parts to replace; None leaves the task's own.

    Returns:
        The task; None if nothing but the classification of images was requested.
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
