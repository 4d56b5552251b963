"""Where a model's outputs hold classes: losses and metrics over them, place by place."""

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
    tells_two_apart,
)
from secateurs.training.tally import IGNORED_PIXEL, IGNORED_TOKEN, Tally
from secateurs.training.task import LearningTask

OutputTensors = BackendTensor | Sequence[BackendTensor]
"""What a model gives: a tensor, or all of its tensors in a list."""


class ClassAxis:
    """Where a model's outputs hold classes, and whether they are probabilities.

    Args:
        axis: of the classes: the last one, or 1 of images with channels first.
        probabilities: whether scores come out of a softmax or a sigmoid.
        two: whether one number scores the second of two classes.
    """

    def __init__(self, axis: int, *, probabilities: bool, two: bool) -> None:
        self._axis, self._probabilities, self._two = axis, probabilities, two

    @classmethod
    def of(cls, model: keras.Model) -> ClassAxis:
        """As a model's last operation says."""
        is_map = len(graph_of(model).outputs[0].shape) == 4
        first = is_map and keras.config.image_data_format() == "channels_first"
        two = tells_two_apart(model)
        return cls(1 if first else -1, probabilities=gives_probabilities(model), two=two)

    def cross_entropy(self, outputs: OutputTensors, targets: BackendTensor) -> BackendTensor:
        """Cross-entropy of each example; over places where there are some, ignored ones left out.

        Ignored are -100, of tokens, and 255, of pixels.
        """
        return self._at_places(self._scores(outputs), targets)

    def next_token(self, outputs: OutputTensors, targets: BackendTensor) -> BackendTensor:
        """Cross-entropy of each sequence's next tokens."""
        return self._at_places(self._scores(outputs)[:, :-1], targets[:, 1:])

    def read(
        self, scores: NDArray[Any], targets: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """(scores, classes), for a ``Tally``: classes last, two where one number says which."""
        if self._axis == 1:
            scores = np.moveaxis(scores, 1, -1)
        if self._two and scores.shape[-1] == 1:
            other = 1 - scores if self._probabilities else np.zeros_like(scores)
            scores = np.concatenate([other, scores], axis=-1)
        found = as_classes(targets, scores.shape[-1], scores.shape[:-1])
        return scores, np.asarray(found).astype(np.int64)

    def _scores(self, outputs: OutputTensors) -> BackendTensor:
        """float32, the classes last."""
        scores: BackendTensor = keras.ops.cast(scores_of(outputs), "float32")
        if self._axis == 1:
            scores = keras.ops.moveaxis(scores, 1, -1)
        if self._two and scores.shape[-1] == 1:
            return both_classes(scores, self._probabilities)
        return scores

    def _at_places(self, scores: BackendTensor, targets: BackendTensor) -> BackendTensor:
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
        # Of pixels 255; a vocabulary may well have a token of that number.
        ignored = IGNORED_PIXEL if rank > 3 else IGNORED_TOKEN
        counted = keras.ops.cast(keras.ops.not_equal(classes, ignored), "float32")
        wanted = keras.ops.one_hot(keras.ops.where(classes == ignored, 0, classes), number)
        losses = -keras.ops.sum(logs * wanted, axis=-1) * counted
        places = tuple(range(1, rank - 1))
        if not places or rank > 3:  # of pixels as PyTorch's mean
            return mean_of_each(losses)
        total = keras.ops.maximum(keras.ops.sum(counted, axis=places), 1.0)
        found: BackendTensor = keras.ops.sum(losses, axis=places) / total
        return found


def scores_of(outputs: OutputTensors) -> BackendTensor:
    """A model's output, or the first of several."""
    if isinstance(outputs, list | tuple):
        first: BackendTensor = outputs[0]
        return first
    return cast(BackendTensor, outputs)


def mean_of_each(losses: BackendTensor) -> BackendTensor:
    """The mean over all axes but the first."""
    places = tuple(range(1, len(losses.shape)))
    found: BackendTensor = keras.ops.mean(losses, axis=places) if places else losses
    return found


def tally_of(task: LearningTask, model: keras.Model) -> Tally:
    """The tally of a task's metric, for a model's outputs."""
    return Tally(task, ClassAxis.of(model).read, keras.ops.convert_to_numpy)
