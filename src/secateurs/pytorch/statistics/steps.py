"""Losses of a task's own step, example by example."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from secateurs.calibration.examples import ExampleBatch, StepLoss, rows_of
from secateurs.errors import DataError, SecateursError
from secateurs.pytorch.replay.tape import Tape, record_step
from secateurs.pytorch.trace_model import TracedModel
from secateurs.pytorch.tracing.interpreter import in_mode
from secateurs.pytorch.tracing.op_record import OpRecord
from secateurs.pytorch.tracing.records_by_layer import OtherPathError
from secateurs.pytorch.training.batches import on_device
from secateurs.pytorch.training.steps import TaskStep, alike, settle_
from secateurs.training.memory import is_out_of_memory
from secateurs.training.task import LearningTask

Returned = TypeVar("Returned")


class StepRunner:
    """Runs a task's step, up to the loss, on one example at a time.

    Detectors return losses in train mode only. So a step runs in eval mode if that gives a loss,
    and otherwise in train mode with normalisations and dropouts in eval mode. Random draws (such as
    the boxes that are sampled) are the same each time.

    Args:
        loss: loss with the task.
        caller: name of the caller, for messages.
    """

    def __init__(self, loss: StepLoss, caller: str) -> None:
        self.step = TaskStep(loss.task)
        self._caller = caller
        self._training: bool | None = None

    @property
    def task(self) -> LearningTask:
        """The task whose step runs."""
        return self.step.task

    def examples(self, batch: ExampleBatch, model: nn.Module) -> list[object]:
        """Each example of a batch as a batch of its own, on the model's device."""
        like = next(model.parameters(), torch.zeros(0))
        rows = (rows_of(batch.images, [row]) for row in range(len(batch)))
        return [on_device(row, like.device) for row in rows]

    def losses(self, model: nn.Module, batch: ExampleBatch) -> torch.Tensor:
        """The loss of each example, shape (examples,), in double precision.

        Args:
            model: a private copy; its mode is switched while it runs.
            batch: examples.
        """
        return torch.stack([self._loss(model, one) for one in self.examples(batch, model)])

    def record(self, source: TracedModel, example: object) -> tuple[Tape, list[OpRecord]]:
        """The tape of the step on one example, and the records of its operations."""

        def run(training: bool) -> tuple[Tape, list[OpRecord]]:
            step = self.step_on(example, training)
            model = source.to_run()
            return record_step(model, source.operations, step, example, training=training)

        return self.in_fitting_mode(run)

    def record_pass(self, source: TracedModel, example: object) -> tuple[Tape, list[OpRecord]]:
        """The tape of an inference pass on one example, and the records of its operations."""

        def run(model: nn.Module) -> object:
            return self.step.forward(model, example)[0]

        with self._errors(), alike():
            model = source.to_run()
            return record_step(model, source.operations, run, example, training=False)

    def in_fitting_mode(self, run: Callable[[bool], Returned]) -> Returned:
        """Call a function in the mode in which the step gives a loss.

        Args:
            run: function of whether to run in train mode.

        Raises:
            DataError: the step raises in both modes.
        """
        if self._training is None:
            self._training = False
            try:
                return self.in_fitting_mode(run)
            except SecateursError:
                self._training = True
                try:
                    return self.in_fitting_mode(run)
                except SecateursError:
                    self._training = None
                    raise
        with self._errors(), alike():
            return run(self._training)

    def _loss(self, model: nn.Module, example: object) -> torch.Tensor:
        def run(training: bool) -> torch.Tensor:
            with in_mode(model, training), torch.no_grad():
                return self.step_on(example, training)(model).double().cpu()

        return self.in_fitting_mode(run)

    def step_on(self, example: object, training: bool) -> Callable[[nn.Module], torch.Tensor]:
        """A function that maps a model to the loss of its step on one example."""

        def step(model: nn.Module) -> torch.Tensor:
            if training:
                settle_(model)
            return self.step.loss(model, example)

        return step

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Convert exceptions of a step to DataErrors."""
        try:
            yield
        except SecateursError:
            raise
        except OtherPathError as error:
            raise DataError(
                f"{self._caller}: expected a step of {self.task.name} that runs the model as it "
                f"was traced; {error}. Trace it with an input like the calibration data."
            ) from error
        except Exception as error:
            if is_out_of_memory(error):
                raise
            message = " ".join(str(error).split()).rstrip(".")[:300]
            raise DataError(
                f"{self._caller}: expected a step of {self.task.name} on one example; it raised "
                f"{type(error).__name__}: {message}. Batches are (inputs, targets) or "
                "dictionaries, as the model is trained with, and are split along their first axis "
                "or by their lists."
            ) from error
