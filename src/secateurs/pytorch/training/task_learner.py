"""Train for a user's task: any batch, output, loss, metric or trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn

from secateurs.arguments import takes_as_annotated
from secateurs.backends import Loss, Outputs
from secateurs.calibration.examples import StepLoss, length_of
from secateurs.channels.network import Network
from secateurs.errors import SecateursError
from secateurs.pytorch.model.outputs import DropUnused, names_of
from secateurs.pytorch.trace_model import trace
from secateurs.pytorch.training.learner import Learner
from secateurs.pytorch.training.random_numbers import seed_generators
from secateurs.pytorch.training.readers import BatchReader, TaskReader
from secateurs.pytorch.training.steps import TaskStep
from secateurs.pytorch.training.tasks import MetricTally
from secateurs.settings.training import Training
from secateurs.training.any_feed import TaskBatches
from secateurs.training.feed import Batch
from secateurs.training.learner import DataPart, Evaluation
from secateurs.training.metric import Metric
from secateurs.training.objectives import label_tokens, loss_in
from secateurs.training.task import LearningTask, is_judged_by_loss, number_from


class TaskLearner(Learner):
    """A PyTorch model in training for a task; see ``secateurs.training.learner.Learner``.

    ``Evaluation.accuracy`` is the task's metric, negated where lower is better, so that the loop's
    comparisons and its tolerance, in the metric's own units, hold for any metric.
    """

    _kind_of_outputs = None  # inferred from their values

    @takes_as_annotated(SecateursError)
    def __init__(
        self,
        model: nn.Module,
        train: object,
        validation: object,
        test: object,
        training: Training,
        task: LearningTask,
        outputs: Outputs | None = None,
    ) -> None:
        """Like ``Learner``, with a task.

        Args:
            model: the dense model; unchanged.
            train: batches of any kind, as a DataLoader gives them; or arrays.
            validation: validation data; likewise.
            test: test data, likewise, or None.
            training: training settings.
            task: task to train for.
            outputs: names of the model's outputs in use; others are None for the loss and the
                metric. None uses all.

        Raises:
            DataError: there are no batches.
            ModelError: weights hold NaN or infinity.
            SecateursError: distillation is requested for a task with a training function of its
                own.
        """
        _check_distillation(task, training)
        self._task = task
        self._one_step = TaskStep(task, self._select_outputs)
        self._tally = MetricTally(task)
        super().__init__(model, train, validation, test, training, outputs)

    def _make_reader(self) -> BatchReader:
        """The reader of the task's batches."""
        return TaskReader(self._origin, self._training, self._processes)

    @property
    def metric(self) -> Metric:
        """The task's metric."""
        return self._task.described_metric

    @property
    def loss(self) -> Loss | None:
        """The task's loss; a ``StepLoss`` where the loss takes the model itself."""
        return self._loss_of_task

    @cached_property
    def _loss_of_task(self) -> Loss | None:
        first = next(self._train_feed.in_order()).images
        return loss_in(self._task, label_tokens(self._task, [first]))

    def trace(self) -> Network:
        """Trace the model in its present state, for one example."""
        return trace(self._model.eval(), self._example, outputs=self._outputs)

    def calibration(self, batches: int) -> Iterable[Any]:
        """Training batches (inputs, targets), unchanged; can be iterated repeatedly."""
        is_whole = isinstance(self.loss, StepLoss)
        return TaskBatches(self._train_feed, batches, self._task, is_whole=is_whole)

    # -- training

    def train(self, first: int, rates: Sequence[float], tick: Callable[[], None]) -> float:
        """Train for one batch per rate, by the user's own trainer if there is one."""
        if self._task.fit is None:
            return super().train(first, rates, tick)
        self._model.train()
        with (
            seed_generators(self._training.seed, first, self._processes.share.index),
            torch.enable_grad(),
        ):
            result = self._task.fit(self._model, len(rates))
        # A trainer may leave the model on another device.
        self._model.to(self._processes.device)
        for _ in rates:
            tick()
        if isinstance(result, torch.Tensor):
            result = result.detach()
        return 0.0 if result is None else float(result)

    def _loss_of(self, batch: Batch) -> torch.Tensor:
        """These examples' share of the whole batch's mean loss."""
        given = self._reader.on_device(batch)
        if self._task.train_step is not None:
            loss: object = self._one_step.loss(self._prepared, given, self._model)
        else:
            outputs, targets = self._one_step.forward(self._prepared, given, self._model)
            task_loss = self._one_step.of_outputs(outputs, targets, self._model)
            loss = self._follow_teacher(task_loss, outputs, given)
        # Each process has the mean over its own part: weight it by its share of the whole batch.
        return self._one_step.one_number(loss) * (length_of(batch.images) / batch.whole)

    def _select_outputs(self, outputs: object) -> object:
        """The outputs in use and the loss; None in place of others."""
        if self._outputs is None:
            return outputs
        return DropUnused((*names_of(self._outputs), "loss"))(None, None, outputs)

    def _follow_teacher(self, loss: object, outputs: object, given: object) -> object:
        """The task's loss, mixed with the distance from the dense model's outputs."""
        if self._teacher is None:
            return loss
        with torch.no_grad(), self._processes.autocast():
            wanted, _ = self._one_step.forward(self._teacher.model, given)
        share = self._training.distillation or 0.0
        apart = self._teacher.distances(wanted, outputs).mean()
        return (1 - share) * self._one_step.one_number(loss) + share * apart

    # -- evaluation

    def _evaluate(self, part: DataPart, tick: Callable[[], None]) -> Evaluation:
        """The task's metric over a split, negated where lower is better."""
        if self._task.evaluate is not None and part == "validation":
            return self._evaluate_by_user(tick)
        sums = self._sum_scores(part, tick).cpu()
        self._tally.gather(self._processes.sum)
        value = self._tally.value()
        self._tally = MetricTally(self._task)
        loss = float(sums[0] / sums[1].clamp(min=1))
        return Evaluation(self._as_score(value), loss)

    def _score_batch(self, batch: Batch) -> torch.Tensor:
        count = length_of(batch.images)
        if not count:  # the last batch may have fewer examples than there are processes
            return torch.zeros(2, dtype=torch.float64)
        given = self._reader.on_device(batch)
        loss = None
        if self._is_judged_by_its_step:
            loss = self._one_step.judge(self._scoring, given)
            self._tally.add(None, None, loss, count)
            return torch.tensor([loss * count, count], dtype=torch.float64)
        outputs, targets = self._one_step.forward(self._scoring, given, self._model)
        if self._task.loss is not None or not self._task.train_step:
            held = self._one_step.of_outputs(outputs, targets, self._model)
            loss = float(self._one_step.one_number(held))
        self._tally.add(outputs, targets, loss, count)
        return torch.tensor([(loss or 0.0) * count, count], dtype=torch.float64)

    @property
    def _is_judged_by_its_step(self) -> bool:
        """Whether the user's step is the only measure of the model's quality."""
        task = self._task
        return task.train_step is not None and task.loss is None and is_judged_by_loss(task)

    def _evaluate_by_user(self, tick: Callable[[], None]) -> Evaluation:
        evaluate = self._task.evaluate
        was_training = self._model.training
        self._model.eval()
        with torch.no_grad():
            found: object = None if evaluate is None else evaluate(self._model)
        self._model.train(was_training)
        for _ in range(self.batches_of("validation")):
            tick()
        if isinstance(found, torch.Tensor) and found.numel() == 1:
            found = found.reshape(())
        return Evaluation(self._as_score(number_from(found)), 0.0)

    def _as_score(self, value: float) -> float:
        return self.metric.score(value)


def _check_distillation(task: LearningTask, training: Training) -> None:
    if training.distillation and (task.train_step is not None or task.fit is not None):
        raise SecateursError(
            f"{task.name}: expected training.distillation of 0; received {training.distillation}. "
            "A custom train_step or trainer computes its own loss: add the distillation loss "
            "there."
        )
