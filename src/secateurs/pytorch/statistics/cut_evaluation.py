"""Evaluate a cut by its loss, without any training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateurs.backends import Loss
from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.examples import ExampleBatch, StepLoss, as_given, split_of
from secateurs.calibration.judging import Judgement, judge_batches
from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
from secateurs.pytorch.statistics.loss import PerExampleLoss, on_device
from secateurs.pytorch.statistics.steps import StepRunner
from secateurs.pytorch.surgery.slicing import cut_copy
from secateurs.pytorch.trace_model import source_of
from secateurs.pytorch.training.batches import call_model
from secateurs.pytorch.training.batches import on_device as on_place
from secateurs.pytorch.training.tasks import MetricTally
from secateurs.training.task import LearningTask


def evaluate_cut(
    network: Network,
    cut: Cut,
    images: Sequence[CalibrationBatch],
    recalibrate: Sequence[CalibrationBatch] = (),
    loss: Loss | None = None,
    task: LearningTask | None = None,
) -> tuple[NDArray[np.float64], float | None]:
    """(loss of each image, shape (N,); accuracy or None) after a cut.

    With a task, its metric replaces the accuracy.

    Args:
        network: the traced network; its model is unchanged.
        cut: cut to evaluate.
        images: evaluation images.
        recalibrate: images from which batch-normalisation statistics are re-estimated; none keeps
            the statistics.
        loss: (outputs, labels) -> one loss for each image; None is cross-entropy.
        task: task whose metric is measured; None measures accuracy.
    """
    model = cut_copy(source_of(network).model, cut).eval()
    if isinstance(loss, StepLoss):
        with torch.inference_mode():
            recalibrate_(model, recalibrate)
            return _judge_steps(model, images, loss, task)
    objective = PerExampleLoss(loss, "auto")
    tally = None if task is None else MetricTally(task)

    def judge(batch: CalibrationBatch) -> Judgement:
        arguments, keywords, labels = on_device(batch, model)
        outputs = model(*arguments, **keywords)
        losses = objective.losses(outputs, labels).double().cpu().numpy()
        if tally is not None:
            tally.add(outputs, labels, float(losses.mean()), len(losses))
            return losses, None
        hits = objective.right(outputs, labels)
        return losses, None if hits is None else hits.cpu().numpy()

    with torch.inference_mode():
        if recalibrate:
            recalibrate_(model, recalibrate)
        losses, accuracy = judge_batches(images, judge)
        return losses, accuracy if tally is None else tally.value()


def _judge_steps(
    model: nn.Module, batches: Sequence[CalibrationBatch], loss: StepLoss, task: LearningTask | None
) -> tuple[NDArray[np.float64], float | None]:
    """The same by steps of a task, example by example; its metric batch by batch."""
    runner, tally = StepRunner(loss, "auto"), None if task is None else MetricTally(task)
    found = []
    for batch in map(as_given, batches):
        losses = runner.losses(model, ExampleBatch(batch)).numpy()
        found.append(losses)
        if tally is not None and task is not None and task.evaluate is None:
            like = next(model.parameters(), torch.zeros(0))
            outputs, targets = runner.step.forward(model, on_place(batch, like.device))
            tally.add(outputs, targets, float(losses.mean()), len(losses))
    if task is not None and task.evaluate is not None:
        return np.concatenate(found), float(task.evaluate(model))
    return np.concatenate(found), None if tally is None else tally.value()


def _call(model: nn.Module, batch: CalibrationBatch) -> None:
    if not isinstance(batch, ExampleBatch):
        arguments, keywords, _ = on_device(batch, model)
        model(*arguments, **keywords)
        return
    like = next(model.parameters(), torch.zeros(0))
    call_model(model, on_place(split_of(batch.images)[0], like.device))


def recalibrate_(model: nn.Module, batches: Sequence[CalibrationBatch]) -> None:
    """Re-estimate batch-normalisation statistics on these images: the plain mean over batches.

    Batches of one are skipped, since a normalisation may have one value of each channel then; where
    nothing else is given, the statistics stay as they are.
    """
    batches = [batch for batch in batches if len(batch) > 1]
    if not batches:
        return
    norms = [one for one in model.modules() if isinstance(one, _BatchNorm)]
    norms = [one for one in norms if one.running_mean is not None]
    momenta = [one.momentum for one in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average, in PyTorch
        norm.train()
    for batch in batches:
        _call(model, batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
