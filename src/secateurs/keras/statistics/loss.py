"""The loss of each image, and whether it is classified correctly."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.errors import DataError
from secateurs.keras.internals import (
    graph_of,
    has_graph,
    is_model,
    is_subclassed,
    nodes_of,
    operation_classes,
)
from secateurs.keras.protocols import BackendTensor
from secateurs.keras.tracing.composites import open_layer
from secateurs.keras.tracing.symbolic import Calls

BatchLoss = Callable[[BackendTensor | list[BackendTensor], BackendTensor | None], BackendTensor]
"""Function (outputs, labels) -> losses of shape (images,); several outputs come as a list."""

LEAST = 1e-30
"""Lower bound of probabilities, so that their logarithm is finite."""


def mean_of_each(losses: BackendTensor) -> BackendTensor:
    """Return the mean over all axes but the first."""
    places = tuple(range(1, len(losses.shape)))
    found: BackendTensor = keras.ops.mean(losses, axis=places) if places else losses
    return found


class OutputsFirst:
    """A loss of Keras's own, which takes the labels first, as a function of (outputs, labels).

    Args:
        loss: ``keras.losses.KLDivergence()``, or a function of ``keras.losses``.
    """

    def __init__(self, loss: Callable[..., BackendTensor]) -> None:
        self.__name__ = getattr(loss, "__name__", getattr(loss, "name", type(loss).__name__))
        self._of_each = loss.call if isinstance(loss, keras.losses.Loss) else loss

    def __call__(
        self, outputs: BackendTensor | list[BackendTensor], labels: object
    ) -> BackendTensor:
        """Return the loss of each example, shape (examples,).

        Raises:
            DataError: there are no labels, or several outputs.
        """
        if labels is None or isinstance(outputs, list):
            received = "no labels" if labels is None else "several outputs"
            raise DataError(
                f"{self.__name__}: expected one output and its labels; received {received}. Pass "
                "batches (inputs, labels), or loss=, a function (outputs, labels) of your own"
            )
        labels = keras.ops.convert_to_tensor(labels)
        return mean_of_each(self._of_each(labels, outputs))


def outputs_first(loss: Callable[..., BackendTensor]) -> Callable[..., BackendTensor]:
    """Return a loss that takes (outputs, labels); Keras's own take the labels first.

    With a divergence, the two orders give different numbers and no error.
    """
    is_function = str(getattr(loss, "__module__", "")).startswith("keras.src.losses")
    is_own = isinstance(loss, keras.losses.Loss) or (is_function and not isinstance(loss, type))
    return OutputsFirst(loss) if is_own else loss


class PerExampleLoss:
    """Cross-entropy with labels, or a user's loss, image by image.

    The output of a softmax or a sigmoid is taken as probabilities, any other as logits.

    Args:
        loss: function (outputs, labels) -> losses of shape (images,), or one of Keras's own; None
            for cross-entropy.
        caller: name of the caller, for error messages.
        model: model that gives the outputs.
    """

    def __init__(self, loss: BatchLoss | None, caller: str, model: keras.Model) -> None:
        self._loss = None if loss is None else outputs_first(loss)
        self._caller = caller
        self._probabilities = gives_probabilities(model)
        self._two = tells_two_apart(model)

    @property
    def needs_labels(self) -> bool:
        """Whether the loss requires labels."""
        return self._loss is None

    def losses(
        self, outputs: Sequence[BackendTensor], labels: BackendTensor | None
    ) -> BackendTensor:
        """The loss of each image, shape (N,).

        Args:
            outputs: flat list of the model's outputs.
            labels: labels returned by ``check_labels``, or None.

        Raises:
            DataError: the user's loss does not return one loss for each image.
        """
        images = outputs[0].shape[0]
        if self._loss is None:
            return self._cross_entropy(outputs[0], labels)
        losses = self._loss(outputs[0] if len(outputs) == 1 else list(outputs), labels)
        shape = tuple(getattr(losses, "shape", ()))
        if shape != (images,):
            raise DataError(
                f"{self._caller}: expected loss(outputs, labels) to return one loss for each "
                f"image, shape ({images},); received {shape or type(losses)}. Leave out its mean: "
                "reduction='none'."
            )
        return losses

    def classifies(self, shape: Sequence[int], labels: NDArray[np.generic] | None) -> bool:
        """Whether outputs are class scores and labels are classes."""
        return (
            len(shape) == 2
            and labels is not None
            and labels.ndim == 1
            and labels.dtype.kind in "iu"
            and int(labels.min()) >= 0
            and int(labels.max()) < self.classes(shape)
        )

    def classes(self, shape: Sequence[int]) -> int:
        """Return the number of classes for outputs of this shape; a single score means two."""
        return 2 if self._two and shape[-1] == 1 else int(shape[-1])

    def predict_classes(self, scores: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the class with the highest score for each image, shape (images,)."""
        if self.classes(scores.shape) == scores.shape[-1]:
            return np.asarray(scores.argmax(axis=-1), np.int64)
        middle = 0.5 if self._probabilities else 0.0
        return np.asarray(scores[..., 0] > middle, np.int64)

    def right(
        self, outputs: Sequence[BackendTensor], labels: NDArray[np.generic] | None
    ) -> NDArray[np.bool_] | None:
        """Which images are classified correctly, shape (N,); None where labels are not classes.

        Args:
            outputs: flat list of the model's outputs.
            labels: class indices, shape (images,).
        """
        scores = np.asarray(keras.ops.convert_to_numpy(outputs[0]))
        if len(outputs) > 1 or not self.classifies(scores.shape, labels):
            return None
        return np.asarray(self.predict_classes(scores) == labels)

    def check_labels(
        self, shapes: Sequence[Sequence[int]], labels: NDArray[np.generic] | None
    ) -> NDArray[np.generic] | None:
        """Return the labels as class indices that fit outputs of these shapes.

        Raises:
            DataError: there are none, or they are not classes of the model.
        """
        if labels is not None and labels.dtype.kind in "iub":
            labels = labels.astype(np.int32)
        if self._loss is not None:
            return labels
        if len(shapes) != 1 or len(shapes[0]) < 2:
            raise DataError(
                f"{self._caller}: expected a model that gives scores of shape (N, classes); "
                f"received one that gives {', '.join(str(tuple(s)) for s in shapes)}. Pass loss=, "
                "a function (outputs, labels) -> one loss for each image."
            )
        expected = tuple(shapes[0][:-1])
        labels = as_classes(labels, self.classes(shapes[0]), expected)
        if labels is None or labels.dtype.kind != "i" or labels.shape != expected:
            received = "none" if labels is None else f"{labels.dtype} {labels.shape}"
            raise DataError(
                f"{self._caller}: expected labels that are whole numbers of shape {expected}; "
                f"received {received}"
            )
        low, high = int(labels.min()), int(labels.max())
        classes = self.classes(shapes[0])
        if classes == 1:
            raise DataError(
                f"{self._caller}: expected a model that scores classes; received one that gives a "
                "single number, neither out of a sigmoid nor compiled with binary cross-entropy. "
                "Pass loss=, a function (outputs, labels) -> one loss for each image."
            )
        if low < 0 or high >= classes:
            raise DataError(
                f"{self._caller}: expected labels from 0 to {classes - 1}, the model's "
                f"classes; received {low if low < 0 else high}"
            )
        return labels

    def _cross_entropy(self, scores: BackendTensor, labels: BackendTensor | None) -> BackendTensor:
        scores = keras.ops.cast(scores, "float32")
        if self.classes(scores.shape) > scores.shape[-1]:
            scores = both_classes(scores, self._probabilities)
        if self._probabilities:
            logs = keras.ops.log(keras.ops.maximum(scores, LEAST))
        else:
            logs = keras.ops.log_softmax(scores, axis=-1)
        wanted = keras.ops.one_hot(labels, scores.shape[-1])
        losses: BackendTensor = -keras.ops.sum(logs * wanted, axis=-1)
        positions = tuple(range(1, len(losses.shape)))
        return keras.ops.mean(losses, axis=positions) if positions else losses


def gives_probabilities(model: keras.Model) -> bool:
    """Return whether the model's first output is that of a softmax, or one sigmoid score."""
    output = graph_of(model).outputs[0]
    return _ends_in(output, "softmax") or (output.shape[-1] == 1 and _ends_in(output, "sigmoid"))


def tells_two_apart(model: keras.Model) -> bool:
    """Return whether a single output scores the second of two classes.

    A sigmoid or a compiled binary cross-entropy tells.
    """
    output = graph_of(model).outputs[0]
    if output.shape[-1] != 1:
        return False
    loss = getattr(model, "loss", None)
    named = loss if isinstance(loss, str) else getattr(loss, "name", getattr(loss, "__name__", ""))
    return _ends_in(output, "sigmoid") or str(named) in ("binary_crossentropy", "bce")


def _ends_in(tensor: keras.KerasTensor, name: str) -> bool:
    """Return whether a tensor is the output of this activation, in any of its forms."""
    operation = tensor._keras_history.operation
    if is_subclassed(operation) and has_graph(operation):
        (node,) = nodes_of(graph_of(operation))
        seen = open_layer(node, *node.arguments.fill_in({id(x): x for x in node.input_tensors}))
        return isinstance(seen, Calls) and _ends_in(keras.tree.flatten(seen.outputs)[0], name)
    if is_model(operation):
        return _ends_in(graph_of(operation).outputs[0], name)
    if isinstance(operation, (keras.layers.Softmax, *operation_classes("Softmax"))):
        return name == "softmax"
    if isinstance(operation, operation_classes("Sigmoid")):
        return name == "sigmoid"
    return getattr(operation, "activation", None) is getattr(keras.activations, name)


def both_classes(scores: BackendTensor, probabilities: bool) -> BackendTensor:
    """Expand the score of the second of two classes to scores of both, (..., 1) -> (..., 2)."""
    other = 1 - scores if probabilities else keras.ops.zeros_like(scores)
    both: BackendTensor = keras.ops.concatenate([other, scores], axis=-1)
    return both


def as_classes(
    labels: NDArray[np.generic] | None, classes: int, expected: Sequence[int | None]
) -> NDArray[np.generic] | None:
    """Convert one-hot labels, or a column of labels, to class indices.

    Args:
        labels: labels as given.
        classes: number of classes.
        expected: shape of class indices.

    Returns:
        The class indices; labels of any other form unchanged.
    """
    if labels is None or labels.ndim != len(expected) + 1:
        return labels
    if classes == 2 and labels.shape[-1] == 1 and np.isin(labels, (0, 1)).all():
        return np.asarray(labels[..., 0], np.int32)
    one_hot = np.isin(labels, (0, 1)).all() and (labels.sum(-1) == 1).all()
    if labels.shape[-1] == classes and one_hot:
        return np.asarray(labels.argmax(-1), np.int32)
    return labels
