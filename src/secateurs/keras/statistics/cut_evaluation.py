"""Evaluate a cut by its loss, without any training."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.judging import Judgement, judge_batches
from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
from secateurs.keras.internals import Layer
from secateurs.keras.model.example_inputs import as_arrays
from secateurs.keras.protocols import BackendTensor
from secateurs.keras.statistics.class_axis import tally_of
from secateurs.keras.statistics.loss import BatchLoss, PerExampleLoss
from secateurs.keras.surgery.rebuilding import cut_copy
from secateurs.keras.trace_model import source_of
from secateurs.keras.tracing.interpreter import (
    CallSite,
    OpInterpreter,
    as_it_is,
    call_layer,
    convert_arrays,
    first_tensor,
)
from secateurs.training.task import LearningTask


def evaluate_cut(
    network: Network,
    cut: Cut,
    images: Sequence[CalibrationBatch],
    recalibrate: Sequence[CalibrationBatch] = (),
    loss: BatchLoss | None = None,
    task: LearningTask | None = None,
) -> tuple[NDArray[np.float64], float | None]:
    """(loss of each image, shape (N,); accuracy or None) after a cut.

    With a task, its metric takes the place of the accuracy.

    Args:
        network: trace of the model; the model is unchanged.
        cut: cut to evaluate.
        images: batches to evaluate on.
        recalibrate: batches to recompute the statistics of batch normalisation from; empty keeps
            the statistics.
        loss: function (outputs, labels) -> losses of shape (images,); None for cross-entropy.
        task: task whose metric is measured; None for accuracy.
    """
    model = cut_copy(source_of(network).model, cut)
    objective = PerExampleLoss(loss, "auto", model)
    tally = None if task is None or task.evaluate is not None else tally_of(task, model)
    if recalibrate:
        recalibrate_(model, recalibrate)

    def judge(batch: CalibrationBatch) -> Judgement:
        outputs = OpInterpreter(as_it_is).run(
            model, convert_arrays(model, as_arrays(batch.images, model))
        )
        labels = objective.check_labels([tuple(output.shape) for output in outputs], batch.labels)
        targets = None if labels is None else keras.ops.convert_to_tensor(labels)
        losses = keras.ops.convert_to_numpy(objective.losses(outputs, targets))
        losses = np.asarray(losses, np.float64)
        if tally is not None:
            arrays = [np.asarray(keras.ops.convert_to_numpy(output)) for output in outputs]
            tally.add(arrays[0] if len(arrays) == 1 else arrays, batch.labels, losses)
            return losses, None
        return losses, objective.right(outputs, labels)

    losses, accuracy = judge_batches(images, judge)
    if task is not None and task.evaluate is not None:
        return losses, float(task.evaluate(model))
    return losses, accuracy if tally is None else tally.value()


def recalibrate_(model: keras.Model, batches: Sequence[CalibrationBatch]) -> None:
    """Re-estimate batch-normalisation statistics on these images: the plain mean over batches."""
    means: dict[int, list[tuple[BackendTensor, BackendTensor]]] = {}
    norms: dict[int, Layer] = {}

    def step(site: CallSite, arguments: Sequence[object], keywords: dict[str, object]) -> object:
        layer = site.operation
        if isinstance(layer, keras.layers.BatchNormalization):
            x = first_tensor(arguments, keywords)
            axes = [axis for axis in range(len(x.shape)) if axis != layer.axis % len(x.shape)]
            mean, spread = keras.ops.moments(keras.ops.cast(x, "float32"), axes)
            norms[id(layer)] = layer
            means.setdefault(id(layer), []).append((mean, spread))
            # As in training, this batch is normalised by its own statistics.
            _set_statistics_(layer, mean, spread)
        return call_layer(layer, arguments, keywords)

    for batch in batches:
        OpInterpreter(step).run(model, convert_arrays(model, as_arrays(batch.images, model)))
    for key, layer in norms.items():
        pairs = zip(*means[key], strict=True)
        mean, spread = (sum(values) / len(values) for values in pairs)
        _set_statistics_(layer, mean, spread)


def _set_statistics_(layer: Layer, mean: BackendTensor, spread: BackendTensor) -> None:
    """Set a layer's running statistics, and those that renormalisation derives them from."""
    layer.moving_mean.assign(mean)
    layer.moving_variance.assign(spread)
    if getattr(layer, "renorm", False):
        deviation = keras.ops.sqrt(spread + layer.epsilon)
        layer.moving_stddev.assign(deviation)
        layer.renorm_mean.assign(mean)
        layer.renorm_stddev.assign(deviation)
