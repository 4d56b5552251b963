"""Train for a user's task: any inputs, outputs, loss, metric or trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import keras
import numpy as np

from secateurs.arguments import takes_as_annotated
from secateurs.backends import Loss, Outputs
from secateurs.calibration.examples import length_of
from secateurs.errors import DataError, ModelError, SecateursError, describe_raised
from secateurs.keras.protocols import BackendTensor
from secateurs.keras.statistics.class_axis import tally_of
from secateurs.keras.statistics.loss import outputs_first
from secateurs.keras.training.distillation import Teacher
from secateurs.keras.training.fitting import fit
from secateurs.keras.training.learner import Learner
from secateurs.keras.training.objectives import (
    OBJECTIVE,
    Stepper,
    TaskObjective,
    learns_by_itself,
    one_number,
    refuse_no_loss,
)
from secateurs.keras.training.optimizers import make_optimizer
from secateurs.keras.training.random_numbers import seed_generators
from secateurs.keras.training.readers import TaskReader, as_arrays, as_tensors
from secateurs.keras.training.tasks import CompiledLoss
from secateurs.settings.training import Training
from secateurs.training.any_feed import TaskBatches
from secateurs.training.feed import Augmentation, Batch, Feed, consecutive
from secateurs.training.learner import DataPart, Evaluation, Snapshot
from secateurs.training.memory import is_out_of_memory
from secateurs.training.metric import Metric
from secateurs.training.task import LearningTask, is_judged_by_loss, number_from


class TaskLearner(Learner):
    """A Keras model in training for a task; see ``secateurs.training.learner.Learner``.

    ``Evaluation.accuracy`` is the task's metric, negated where lower is better, so that the loop's
    comparisons and its tolerance (in units of the metric) hold for any metric.
    """

    @takes_as_annotated(SecateursError)
    def __init__(
        self,
        model: keras.Model,
        train: object,
        validation: object,
        test: object,
        training: Training,
        task: LearningTask,
        outputs: Outputs | None = None,
    ) -> None:
        """Like ``Learner``, with a task.

        Args:
            model: dense model; unchanged.
            train: iterable of batches of any kind, or whole arrays.
            validation: the same for validation.
            test: the same for the test, or None.
            training: training settings.
            task: task to train for. Its loss takes (outputs, targets) as backend tensors, several
                outputs as a list, and is written with ``keras.ops``.
            outputs: must be None. Use ``keras.Model`` to make a model with fewer outputs.

        Raises:
            DataError: there are no batches.
            ModelError: a Keras model cannot be trained for such a task, or not in this way.
            SecateursError: distillation is requested for a task with its own training function.
        """
        _check_task(model, task, training)
        if task.loss is not None:
            task = replace(task, loss=outputs_first(task.loss))
        self._task = task
        self._step = _step_of(task)
        self._stepper: Stepper | None = None
        self._teacher: Teacher | None = None
        self._tally = tally_of(task, model)
        super().__init__(model, train, validation, test, training, outputs)
        if _learns_by_own_class(task, model) and not learns_by_itself(self._model):
            raise ModelError(
                f"{model.name}: expected a loss to train by: a cut {type(model).__name__} is a "
                "plain functional model, without its class's own training step. Pass train_step=, "
                "a function (model, batch) -> the loss"
            )

    def _prepare_to_read(self, model: keras.Model) -> None:
        """Read batches as the task says; it interprets the outputs too."""
        self._reader = TaskReader(self._origin, self._task)

    @property
    def metric(self) -> Metric:
        """The task's metric."""
        return self._task.described_metric

    @property
    def loss(self) -> Loss | None:
        """The task's loss."""
        return self._task.loss

    def calibration(self, batches: int) -> Iterable[Any]:
        """Training batches (inputs, targets), unchanged; can be iterated repeatedly."""
        return TaskBatches(self._train_feed, batches, self._task, is_whole=False)

    # -- training

    def train(self, first: int, rates: Sequence[float], tick: Callable[[], None]) -> float:
        """Train for one batch per rate, by the user's own trainer if there is one."""
        self._begin_average_after_cut_()
        self._is_cut_anew = False
        if self._task.fit is None:
            batches = consecutive(self._train_feed, first, len(rates))
            seeds = [self._training.seed, first]
            if self._step is not None:
                return self._train_by(self._step, batches, rates, tick, seeds)
            examples = (self._example_of(batch) for batch in batches)
            with self._explain_own_step_errors():
                return fit(self._model, examples, rates, tick, seeds)
        with seed_generators(self._training.seed, first):
            keras.utils.set_random_seed(self._training.seed + first)
            result = self._task.fit(self._model, len(rates))
        for _ in rates:
            tick()
        return 0.0 if result is None else float(keras.ops.convert_to_numpy(result))

    def _train_by(
        self,
        step: Callable[[Any, Any], Any],
        batches: Iterable[Batch],
        rates: Sequence[float],
        tick: Callable[[], None],
        seeds: Sequence[int],
    ) -> float:
        stepper = self._stepper_of(step)
        try:
            examples = ((as_arrays(batch.images),) for batch in batches)
            return fit(stepper, examples, rates, tick, seeds)
        except Exception:
            if stepper.raised is not None:
                raise stepper.raised from None
            raise

    @contextmanager
    def _explain_own_step_errors(self) -> Iterator[None]:
        """Explain errors of a training step that the model's class defines."""
        try:
            with refuse_no_loss(self._model):
                yield
        except SecateursError:
            raise
        except Exception as error:
            if not _learns_by_own_class(self._task, self._model) or is_out_of_memory(error):
                raise
            raise ModelError(
                f"{self._model.name}: expected a {type(self._model).__name__} that learns by its "
                f"own class's training step; that raised {describe_raised(error)}. Compile it as "
                "that needs, or pass train_step=, a function (model, batch) -> the loss"
            ) from error

    def _stepper_of(self, step: Callable[[Any, Any], Any]) -> Stepper:
        """Return the stepper of the current model, cached because it holds a compiled step."""
        if self._stepper is None or self._stepper.inner is not self._model:
            self._stepper = Stepper(self._model, step, self._task.name)
        return self._stepper

    def _example_of(self, batch: Batch) -> tuple[Any, Any]:
        inputs, targets = self._reader.split(batch.images)
        if self._teacher is None:
            return inputs, targets
        taught = {"wanted": tuple(self._teacher.answers(inputs))}
        return inputs, taught if targets is None else {**taught, "targets": targets}

    def follow(self, dense: Snapshot) -> None:
        """From now on, also train towards this model's outputs (``training.distillation``)."""
        self._teacher = Teacher(self._build(dense), self._training.temperature)
        self._model.train_function = None  # the compiled step lacks the teacher
        self._set_objective_(self._model)

    def _compile_(self, model: keras.Model) -> None:
        model.compile(make_optimizer(self._training))
        self._set_objective_(model)

    def _set_objective_(self, model: keras.Model) -> None:
        """Make ``fit`` use the task's loss, unless the model's own is that loss."""
        task = self._task
        compiled = self._trains_as_compiled and isinstance(task.loss, CompiledLoss)
        is_own = (compiled and self._teacher is None) or _learns_by_own_class(task, model)
        if not is_own and task.fit is None and self._step is None:
            setattr(model, OBJECTIVE, TaskObjective(model, self._mixed_loss))

    def _mixed_loss(self, outputs: object, targets: Any) -> BackendTensor:
        """Return the mean task loss, mixed with the distance from the dense model's outputs."""
        if self._teacher is None:
            return self._loss_of(outputs, targets)
        share = self._training.distillation or 0.0
        apart = keras.ops.mean(self._teacher.distances(targets["wanted"], outputs))
        loss = keras.ops.mean(self._loss_of(outputs, targets.get("targets")))
        mixed: BackendTensor = (1 - share) * loss + share * apart
        return mixed

    def _check_distillation(self, training: Training) -> None:
        """Do nothing: ``_check_task`` checks this together with the task."""

    def _loss_of(self, outputs: object, targets: object) -> BackendTensor:
        """Return the loss of each example, shape (examples,), or their mean.

        Raises:
            SecateursError: the task has no loss, or its loss returns something else.
        """
        loss = self._task.loss
        if loss is None:
            raise ModelError(
                f"{self._task.name}: expected a loss to train by. Compile the model with one, pass "
                "loss=, a function (outputs, targets) -> one loss for each example, or fit=."
            )
        if targets is None and self._task.name != "own":
            raise DataError(
                f"{self._task.name}: expected batches (inputs, targets), or dictionaries with "
                "labels; received batches without targets"
            )
        flat = keras.tree.flatten(outputs)
        found: BackendTensor = loss(flat[0] if len(flat) == 1 else flat, targets)
        if not hasattr(found, "shape") or len(found.shape) > 1:
            shape = tuple(getattr(found, "shape", ()))
            raise SecateursError(
                f"{self._task.name}: expected loss(outputs, targets) to return one loss for each "
                f"example, or their mean; received {shape or type(found).__name__}"
            )
        return found

    # -- evaluation

    def _evaluate(self, part: DataPart, tick: Callable[[], None]) -> Evaluation:
        """The task's metric over a split, negated where lower is better."""
        if self._task.evaluate is not None and part == "validation":
            return self._evaluate_by_user(tick)
        total, count = 0.0, 0
        for batch in self._feeds[part].in_order():
            outputs, targets, found = self._judge(batch.images)
            losses = None
            if found is not None:
                losses = np.asarray(keras.ops.convert_to_numpy(found), np.float64)
                losses = np.broadcast_to(losses, (length_of(batch.images),))
                total += float(losses.sum())
            count += length_of(batch.images)
            self._tally.add(outputs, targets, losses)
            tick()
        value = self._tally.value()
        self._tally = tally_of(self._task, self._origin)
        return Evaluation(self.metric.score(value), total / max(1, count))

    def _judge(self, batch: object) -> tuple[Any, Any, Any]:
        """Run a batch in inference mode; return (outputs, targets, losses, their mean or None)."""
        task, is_of_loss = self._task, is_judged_by_loss(self._task)
        if is_of_loss and task.train_step is not None:
            step = task.train_step(self._model, as_tensors(as_arrays(batch)))
            return None, None, one_number(step, task.name)
        if is_of_loss and _learns_by_own_class(task, self._model):
            inputs, targets = map(as_tensors, self._reader.split(batch))
            self._model.reset_metrics()
            found = self._model.test_on_batch(inputs, targets, return_dict=True)
            return None, None, found.get("loss", next(iter(found.values())))
        outputs, targets = self._predict(batch)
        if task.loss is None:
            return outputs, targets, None
        return outputs, targets, self._loss_of(as_tensors(outputs), as_tensors(targets))

    def _predict(self, batch: object) -> tuple[Any, Any]:
        """Return (outputs as an array or a list of arrays, targets) of a batch."""
        if self._task.predict is not None:
            outputs, targets = self._task.predict(self._model, as_tensors(as_arrays(batch)))
        else:
            inputs, targets = self._reader.split(batch)
            outputs = self._model.predict_on_batch(inputs)
        flat = [np.asarray(keras.ops.convert_to_numpy(one)) for one in keras.tree.flatten(outputs)]
        return flat[0] if len(flat) == 1 else flat, targets

    def _evaluate_by_user(self, tick: Callable[[], None]) -> Evaluation:
        evaluate = self._task.evaluate
        found: object = None if evaluate is None else evaluate(self._model)
        for _ in range(self.batches_of("validation")):
            tick()
        if getattr(found, "shape", None) == ():
            found = keras.ops.convert_to_numpy(found)
        return Evaluation(self.metric.score(number_from(found)), 0.0)

    def release(self) -> keras.Model:
        """Return the model, compiled like the user's; the learner must not be used afterwards."""
        released = super().release()
        vars(released).pop(OBJECTIVE, None)
        return released

    # -- inside

    def _feed(self, source: object, part: str, batch_size: int, augmentation: Augmentation) -> Feed:
        del augmentation
        return self._reader.feed(source, part, batch_size, self._training.seed)

    def _first_inputs(self, part: Literal["train", "validation"], count: int) -> object:
        feed = self._train_feed if part == "train" else self._feeds["validation"]
        return self._reader.read_first(feed, part, count)


def _step_of(task: LearningTask) -> Callable[[Any, Any], Any] | None:
    """Return the task's training step, or one from its ``predict`` and loss; None for Keras's."""
    if task.fit is not None:
        return None
    if task.train_step is not None:
        return task.train_step
    predict, loss = task.predict, task.loss
    if predict is None or loss is None:
        return None

    def step(model: keras.Model, batch: object) -> Any:
        outputs, targets = predict(model, batch)
        flat = keras.tree.flatten(outputs)
        return loss(flat[0] if len(flat) == 1 else flat, targets)

    return step


def _learns_by_own_class(task: LearningTask, model: keras.Model) -> bool:
    """Return whether only the model's class defines how it is trained."""
    is_open = task.loss is None and task.fit is None and task.train_step is None
    return is_open and learns_by_itself(model)


def _check_task(model: keras.Model, task: LearningTask, training: Training) -> None:
    by_itself = _step_of(task) is not None or task.fit is not None
    if task.name == "detection" and not (by_itself or task.loss or learns_by_itself(model)):
        raise ModelError(
            f"{model.name}: task 'detection': expected a PyTorch model, or a Keras one whose class "
            "has a train_step or compute_loss of its own. Pass train_step=, a function (model, "
            "batch) -> the loss, and metric= or evaluate="
        )
    if training.distillation and (by_itself or _learns_by_own_class(task, model)):
        raise SecateursError(
            f"{task.name}: expected training.distillation of 0; received {training.distillation}. "
            "A custom train_step or trainer computes its own loss: add the distillation loss "
            "there."
        )
