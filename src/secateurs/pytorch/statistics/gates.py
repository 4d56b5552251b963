"""Gradients of each image's loss with respect to gates on what consumers read.

A gate of ones multiplies each operand from which a consumer reads channels, and the model's tape is
replayed under autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.before_pooling import Activation
from secateurs.calibration.statistics import Slopes
from secateurs.channels.network import Network
from secateurs.channels.tensors import Mask
from secateurs.pytorch.replay.tape import (
    ImageAxis,
    Operand,
    Step,
    Tape,
    record,
    replay,
    rows_between,
    with_operands,
)
from secateurs.pytorch.statistics.before_pooling import Pooled
from secateurs.pytorch.statistics.loss import PerExampleLoss, on_device
from secateurs.pytorch.trace_model import TracedModel, source_of
from secateurs.pytorch.tracing.op_call import Call
from secateurs.pytorch.tracing.op_record import OpRecord


def record_batch(source: TracedModel, batch: CalibrationBatch) -> tuple[Tape, torch.Tensor | None]:
    """The model's tape on a batch, and the batch's labels."""
    arguments, keywords, labels = on_device(batch, source.model)
    return record(source.to_run(), source.operations, arguments, keywords), labels


def runs_of_two_and_three(source: TracedModel, batch: CalibrationBatch) -> tuple[Tape, Tape]:
    """Tapes of two and of three images; images lie where these differ."""
    two, three = (record_batch(source, batch.rows(np.arange(n) % len(batch)))[0] for n in (2, 3))
    return two, three


@dataclass(frozen=True, slots=True)
class ReadSite:
    """One operand from which a consumer reads channels.

    Attributes:
        step: index of the operation.
        mask: operand, axis and units that are read.
        reading: index of the values that are read; consumers of the same values share it.
        rows: location of the images in the operand; None if unknown.
    """

    step: int
    mask: Mask
    reading: int
    rows: ImageAxis | None

    @property
    def by_image(self) -> bool:
        """Whether every image can have a gate of its own."""
        return self.rows is not None and self.rows.axis != self.mask.axis


class ReadSites:
    """Every operand that depends on the images and from which a consumer reads channels.

    Args:
        network: the traced network.
        one: tape of its model on some images.
        other: tape on another number of images; None for a single example.
        operations: records of the operations on the tapes; None: those of the trace.

    Attributes:
        all: the sites, in the order of the run.
        at: index of an operation -> its sites.
        activations: reading -> activations that its values are pooled from, if any.
    """

    def __init__(
        self,
        network: Network,
        one: Tape,
        other: Tape | None,
        operations: Sequence[OpRecord] | None = None,
    ) -> None:
        self._source = source = source_of(network)
        operations = source.operations if operations is None else operations
        pooled = Pooled(one, operations, network.solution)
        rows = {} if other is None else rows_between(one, other)
        live = one.depending_on_inputs()
        numbers: dict[tuple[Operand, int, bytes], int] = {}
        self.all: list[ReadSite] = []
        self.at: dict[int, list[ReadSite]] = {}
        self.activations: dict[int, tuple[Activation, ...]] = {}
        for step in one.steps:
            for mask in operations[step.number].masks:
                operand = step.operands[mask.operand]
                if operand in live:
                    key = (operand, mask.axis, mask.units.tobytes())
                    number = numbers.setdefault(key, len(numbers))
                    place = ReadSite(step.number, mask, number, rows.get(operand))
                    self.all.append(place)
                    self.at.setdefault(step.number, []).append(place)
                    if number not in self.activations:
                        before = pooled.activations_of(operand, mask.units)
                        self.activations[number] = before

    @classmethod
    def find(cls, network: Network, batch: CalibrationBatch) -> ReadSites:
        """The sites of a model, found on some images."""
        return cls(network, *runs_of_two_and_three(source_of(network), batch))

    @property
    def by_image(self) -> bool:
        """Whether every image of a batch can have gates of its own; otherwise images run singly."""
        return all(place.by_image for place in self.all)

    def slopes(self, batch: CalibrationBatch, objective: PerExampleLoss) -> Iterator[Slopes]:
        """Gradients of each image's loss with respect to gates, in parts of the batch."""
        parts = [batch]
        if not self.by_image:
            # In such a batch, gradients cannot be assigned to images; so each image runs by itself.
            parts = [batch.rows(slice(image, image + 1)) for image in range(len(batch))]
        for part in parts:
            tape, labels = record_batch(self._source, part)
            yield self.slopes_of_run(tape, partial(objective.losses, labels=labels), len(part))

    def slopes_of_run(
        self, tape: Tape, losses: Callable[[object], torch.Tensor], images: int
    ) -> Slopes:
        """Gradients with respect to gates for a recorded run.

        Args:
            tape: the run.
            losses: maps the run's outputs to the loss of each image.
            images: number of images with gates of their own; one, where images cannot be separated.
        """
        gated = _Gated(self.at, images, not self.by_image)
        with autograd():
            loss = losses(replay(tape, gated.change, detach)).sum()
            gates = list(gated.gates.values())
            found = (
                torch.autograd.grad(loss, gates, allow_unused=True)
                if loss.requires_grad
                else [None] * len(gates)
            )
        units = {place.reading: place.mask.units for place in self.all}
        return [
            (units[number], as_numbers(torch.zeros_like(gate) if slope is None else slope))
            for (number, gate), slope in zip(gated.gates.items(), found, strict=True)
        ]


@dataclass(eq=False)
class _Gated:
    """Inserts gates of ones at the sites, one for each reading.

    Attributes:
        at: index of an operation -> its sites.
        images: number of images in the batch.
        whole: whether all images share a gate.
        gates: reading -> its gate, of shape (images, indices).
    """

    at: Mapping[int, Sequence[ReadSite]]
    images: int
    whole: bool
    gates: dict[int, torch.Tensor] = field(default_factory=dict)
    _gated: dict[int, torch.Tensor] = field(default_factory=dict)

    def change(self, step: Step, call: Call) -> Call:
        """The operation with gates on its operands."""
        changes: dict[int, torch.Tensor] = {}
        for place in self.at.get(step.number, ()):
            number = place.mask.operand
            if number in changes:  # gates along two axes of one operand
                changes[number] = changes[number] * self._factor(place, changes[number])
                continue
            if place.reading not in self._gated:
                operand = call.tensors()[number]
                self._gated[place.reading] = operand * self._factor(place, operand)
            changes[number] = self._gated[place.reading]
        return with_operands(call, changes) if changes else call

    def _factor(self, place: ReadSite, operand: torch.Tensor) -> torch.Tensor:
        """The reading's gate, in a shape that broadcasts against the operand."""
        axis = place.mask.axis
        gate = self.gates.get(place.reading)
        if gate is None:
            shape = (self.images, operand.shape[axis])
            gate = torch.ones(shape, dtype=operand.dtype, device=operand.device).requires_grad_()
            self.gates[place.reading] = gate
        sizes = [1] * operand.dim()
        sizes[axis] = operand.shape[axis]
        if self.whole or place.rows is None:
            return gate.reshape(sizes)
        sizes[place.rows.axis] = operand.shape[place.rows.axis]
        spread = gate.repeat_interleave(place.rows.each, 0)
        return (spread if place.rows.axis < axis else spread.T).reshape(sizes)


@contextmanager
def autograd() -> Iterator[None]:
    """Enable gradients, whatever the caller has disabled."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        yield


def detach(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor without gradient history, usable under autograd."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def as_numbers(tensor: torch.Tensor) -> NDArray[np.float64]:
    """The tensor as a NumPy array in double precision."""
    values: NDArray[np.float64] = tensor.detach().double().cpu().numpy()
    return values
