"""Metrics over a whole split, computed from NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.errors import DataError
from secateurs.training.task import LearningTask, check_metric_name, numbers_from

AnyArray = NDArray[Any]

IGNORED_TOKEN, IGNORED_PIXEL = -100, 255
"""Targets that are ignored: of tokens, and of pixels."""

_OF_CLASSES = ("accuracy", "top5", "f1", "iou")
_OF_VALUES = ("mse", "mae")


class Tally:
    """Accumulates a task's metric over a whole split.

    Args:
        task: task with the metric: a name, a function of (outputs, targets), a Keras metric
            (``update_state``, ``result``, ``reset_state``), or None for the loss.
        as_classes: function (scores, targets) -> (scores with the classes along the last axis,
            targets as class numbers) that interprets the model's outputs.
        as_array: function that converts a tensor of the framework to an array.

    Raises:
        UnknownNameError: no metric has this name.
        DataError: the metric counts boxes or words.

    Example:
        >>> tally = Tally(LearningTask(metric="mae"))
        >>> tally.add(np.array([[1.0], [2.0]]), np.array([[1.5], [4.0]]), None)
        >>> tally.value()
        1.25
    """

    def __init__(
        self,
        task: LearningTask,
        as_classes: Callable[[AnyArray, AnyArray], tuple[AnyArray, AnyArray]] | None = None,
        as_array: Callable[[Any], AnyArray] = np.asarray,
    ) -> None:
        self._metric = task.metric
        self._as_classes = as_classes or _last_axis
        self._as_array = as_array
        self._total = self._count = 0.0
        self._table: AnyArray | None = None
        self._vectors: list[tuple[AnyArray, AnyArray]] = []
        if isinstance(self._metric, str):
            check_metric_name(self._metric)
        if self._metric in ("map", "wer"):
            raise DataError(
                f"metric {self._metric!r}: expected one of a Keras model's outputs as they are; "
                "received one that counts boxes or words. Pass metric=, a function (outputs, "
                "targets) -> a number, or evaluate=, a function (model) -> a number."
            )
        if hasattr(self._metric, "reset_state"):
            self._metric.reset_state()

    def add(self, outputs: Any, targets: Any, losses: AnyArray | None) -> None:
        """Add one batch.

        Args:
            outputs: outputs of the model: an array, or a list of several.
            targets: targets as for the loss.
            losses: loss of each example, shape (B,); None if there is no loss.
        """
        metric = self._metric
        if metric is None or metric == "perplexity":
            values = np.zeros(0) if losses is None else losses
            self._add(values)
        elif hasattr(metric, "update_state"):
            metric.update_state(targets, outputs)
        elif callable(metric):
            found = metric(outputs, targets)
            values = numbers_from(self._as_array(found) if hasattr(found, "shape") else found)
            self._add(values if values.ndim else np.full(_length(targets, outputs), values))
        else:
            self._add_named(metric, _first(outputs), targets)

    def value(self) -> float:
        """The metric over all batches."""
        if hasattr(self._metric, "result"):
            return float(self._as_array(self._metric.result()))
        if self._metric == "recall1":
            return self._recall()
        if self._table is not None and self._metric in ("f1", "iou"):
            return _macro(self._table, jaccard=self._metric == "iou")
        mean = self._total / max(1.0, self._count)
        return float(np.exp(mean)) if self._metric == "perplexity" else mean

    def _add(self, values: AnyArray) -> None:
        self._total += float(np.sum(values, dtype=np.float64))
        self._count += values.size

    def _add_named(self, metric: str, outputs: AnyArray, targets: Any) -> None:
        if targets is None:
            raise DataError(
                f"metric {metric!r}: expected batches (inputs, targets), or dictionaries with "
                "labels; received batches without targets"
            )
        wanted = np.asarray(targets)
        if metric in _OF_VALUES:
            if np.size(outputs) != wanted.size:
                raise DataError(
                    f"metric {metric!r}: expected a target for each value that the model gives, "
                    f"shape {np.shape(outputs)}; received targets of shape {wanted.shape}"
                )
            apart = np.asarray(outputs, np.float64).reshape(wanted.shape) - wanted
            self._add(np.abs(apart) if metric == "mae" else np.square(apart))
        elif metric == "recall1":
            self._vectors.append((np.asarray(outputs, np.float32), wanted))
        elif metric in _OF_CLASSES:
            self._add_classes(metric, *self._as_classes(np.asarray(outputs), wanted))

    def _add_classes(self, metric: str, scores: AnyArray, classes: AnyArray) -> None:
        if scores.shape[:-1] != classes.shape:
            raise DataError(
                f"metric {metric!r}: expected classes of shape {scores.shape[:-1]}, as the model's "
                f"scores have them; received targets of shape {classes.shape}"
            )
        ignored = IGNORED_PIXEL if classes.ndim > 2 else IGNORED_TOKEN
        counted = classes != ignored
        scores, classes = scores[counted], classes[counted]
        if metric in ("accuracy", "top5"):
            top = min(5 if metric == "top5" else 1, scores.shape[-1])
            best = np.argsort(-scores, axis=-1, kind="stable")[..., :top]
            self._add((best == classes[..., None]).any(axis=-1))
            return
        number = scores.shape[-1]
        found = np.bincount(classes * number + scores.argmax(-1), minlength=number**2)
        table = found.reshape(number, number)
        self._table = table if self._table is None else self._table + table

    def _recall(self) -> float:
        vectors = np.concatenate([one for one, _ in self._vectors])
        targets = np.concatenate([one for _, one in self._vectors])
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        right = 0.0
        for start in range(0, len(vectors), 1024):
            near = vectors[start : start + 1024] @ vectors.T
            rows = np.arange(len(near))
            near[rows, start + rows] = -np.inf
            right += float((targets[near.argmax(1)] == targets[start + rows]).sum())
        return right / len(vectors)


def _macro(table: AnyArray, *, jaccard: bool) -> float:
    """Mean of F1 or of intersection over union, over all classes that occur."""
    right = np.diag(table).astype(np.float64)
    either = table.sum(0) + table.sum(1) - right
    shares = right / np.maximum(either, 1)
    if not jaccard:
        shares = 2 * right / np.maximum(either + right, 1)
    return float(shares[either > 0].mean())


def _last_axis(scores: AnyArray, targets: AnyArray) -> tuple[AnyArray, AnyArray]:
    return scores, targets


def _first(outputs: Any) -> AnyArray:
    return np.asarray(outputs[0] if isinstance(outputs, list | tuple) else outputs)


def _length(targets: Any, outputs: Any) -> int:
    return len(_first(outputs) if targets is None else targets)
