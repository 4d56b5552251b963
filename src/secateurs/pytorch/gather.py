"""One pass of calibration data through a PyTorch model, for all that criteria ask of it.

What is looked at are the operands that consumers read: the places where the trace noted masks.
Sums of values are taken while the model runs; gradients come from playing its tape again under
autograd, with a gate of ones on each operand, so the user's model, its modes, its gradients and
what it keeps frozen are not touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from secateurs.channels.labels import Ids
from secateurs.channels.network import Network
from secateurs.channels.tensors import Mask
from secateurs.criteria.calibration import Batch, batches
from secateurs.criteria.gathered import Gathered
from secateurs.criteria.gathering import Gathering
from secateurs.criteria.registry import Need
from secateurs.criteria.removing import ExactAblation
from secateurs.pytorch.calls import Call
from secateurs.pytorch.counted import aten
from secateurs.pytorch.objective import Loss, Objective, on_device
from secateurs.pytorch.removal import Removals
from secateurs.pytorch.tape import (
    Rows,
    Source,
    Step,
    Tape,
    play,
    record,
    rows_between,
    with_operands,
)
from secateurs.pytorch.trace import TracedModel, traced


def gather(
    network: Network, needs: Need, data: Any, *, loss: Loss | None = None, who: str = "gather"
) -> Gathered:
    """All that these needs take, in one pass over the calibration data and in bounded memory.

    Args:
        network: as ``trace`` made it; its model comes back exactly as it was.
        needs: what to gather.
        data: calibration data, as ``secateurs.criteria.calibration.batches`` takes them.
        loss: (outputs, labels) -> one loss for each image; None is cross-entropy.
        who: what needs it, for messages.

    Raises:
        DataError: the data cannot be used; the message says why and what would help.
    """
    source = traced(network)
    objective = Objective(loss, who)
    labels = bool(needs & Need.LOSS) and objective.needs_labels
    stream = batches(data, source.example_inputs, who, labels=labels)
    first = next(stream)  # there is one, or it has raised
    work = Pass(network, needs, objective, first)
    work.add(first)
    for batch in stream:
        work.add(batch)
    return work.gathered()


@dataclass(frozen=True, slots=True)
class Place:
    """One operand that a consumer reads channels of.

    Attributes:
        step: the operation's number.
        mask: which operand, along which axis, which units.
        reading: the number of the values that are read; consumers of the same values share it.
        rows: where the images lie in the operand; None where that cannot be told.
    """

    step: int
    mask: Mask
    reading: int
    rows: Rows | None


def places_of(source: TracedModel, batch: Batch) -> list[Place]:
    """Every operand that depends on the images and that a consumer reads channels of.

    Found by recording the model on two and on three images.
    """
    tapes = [_recorded(source, batch.rows(np.arange(number) % len(batch)))[0] for number in (2, 3)]
    rows = rows_between(*tapes)
    live = tapes[0].depending_on_inputs()
    numbers: dict[tuple[Source, int, bytes], int] = {}
    places = []
    for step in tapes[0].steps:
        for mask in source.operations[step.number].masks:
            operand = step.operands[mask.operand]
            if operand in live:
                key = (operand, mask.axis, mask.units.tobytes())
                number = numbers.setdefault(key, len(numbers))
                places.append(Place(step.number, mask, number, rows.get(operand)))
    return places


def _recorded(source: TracedModel, batch: Batch) -> tuple[Tape, torch.Tensor | None]:
    """The model's tape on a batch, and the batch's labels."""
    arguments, keywords, labels = on_device(batch, source.model)
    return record(source.model, source.operations, arguments, keywords), labels


@dataclass(eq=False)
class Pass(Gathering):
    """The sums of one pass, batch by batch.

    Attributes:
        objective: the loss.
        first: the first batch, to learn from how the model treats images.
    """

    objective: Objective
    first: Batch

    def __post_init__(self) -> None:
        super().__post_init__()
        self.source = traced(self.network)
        self.places = places_of(self.source, self.first)
        self.ablation = ExactAblation(self.network, partial(Removals, self.network, self.objective))
        self._at: dict[int, list[Place]] = {}
        for place in self.places:
            self._at.setdefault(place.step, []).append(place)
        self._rows_of_groups = self._where_groups_lie() if self.needs & Need.GRAMS else []

    # -- values

    def add_values(self, batch: Batch) -> None:
        """Add to the readings, the grams or both, as is needed."""
        arguments, keywords, _ = on_device(batch, self.source.model)
        fresh = not self.readings
        seen: set[int] = set()

        def watch(number: int, call: Call) -> None:
            tensors = call.tensors()
            for place in self._at.get(number, ()):
                if fresh:
                    layer = self.source.operations[number].layer
                    strength = _strength(call, place.mask)
                    self.note_reader(place.reading, layer, place.mask.units, strength)
                if place.reading not in seen:
                    seen.add(place.reading)
                    self._sum_operand(place, tensors[place.mask.operand])

        record(self.source.model, self.source.operations, arguments, keywords, watch, keep=False)

    def _sum_operand(self, place: Place, operand: torch.Tensor) -> None:
        values = operand.movedim(place.mask.axis, -1).flatten(0, -2)
        if self.needs & Need.ACTIVATIONS:
            self.readings[place.reading].add(
                len(values),
                _numpy((values == 0).sum(0)),
                _numpy(values.abs().sum(0, dtype=torch.float64)),
                _numpy(values.sum(0, dtype=torch.float64)),
                _numpy(values.square().sum(0, dtype=torch.float64)),
            )
        for name, number, rows in self._rows_of_groups:
            if number == place.reading:
                self._sum_products(name, number, values[:, rows.T.flatten()], rows.shape)

    def _where_groups_lie(self) -> list[tuple[str, int, torch.Tensor]]:
        """(group, reading, indices of each channel) where a group's channels are read."""
        found: dict[tuple[str, int], torch.Tensor] = {}
        for place in self.places:
            for name, rows in self.groups_among(place.mask.units):
                found[name, place.reading] = torch.from_numpy(rows)
        return [(name, number, rows) for (name, number), rows in found.items()]

    def _sum_products(
        self, name: str, number: int, values: torch.Tensor, shape: Sequence[int]
    ) -> None:
        channels, each = shape
        table = values.reshape(-1, each, channels).flatten(0, 1).double()
        self.add_products(name, number, len(table), _numpy(table.sum(0)), _numpy(table.T @ table))

    # -- gradients

    def add_gates(self, batch: Batch) -> None:
        """Add to the gates."""
        if any(place.rows is None or place.rows.axis == place.mask.axis for place in self.places):
            # Nobody can tell whose gradient is whose in such a batch; alone, every image can.
            for image in range(len(batch)):
                self.gates.add(self._gradients(batch.rows(slice(image, image + 1)), whole=True))
        else:
            self.gates.add(self._gradients(batch, whole=False))

    def _gradients(self, batch: Batch, *, whole: bool) -> list[tuple[Ids, NDArray[Any]]]:
        """(units, derivative of each image's loss with respect to each index's gate) by reading.

        Args:
            batch: the images.
            whole: whether they count as one.
        """
        tape, labels = _recorded(self.source, batch)
        gated = _Gated(self._at, 1 if whole else len(batch), whole)
        with _autograd():
            outputs = play(tape, gated.change, _own)
            loss = self.objective.losses(outputs, labels).sum()
            gates = list(gated.gates.values())
            found = (
                torch.autograd.grad(loss, gates, allow_unused=True)
                if loss.requires_grad
                else [None] * len(gates)
            )
        units = {place.reading: place.mask.units for place in self.places}
        return [
            (units[number], _numpy(torch.zeros_like(gate) if slope is None else slope))
            for (number, gate), slope in zip(gated.gates.items(), found, strict=True)
        ]

    def add_squared_gradients(self, image: Batch) -> None:
        """Add to the curvature; of one image."""
        tape, labels = _recorded(self.source, image)
        wanted = {
            id(tensor): (name, tensor)
            for name, tensor in self.source.tensors.items()
            if self.network.tensors[name].is_parameter and tensor.is_floating_point()
        }
        own: dict[str, torch.Tensor] = {}

        def find(tensor: torch.Tensor) -> torch.Tensor:
            name, _ = wanted.get(id(tensor), ("", None))
            if not name:
                return _own(tensor)
            return own.setdefault(name, tensor.detach().requires_grad_())

        with _autograd():
            loss = self.objective.losses(play(tape, lambda _, call: call, find), labels).sum()
            found = (
                torch.autograd.grad(loss, list(own.values()), allow_unused=True)
                if loss.requires_grad
                else [None] * len(own)
            )
        for name, _ in wanted.values():
            self.curvature.setdefault(name, np.zeros(self.source.tensors[name].shape))
        for name, slope in zip(own, found, strict=True):
            if slope is not None:
                self.curvature[name] += np.square(_numpy(slope))


@dataclass(eq=False)
class _Gated:
    """Puts a gate of ones on what consumers read, one for each reading.

    Attributes:
        at: operation number -> what it reads.
        images: in the batch.
        whole: whether all images share a gate.
        gates: reading -> its gate, of shape (images, indices).
    """

    at: dict[int, list[Place]]
    images: int
    whole: bool
    gates: dict[int, torch.Tensor] = field(default_factory=dict)
    _gated: dict[int, torch.Tensor] = field(default_factory=dict)

    def change(self, step: Step, call: Call) -> Call:
        """The operation with gates on what it reads."""
        changes: dict[int, torch.Tensor] = {}
        for place in self.at.get(step.number, ()):
            number = place.mask.operand
            if number in changes:  # two axes of one operand: a second gate on the first
                changes[number] = changes[number] * self._factor(place, changes[number])
                continue
            if place.reading not in self._gated:
                operand = call.tensors()[number]
                self._gated[place.reading] = operand * self._factor(place, operand)
            changes[number] = self._gated[place.reading]
        return with_operands(call, changes) if changes else call

    def _factor(self, place: Place, operand: torch.Tensor) -> torch.Tensor:
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
def _autograd() -> Iterator[None]:
    """Gradients, whatever the caller has switched off."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        yield


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the model's or the user's that takes no gradient here."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def _strength(call: Call, mask: Mask) -> NDArray[np.float64]:
    """For each index of what is read, the squared norm of what the consumer's weight does with it.

    1 where no weight meets it.
    """
    length = len(mask.units)
    ones = np.ones(length)
    if "weight" in call.named and mask.operand == 0:
        squares = call["weight"].detach().double().square()
        if call.packet is aten.linear:
            return _numpy(squares.sum(0)) if squares.dim() == 2 else _numpy(squares)
        groups = call.get("groups", 1)
        if call.get("transposed") or "conv_transpose" in call.name:
            return _numpy(squares.flatten(1).sum(1))
        inside = squares.flatten(2).sum(2)  # (filters, channels of their group)
        return _numpy(inside.unflatten(0, (groups, -1)).sum(1).flatten())
    tensors = call.tensors()
    other = tensors[mask.operand + 1] if mask.operand + 1 < len(tensors) else None
    if call.packet in (aten.matmul, aten.mm, aten.addmm) and other is not None and other.dim() == 2:
        return _numpy(other.detach().double().square().sum(1))
    return ones


def _numpy(tensor: torch.Tensor) -> NDArray[np.float64]:
    values: NDArray[np.float64] = tensor.detach().double().cpu().numpy()
    return values
