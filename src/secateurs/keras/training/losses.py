"""Class scores of a model, and the losses for training and evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.calibration.outputs import Output, OutputKind
from secateurs.errors import ModelError
from secateurs.keras.internals import graph_of
from secateurs.keras.protocols import BackendTensor
from secateurs.keras.statistics.loss import LEAST, gives_probabilities, tells_two_apart
from secateurs.keras.training.distillation import distances
from secateurs.settings.training import Training

TrainingLoss = Callable[[BackendTensor, BackendTensor], BackendTensor]
"""Function (targets, scores) -> losses of shape (images,), as for ``compile``."""


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Interpretation of a model's outputs as class scores.

    Attributes:
        classes: number of classes.
        two: whether there are two classes, and a single output scores the second.
        probabilities: whether scores are probabilities, from a softmax or a sigmoid.
    """

    classes: int
    two: bool
    probabilities: bool

    @classmethod
    def of(cls, model: keras.Model) -> ClassScores:
        """Determine it from a model's last operation, or the loss it was compiled with.

        Raises:
            ModelError: the model does not give class scores.
        """
        two = tells_two_apart(model)
        return cls(2 if two else _count_classes(model), two, gives_probabilities(model))

    def judge(self, scores: NDArray[np.float64], labels: NDArray[np.int64]) -> tuple[int, float]:
        """Return (number of correctly classified images, sum of cross-entropies) of a batch."""
        if self.two:
            other = 1 - scores if self.probabilities else np.zeros_like(scores)
            scores = np.concatenate([other, scores], axis=1)
        correct = int((scores.argmax(axis=1) == labels).sum())
        return correct, -float(self._logs(scores)[np.arange(len(labels)), labels].sum())

    def _logs(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.probabilities:
            logs: NDArray[np.float64] = np.log(np.maximum(scores, LEAST))
            return logs
        shifted = scores - scores.max(axis=1, keepdims=True)
        normal: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return normal


def cross_entropy(training: Training, outputs: ClassScores) -> TrainingLoss:
    """Return the cross-entropy with labels, with the label smoothing of the settings."""
    smoothing, logits = training.label_smoothing, not outputs.probabilities
    if outputs.two:
        binary: TrainingLoss = keras.losses.BinaryCrossentropy(
            from_logits=logits, label_smoothing=smoothing
        )
        return binary

    def categorical(labels: BackendTensor, scores: BackendTensor) -> BackendTensor:
        labels = keras.ops.reshape(labels, (-1,))
        wanted = keras.ops.one_hot(labels, scores.shape[-1], dtype=scores.dtype)
        losses: BackendTensor = keras.losses.categorical_crossentropy(
            wanted, scores, from_logits=logits, label_smoothing=smoothing
        )
        return losses

    return categorical


def distillation_loss(training: Training, outputs: ClassScores) -> TrainingLoss:
    """Return the cross-entropy mixed with the distance from a dense model's outputs.

    Its targets are built by ``beside_outputs``.
    """
    loss, share = cross_entropy(training, outputs), training.distillation or 0.0
    # A single output for two classes is a Bernoulli distribution.
    kind: OutputKind = "bernoulli" if outputs.two else "categorical"
    classes = (Output(kind, probabilities=outputs.probabilities),)

    def mix(targets: BackendTensor, scores: BackendTensor) -> BackendTensor:
        labels, wanted = keras.ops.cast(targets[:, 0], "int32"), targets[:, 1:]
        apart = distances(classes, [wanted], [scores], training.temperature)
        total: BackendTensor = (1 - share) * loss(labels, scores) + share * apart
        return total

    return mix


def beside_outputs(labels: NDArray[np.int64], outputs: NDArray[np.floating]) -> NDArray[np.float32]:
    """Concatenate labels, as the first column, and the dense model's outputs."""
    column = labels[:, None].astype(np.float32)
    return np.concatenate([column, np.asarray(outputs, np.float32)], axis=1)


def _count_classes(model: keras.Model) -> int:
    """Return the number of classes; refuse a model that gives no class scores."""
    graph = graph_of(model)
    shapes = [tuple(tensor.shape) for tensor in graph.outputs]
    if len(shapes) == 1 and len(shapes[0]) == 2 and shapes[0][1] == 1:
        raise ModelError(
            f"{model.name}: expected scores of classes; received a model that gives one number, "
            "neither out of a sigmoid nor compiled with 'binary_crossentropy'. Let it end in "
            "Dense(1, activation='sigmoid'), or train it with fit, between cuts by secateurs.prune."
        )
    if len(graph.inputs) != 1 or len(shapes) != 1 or len(shapes[0]) != 2:
        raise ModelError(
            f"{model.name}: expected a model of one input that gives scores of shape (images, "
            f"classes); received {len(graph.inputs)} inputs and outputs of shape "
            f"{', '.join(map(str, shapes))}. Train it with fit, between cuts by secateurs.prune."
        )
    return int(shapes[0][1])
