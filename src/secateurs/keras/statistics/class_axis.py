"""The class axis of a model's outputs: losses and metrics over classes, per position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.keras.internals import graph_of
from secateurs.keras.protocols import BackendTensor
from secateurs.keras.statistics.loss import (
    LEAST,
    as_classes,
    both_classes,
    gives_probabilities,
    mean_of_each,
    tells_two_apart,
)
from secateurs.training.tally import IGNORED_PIXEL, IGNORED_TOKEN, Tally
from secateurs.training.task import LearningTask

OutputTensors = BackendTensor | Sequence[BackendTensor]
"""Outputs of a model: a tensor, or a list of all tensors."""


class ClassAxis:
    """The class axis of a model's outputs, and whether they are probabilities.

    Args:
        axis: axis of the classes: the last one, or 1 for images with channels first.
        probabilities: whether scores are the output of a softmax or a sigmoid.
        two: whether a single number scores the second of two classes.
    """

    def __init__(self, axis: int, *, probabilities: bool, two: bool) -> None:
        self._axis, self._probabilities, self._two = axis, probabilities, two

    @classmethod
    def of(cls, model: keras.Model) -> ClassAxis:
        """Find the class axis from a model's last operation."""
        is_map = len(graph_of(model).outputs[0].shape) == 4
        first = is_map and keras.config.image_data_format() == "channels_first"
        two = tells_two_apart(model)
        return cls(1 if first else -1, probabilities=gives_probabilities(model), two=two)

    def cross_entropy(self, outputs: OutputTensors, targets: BackendTensor) -> BackendTensor:
        """Return the cross-entropy of each example, the mean over its positions; shape (examples,).

        Targets of -100 (tokens) and 255 (pixels) are ignored.
        """
        return self._at_places(self._scores(outputs), targets)

    def next_token(self, outputs: OutputTensors, targets: BackendTensor) -> BackendTensor:
        """Return the cross-entropy of each sequence's next tokens, shape (sequences,)."""
        return self._at_places(self._scores(outputs)[:, :-1], targets[:, 1:])

    def read(
        self, scores: NDArray[Any], targets: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return (scores with the classes last, class indices) for a ``Tally``.

        A single score per position becomes two, one for each class.
        """
        if self._axis == 1:
            scores = np.moveaxis(scores, 1, -1)
        if self._two and scores.shape[-1] == 1:
            other = 1 - scores if self._probabilities else np.zeros_like(scores)
            scores = np.concatenate([other, scores], axis=-1)
        found = as_classes(targets, scores.shape[-1], scores.shape[:-1])
        return scores, np.asarray(found).astype(np.int64)

    def _scores(self, outputs: OutputTensors) -> BackendTensor:
        """Return the scores in float32, with the classes last."""
        scores: BackendTensor = keras.ops.cast(scores_of(outputs), "float32")
        if self._axis == 1:
            scores = keras.ops.moveaxis(scores, 1, -1)
        if self._two and scores.shape[-1] == 1:
            return both_classes(scores, self._probabilities)
        return scores

    def _at_places(self, scores: BackendTensor, targets: BackendTensor) -> BackendTensor:
        """Cross-entropy per position, averaged over each example's positions that count."""
        if self._probabilities:
            logs = keras.ops.log(keras.ops.maximum(scores, LEAST))
        else:
            logs = keras.ops.log_softmax(scores, axis=-1)
        number, rank = scores.shape[-1], len(scores.shape)
        if len(targets.shape) == rank and targets.shape[-1] == number and number > 1:
            losses = -keras.ops.sum(logs * keras.ops.cast(targets, "float32"), axis=-1)
            return mean_of_each(losses)
        if len(targets.shape) == rank:  # a column
            targets = targets[..., 0]
        classes = keras.ops.cast(targets, "int32")
        # 255 is ignored in pixels only: it may be a valid token of a vocabulary.
        ignored = IGNORED_PIXEL if rank > 3 else IGNORED_TOKEN
        counted = keras.ops.cast(keras.ops.not_equal(classes, ignored), "float32")
        wanted = keras.ops.one_hot(keras.ops.where(classes == ignored, 0, classes), number)
        losses = -keras.ops.sum(logs * wanted, axis=-1) * counted
        places = tuple(range(1, rank - 1))
        if not places or rank > 3:  # pixels: as on PyTorch, the mean counts ignored ones
            return mean_of_each(losses)
        total = keras.ops.maximum(keras.ops.sum(counted, axis=places), 1.0)
        found: BackendTensor = keras.ops.sum(losses, axis=places) / total
        return found


def scores_of(outputs: OutputTensors) -> BackendTensor:
    """Return a model's output, or the first of several."""
    if isinstance(outputs, list | tuple):
        first: BackendTensor = outputs[0]
        return first
    return cast(BackendTensor, outputs)


def tally_of(task: LearningTask, model: keras.Model) -> Tally:
    """Return the tally of a task's metric for a model's outputs."""
    return Tally(task, ClassAxis.of(model).read, keras.ops.convert_to_numpy)
