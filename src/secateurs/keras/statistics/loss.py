"""The loss of each image, and whether it is classified right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.errors import DataError
from secateurs.keras.internals import graph_of, is_model, operation_classes

Loss = Callable[[Any, Any], Any]

LEAST = 1e-30
"""Below what no probability is taken, so that its logarithm is a number."""


class PerExampleLoss:
    """Cross-entropy with labels, or a loss of the user's own, image by image.

    A model that ends in a softmax gives probabilities, any other scores of classes.

    Args:
        loss: (outputs, labels) -> a tensor with one loss for each image; None is cross-entropy.
        who: what needs it, for messages.
        model: whose outputs these are.
    """

    def __init__(self, loss: Loss | None, who: str, model: Any) -> None:
        self._loss = loss
        self._who = who
        self._probabilities = gives_probabilities(model)

    @property
    def needs_labels(self) -> bool:
        """Whether there is no loss without labels."""
        return self._loss is None

    def losses(self, outputs: Sequence[Any], labels: Any) -> Any:
        """One loss for each image.

        Args:
            outputs: of the model, flat.
            labels: as ``checked`` gave them, or None.

        Raises:
            DataError: the outputs and labels do not make one.
        """
        images = outputs[0].shape[0]
        if self._loss is None:
            return self._cross_entropy(outputs[0], labels)
        losses = self._loss(outputs[0] if len(outputs) == 1 else list(outputs), labels)
        shape = tuple(getattr(losses, "shape", ()))
        if shape != (images,):
            raise DataError(
                f"{self._who}: expected loss(outputs, labels) to return one loss for each image, "
                f"shape ({images},); received {shape or type(losses)}. Leave out its mean: "
                "reduction='none'."
            )
        return losses

    def classifies(self, shape: Sequence[int], labels: NDArray[Any] | None) -> bool:
        """Whether outputs of this shape are scores of classes and labels are classes."""
        return (
            len(shape) == 2
            and labels is not None
            and labels.ndim == 1
            and labels.dtype.kind in "iu"
            and int(labels.min()) >= 0
            and int(labels.max()) < shape[1]
        )

    def checked(
        self, shapes: Sequence[Sequence[int]], labels: NDArray[Any] | None
    ) -> NDArray[Any] | None:
        """Labels that go with outputs of these shapes.

        Raises:
            DataError: they are none, or other classes than the model's.
        """
        if labels is not None and labels.dtype.kind in "iub":
            labels = labels.astype(np.int32)
        if self._loss is not None:
            return labels
        if len(shapes) != 1 or len(shapes[0]) < 2:
            raise DataError(
                f"{self._who}: expected a model that gives scores of shape (N, classes); received "
                f"one that gives {', '.join(str(tuple(shape)) for shape in shapes)}. Pass loss=, a "
                "function (outputs, labels) -> one loss for each image."
            )
        expected = tuple(shapes[0][:-1])
        if labels is None or labels.dtype.kind != "i" or labels.shape != expected:
            received = "none" if labels is None else f"{labels.dtype} {labels.shape}"
            raise DataError(
                f"{self._who}: expected labels that are whole numbers of shape {expected}; "
                f"received {received}"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= shapes[0][-1]:
            raise DataError(
                f"{self._who}: expected labels from 0 to {shapes[0][-1] - 1}, the model's "
                f"classes; received {low if low < 0 else high}"
            )
        return labels

    def _cross_entropy(self, scores: Any, labels: Any) -> Any:
        scores = keras.ops.cast(scores, "float32")
        if self._probabilities:
            logs = keras.ops.log(keras.ops.maximum(scores, LEAST))
        else:
            logs = keras.ops.log_softmax(scores, axis=-1)
        wanted = keras.ops.one_hot(labels, scores.shape[-1])
        losses = -keras.ops.sum(logs * wanted, axis=-1)
        positions = tuple(range(1, len(losses.shape)))
        return keras.ops.mean(losses, axis=positions) if positions else losses


def gives_probabilities(model: Any) -> bool:
    """Whether the model's (first) output comes out of a softmax."""
    operation = graph_of(model).outputs[0]._keras_history.operation
    if is_model(operation):
        return gives_probabilities(operation)
    softmax = (keras.layers.Softmax, *operation_classes("Softmax"))
    return isinstance(operation, softmax) or (
        getattr(operation, "activation", None) is keras.activations.softmax
    )
