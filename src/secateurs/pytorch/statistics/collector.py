"""Collect criteria's statistics in one pass of calibration data through a PyTorch model.

Statistics are of the operands that consumers read: the places where the trace recorded masks. Sums
of values are taken while the model runs; gradients come from replaying its tape under autograd,
with a gate of ones on each operand. So the user's model, its mode, its gradients and its frozen
parameters are not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray

from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.before_pooling import Activation
from secateurs.calibration.collector import StatisticsCollector
from secateurs.calibration.needs import Need
from secateurs.calibration.statistics import ZeroCounts
from secateurs.channels.arrays import Sums
from secateurs.channels.network import Network
from secateurs.channels.tensors import Mask
from secateurs.pytorch.replay.tape import Tape, record, replay
from secateurs.pytorch.statistics.gates import (
    ReadSites,
    as_numbers,
    autograd,
    detach,
    record_batch,
)
from secateurs.pytorch.statistics.loss import PerExampleLoss, on_device
from secateurs.pytorch.trace_model import source_of
from secateurs.pytorch.tracing.interpreter import aten
from secateurs.pytorch.tracing.op_call import Call

ZeroTotals = tuple[int, NDArray[np.float64]]
"""(number of values at each index, number of zeros at each index)."""


class OperandSums(StatisticsCollector):
    """Sums over the operands that consumers read.

    Attributes:
        rows_of_groups: (group, reading, indices of each channel) for groups read there.
    """

    rows_of_groups: list[tuple[str, int, torch.Tensor]]

    def sum_operand(self, number: int, mask: Mask, operand: torch.Tensor) -> None:
        """Add an operand to a reading's sums, and to the Gram matrices of groups read there."""
        values = operand.movedim(mask.axis, -1).flatten(0, -2)
        if self.needs & Need.ACTIVATIONS:
            self.readings[number].add(
                len(values),
                as_numbers((values == 0).sum(0)),
                as_numbers(values.abs().sum(0, dtype=torch.float64)),
                as_numbers(values.sum(0, dtype=torch.float64)),
                as_numbers(values.square().sum(0, dtype=torch.float64)),
            )
        for name, place, rows in self.rows_of_groups:
            if place == number:
                self._sum_products(name, number, values[:, rows.T.flatten()], rows.shape)

    def _sum_products(
        self, name: str, number: int, values: torch.Tensor, shape: Sequence[int]
    ) -> None:
        channels, each = shape
        table = values.reshape(-1, each, channels).flatten(0, 1).double()
        gram = self.gram_of(name, number, channels)
        if gram.has_room_for(len(table)):
            gram.add_values(as_numbers(table))
        else:
            gram.add(
                len(table),
                as_numbers(table.sum(0)),
                lambda columns: as_numbers(table[:, columns].T @ table),
            )

    def rows_at(self, number: int, mask: Mask) -> list[tuple[str, int, torch.Tensor]]:
        """(group, reading, indices of each channel) of the groups read there."""
        found = self.groups_among(mask.units)
        return [(name, number, torch.from_numpy(rows)) for name, rows in found]

    def add_zeros(
        self, number: int, parts: Sequence[Activation], zeros: Mapping[Activation, ZeroTotals]
    ) -> None:
        """Add the numbers of zeros of the activations that a reading is pooled from."""
        reading = self.readings[number]
        reading.activations = reading.activations or tuple(ZeroCounts(part.units) for part in parts)
        for own_zeros, part in zip(reading.activations, parts, strict=True):
            own_zeros.add(*zeros[part])


def zeros_in(tensor: torch.Tensor, before: Activation) -> ZeroTotals:
    """Numbers of values and of zeros at each index of an activation."""
    values = tensor.movedim(before.axis, -1).flatten(0, -2)
    return len(values), as_numbers((values == 0).sum(0))[before.index]


@dataclass(eq=False)
class Pass(OperandSums):
    """The sums of one pass, batch by batch.

    Attributes:
        objective: loss of each image.
        first: first batch, on which the layout of images in the model is found.
    """

    objective: PerExampleLoss
    first: CalibrationBatch

    def __post_init__(self) -> None:
        super().__post_init__()
        self.source = source_of(self.network)
        self.places = ReadSites.find(self.network, self.first)
        self.rows_of_groups = self._where_groups_lie() if self.needs & Need.GRAMS else []

    # -- values

    def add_values(self, batch: CalibrationBatch) -> None:
        """Add a batch to the readings, the Gram matrices or both, as needed."""
        arguments, keywords, _ = on_device(batch, self.source.model)
        fresh = not self.readings
        seen: set[int] = set()
        pooled: dict[int, list[Activation]] = {}
        zeros: dict[Activation, ZeroTotals] = {}
        for before in chain.from_iterable(self.places.activations.values()):
            pooled.setdefault(before.origin.step, []).append(before)

        def watch(number: int, call: Call) -> None:
            tensors = call.tensors()
            for before in pooled.get(number, ()):
                zeros[before] = zeros_in(tensors[before.origin.operand], before)
            for place in self.places.at.get(number, ()):
                if fresh:
                    layer = self.source.operations[number].layer
                    strength = strength_of(call, place.mask)
                    self.note_reader(place.reading, layer, place.mask.units, strength)
                if place.reading not in seen:
                    seen.add(place.reading)
                    self.sum_operand(place.reading, place.mask, tensors[place.mask.operand])

        record(self.source.to_run(), self.source.operations, arguments, keywords, watch, keep=False)
        for number, parts in self.places.activations.items():
            self.add_zeros(number, parts, zeros)

    def _where_groups_lie(self) -> list[tuple[str, int, torch.Tensor]]:
        found = {
            (name, number): rows
            for place in self.places.all
            for name, number, rows in self.rows_at(place.reading, place.mask)
        }
        return [(name, number, rows) for (name, number), rows in found.items()]

    # -- gradients

    def add_gates(self, batch: CalibrationBatch) -> None:
        """Add a batch to the sums over gates."""
        for slopes in self.places.slopes(batch, self.objective):
            self.gates.add(slopes)

    def add_squared_gradients(self, image: CalibrationBatch) -> None:
        """Add one image to the curvature."""
        tape, labels = record_batch(self.source, image)
        losses = partial(self.objective.losses, labels=labels)
        add_squared_gradients_(self.curvature, self.network, tape, losses)


def add_squared_gradients_(
    curvature: dict[str, Sums],
    network: Network,
    tape: Tape,
    losses: Callable[[object], torch.Tensor],
) -> None:
    """Add the squared gradients of one image's loss.

    Args:
        curvature: tensor name -> sum so far, in the tensor's shape.
        network: the traced network.
        tape: run on the image.
        losses: maps the run's outputs to its loss.
    """
    source = source_of(network)
    wanted = {
        id(tensor): (name, tensor)
        for name, tensor in source.tensors.items()
        if network.tensors[name].is_parameter and tensor.is_floating_point()
    }
    leaves: dict[str, torch.Tensor] = {}

    def find(tensor: torch.Tensor) -> torch.Tensor:
        name, _ = wanted.get(id(tensor), ("", None))
        if not name:
            return detach(tensor)
        return leaves.setdefault(name, tensor.detach().requires_grad_())

    with autograd():
        loss = losses(replay(tape, lambda _, call: call, find)).sum()
        found = (
            torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
            if loss.requires_grad
            else [None] * len(leaves)
        )
    for name, _ in wanted.values():
        curvature.setdefault(name, np.zeros(source.tensors[name].shape))
    for name, slope in zip(leaves, found, strict=True):
        if slope is not None:
            curvature[name] += np.square(as_numbers(slope))


def strength_of(call: Call, mask: Mask) -> NDArray[np.float64]:
    """Squared norm of the consumer's weight at each index that it reads, shape (indices,).

    Ones where no weight is involved.
    """
    length = len(mask.units)
    ones = np.ones(length)
    if "weight" in call.named and mask.operand == 0:
        squares = call["weight"].detach().double().square()
        if call.packet is aten.linear:
            return as_numbers(squares.sum(0)) if squares.dim() == 2 else as_numbers(squares)
        groups = call.get("groups", 1)
        if call.get("transposed") or "conv_transpose" in call.name:
            return as_numbers(squares.flatten(1).sum(1))
        inside = squares.flatten(2).sum(2)  # (filters, channels of their group)
        return as_numbers(inside.unflatten(0, (groups, -1)).sum(1).flatten())
    tensors = call.tensors()
    other = tensors[mask.operand + 1] if mask.operand + 1 < len(tensors) else None
    if call.packet in (aten.matmul, aten.mm, aten.addmm) and other is not None and other.dim() == 2:
        return as_numbers(other.detach().double().square().sum(1))
    return ones
