"""Collect criteria's statistics by steps of a task, for calibration data of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.examples import ExampleBatch, as_given
from secateurs.calibration.needs import Need
from secateurs.calibration.statistics import Slopes
from secateurs.channels.network import Network
from secateurs.pytorch.replay.tape import Tape
from secateurs.pytorch.statistics.collector import (
    OperandSums,
    add_squared_gradients_,
    strength_of,
    zeros_in,
)
from secateurs.pytorch.statistics.gates import ReadSites
from secateurs.pytorch.statistics.steps import StepRunner
from secateurs.pytorch.trace_model import source_of
from secateurs.pytorch.tracing.op_record import OpRecord
from secateurs.pytorch.training.steps import alike


@dataclass(eq=False)
class StepPass(OperandSums):
    """The sums of one pass, example by example.

    Attributes:
        runner: runs the task's step.
    """

    runner: StepRunner
    _numbers: dict[tuple[int, int], int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.source = source_of(self.network)
        self.rows_of_groups = []

    # -- values

    def add_values(self, batch: CalibrationBatch) -> None:
        """Add inference passes to the readings, the Gram matrices or both."""
        for example in self._examples(batch):
            tape, records = self.runner.record_pass(self.source, example)
            self._add_run(tape, records, ReadSites(self.network, tape, None, records))

    def _add_run(self, tape: Tape, records: Sequence[OpRecord], sites: ReadSites) -> None:
        """Add one recorded run to the sums.

        A reading keeps its index over all runs if the traced operation behind it is the same.
        """
        seen: dict[int, int] = {}  # this run's reading -> its index over all runs
        for site in sites.all:
            record, call = records[site.step], tape.steps[site.step].call(tape.find)
            key = (id(record), record.masks.index(site.mask))
            number = self._numbers.get(key, seen.get(site.reading, len(self.readings)))
            if key not in self._numbers:
                self._numbers[key] = number
                self.note_reader(
                    number, record.layer, site.mask.units, strength_of(call, site.mask)
                )
                if self.needs & Need.GRAMS:
                    self.rows_of_groups += self.rows_at(number, site.mask)
            if site.reading in seen:
                continue
            seen[site.reading] = number
            self.sum_operand(number, site.mask, call.tensors()[site.mask.operand])
            parts = sites.activations[site.reading]
            zeros = {
                before: zeros_in(
                    tape.find(tape.steps[before.origin.step].operands[before.origin.operand]),
                    before,
                )
                for before in parts
            }
            self.add_zeros(number, parts, zeros)

    # -- gradients

    def add_gates(self, batch: CalibrationBatch) -> None:
        """Add a batch to the sums over gates."""
        for example in self._examples(batch):
            tape, records = self.runner.record(self.source, example)
            self.gates.add(slopes_of_step(self.network, tape, records))

    def add_squared_gradients(self, image: CalibrationBatch) -> None:
        """Add one example to the curvature."""
        for example in self._examples(image):
            tape, _ = self.runner.record(self.source, example)
            with alike():
                add_squared_gradients_(self.curvature, self.network, tape, as_losses)

    def _examples(self, batch: CalibrationBatch) -> list[object]:
        return self.runner.examples(ExampleBatch(as_given(batch)), self.source.model)


def slopes_of_step(network: Network, tape: Tape, records: Sequence[OpRecord]) -> Slopes:
    """Gradients of one step's loss with respect to gates on what consumers read."""
    sites = ReadSites(network, tape, None, records)
    with alike():  # the replay draws the same random numbers as the recording
        return sites.slopes_of_run(tape, as_losses, 1)


def as_losses(loss: object) -> torch.Tensor:
    """A step's loss as the losses of its single example, shape (1,)."""
    if not isinstance(loss, torch.Tensor):  # TaskStep has checked it
        raise TypeError(f"expected a tensor; received {type(loss).__name__}")
    return loss.reshape(1)
