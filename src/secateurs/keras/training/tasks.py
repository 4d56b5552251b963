"""Predefined tasks for Keras models, and the task that a model was compiled for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras

from secateurs.errors import DataError, ModelError
from secateurs.keras.internals import compile_arguments_of, graph_of
from secateurs.keras.protocols import BackendTensor
from secateurs.keras.statistics.class_axis import ClassAxis, OutputTensors, scores_of
from secateurs.keras.statistics.loss import mean_of_each, tells_two_apart
from secateurs.keras.training.objectives import learns_by_itself
from secateurs.training.feed import is_labelled_images
from secateurs.training.task import LearningTask


def tasks_of(model: keras.Model) -> Mapping[str, LearningTask]:
    """The predefined tasks, for this model's class axis and kind of scores.

    Detection is not among them: Keras detectors have their own losses, set by ``compile``.
    """
    scores = ClassAxis.of(model)
    return {
        "classification": LearningTask("classification", scores.cross_entropy, "accuracy"),
        "segmentation": LearningTask("segmentation", scores.cross_entropy, "iou"),
        "language-modelling": LearningTask("language-modelling", scores.next_token, "perplexity"),
        "masked-language-modelling": LearningTask(
            "masked-language-modelling", scores.cross_entropy, "perplexity"
        ),
        "regression": LearningTask("regression", square_error, "mse"),
        "embedding": LearningTask("embedding", contrast, "recall1"),
    }


def square_error(outputs: OutputTensors, targets: BackendTensor) -> BackendTensor:
    """Mean squared error of each example."""
    values = keras.ops.cast(scores_of(outputs), "float32")
    given, expected = tuple(targets.shape), tuple(values.shape)
    if math.prod(given[1:]) != math.prod(expected[1:]):  # the batch size may be unknown
        raise DataError(
            f"expected a target for each value that the model gives, shape {expected}; received "
            f"targets of shape {given}. Classes are for task='classification'."
        )
    wanted = keras.ops.reshape(keras.ops.cast(targets, "float32"), keras.ops.shape(values))
    return mean_of_each(keras.ops.square(values - wanted))


def contrast(outputs: OutputTensors, targets: BackendTensor) -> BackendTensor:
    """InfoNCE of each example: examples with the same target against all others of the batch.

    Source: van den Oord, Li & Vinyals 2018; Khosla et al., Supervised Contrastive Learning, 2020.
    """
    vectors = keras.ops.normalize(keras.ops.cast(scores_of(outputs), "float32"), axis=-1)
    near = keras.ops.matmul(vectors, keras.ops.transpose(vectors)) / 0.1
    targets = keras.ops.reshape(targets, (-1,))
    itself = keras.ops.eye(keras.ops.shape(vectors)[0], dtype="float32")
    same = keras.ops.cast(keras.ops.equal(targets[:, None], targets[None]), "float32")
    like = same * (1 - itself)
    logs = keras.ops.log_softmax(near - 1e9 * itself, axis=-1)
    total = keras.ops.maximum(keras.ops.sum(like, axis=1), 1.0)
    found: BackendTensor = -keras.ops.sum(logs * like, axis=1) / total
    return found


# -- what a model was compiled for


def default_task(model: keras.Model, data: object = None) -> LearningTask | None:
    """Return the task of a compiled model, from its loss and first metric; None for classification.

    Args:
        model: model, compiled or not.
        data: training data, if any; class labels show a classification task.
    """
    settings = compile_arguments_of(model)
    loss = settings.get("loss")
    if loss is None and learns_by_itself(model):
        return LearningTask("own", None, _first_metric(settings.get("metrics")))
    if not getattr(model, "compiled", False) or loss is None:
        return None
    if _gives_classes(model) and (is_labelled_images(data) or _is_classification_loss(loss)):
        return None
    several = len(graph_of(model).outputs) > 1  # a single metric does not describe several outputs
    metric = None if several else _first_metric(settings.get("metrics"))
    compiled = CompiledLoss(model, loss, settings.get("loss_weights"))
    return LearningTask("compiled", compiled, metric)


def _gives_classes(model: keras.Model) -> bool:
    graph = graph_of(model)
    shapes = [tuple(tensor.shape) for tensor in graph.outputs]
    one = len(graph.inputs) == len(shapes) == 1 and len(shapes[0]) == 2
    return one and (shapes[0][1] != 1 or tells_two_apart(model))


def _is_classification_loss(loss: object) -> bool:
    name = loss if isinstance(loss, str) else getattr(loss, "name", getattr(loss, "__name__", ""))
    plain = str(name).lower().replace("_", "")
    return any(kind in plain for kind in ("crossentropy", "hinge", "bce"))


_ACCURACIES = ("accuracy", "acc", "sparse_categorical_accuracy", "categorical_accuracy")


def _first_metric(metrics: object) -> Any:
    """Return the first metric that a model was compiled with, for a task; None if there is none."""
    found = [one for one in keras.tree.flatten(metrics) if one is not None] if metrics else []
    if not found:
        return None
    first = found[0]
    if isinstance(first, str):
        if first in _ACCURACIES:
            return "accuracy"
        first = keras.metrics.get(first)
    if isinstance(first, type):
        first = first()
    if hasattr(first, "update_state"):
        return type(first).from_config(first.get_config())  # a copy, because the user's has state
    return keras.metrics.MeanMetricWrapper(first, name=getattr(first, "__name__", "metric"))


class CompiledLoss:
    """The loss that a model was compiled with, for each example.

    Args:
        model: model that gives the outputs.
        loss: a loss, or one for each output, as a list or by name.
        weights: weights of the losses, likewise; None for ones.
    """

    __name__ = "compiled"

    def __init__(self, model: keras.Model, loss: Any, weights: Any = None) -> None:
        self._names = list(getattr(model, "output_names", ()))
        count = len(graph_of(model).outputs)
        self._losses = [keras.losses.get(one) for one in self._in_order(loss, count)]
        given = [1.0] * count if weights is None else self._in_order(weights, count)
        self._weights = [1.0 if one is None else float(one) for one in given]

    def __call__(self, outputs: OutputTensors, targets: Any) -> BackendTensor:
        """Return the loss of each example, shape (examples,)."""
        given: list[Any] = list(outputs) if isinstance(outputs, list | tuple) else [outputs]
        wanted = self._in_order(targets, len(given)) if len(given) > 1 else [targets]
        parts = [
            weight * self._of_each(loss, output, target)
            for loss, weight, output, target in zip(
                self._losses, self._weights, given, wanted, strict=True
            )
            if loss is not None and target is not None
        ]
        if not parts:
            raise ModelError("expected targets for the loss that was compiled; received none")
        return sum(parts[1:], parts[0])

    def _of_each(self, loss: Any, output: BackendTensor, target: Any) -> BackendTensor:
        target = keras.ops.convert_to_tensor(target)
        if len(target.shape) == len(output.shape) - 1 and output.shape[-1] == 1:
            target = keras.ops.expand_dims(target, -1)
        of_each = loss.call if isinstance(loss, keras.losses.Loss) else loss
        return mean_of_each(keras.ops.cast(of_each(target, output), "float32"))

    def _in_order(self, values: Any, count: int) -> list[Any]:
        """Return a list with one value for each output."""
        if isinstance(values, Mapping):
            return [values.get(name) for name in self._names]
        if isinstance(values, list | tuple):
            return [*values, *[None] * (count - len(values))]
        return [values] * count
