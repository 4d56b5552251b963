"""Run a network without one channel, many times over, at the lowest exact cost.

Removing a channel changes nothing before the first operation that reads it, so everything up to
there is taken from one dense run (prefix caching). That first operation is linear in what it reads:
its result without the channel is the dense result minus one contribution, which is a convolution of
one channel, or an outer product. On images where the channel is zero wherever it is read, nothing
changes at all, so these are skipped. What remains are pairs of a channel and an image. Pairs of
different channels go through the rest of the network together, in batches of a size that suits the
machine, with batch normalisation folded into the convolutions before it.

Where a model does not allow that (images that cannot be separated, operations that mix channels),
its channels are removed one by one, as in the masked twin, from the first consumer on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.statistics import Gates
from secateurs.channels.arrays import Sums
from secateurs.channels.equations import Ids
from secateurs.channels.network import Group, Network
from secateurs.pytorch.ablation.contributions import subtract_
from secateurs.pytorch.ablation.downstream import (
    DownstreamPath,
    DownstreamRead,
    Routes,
    channels_last,
    depending_on,
    in_place_of,
)
from secateurs.pytorch.proof.masked_twin import MaskedTwin
from secateurs.pytorch.replay.tape import (
    ImageAxis,
    Length,
    Memory,
    Operand,
    Ref,
    Slot,
    Step,
    Tape,
    fill,
    with_operands,
)
from secateurs.pytorch.statistics.gates import ReadSites, record_batch, runs_of_two_and_three
from secateurs.pytorch.statistics.loss import PerExampleLoss
from secateurs.pytorch.trace_model import source_of
from secateurs.pytorch.tracing.op_call import Call, iterate_tensors
from secateurs.pytorch.tracing.op_record import OpRecord

NUMBERS_AT_A_TIME = 2**20
"""Elements in the largest value of a batch of pairs, so that it stays in the CPU's cache."""

MOST_PAIRS = 4096
"""Maximum number of pairs in a batch."""

Index = int | slice | torch.Tensor
"""Indices of rows or columns of a table."""


@dataclass(eq=False, slots=True)
class DenseBatch:
    """The dense network's run on one batch.

    Attributes:
        batch: the batch.
        tape: recorded run, with every result.
        labels: labels of the images, on the model's device.
        losses: loss of each image, shape (images,).
        right: which images are classified correctly; None where labels are not classes.
        classes: number of classes that the outputs score; 0 where labels are not classes.
    """

    batch: CalibrationBatch
    tape: Tape
    labels: torch.Tensor | None
    losses: torch.Tensor
    right: torch.Tensor | None
    classes: int
    _laid_out: dict[Operand, torch.Tensor] = field(default_factory=dict)
    _nonzero: dict[tuple[Operand, int], torch.Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.losses)

    def value(self, source: Operand) -> torch.Tensor:
        """A recorded value; images in channels-last format, in which convolutions are fastest."""
        known = self._laid_out.get(source)
        if known is None:
            known = channels_last(self.tape.find(source))
            self._laid_out[source] = known
        return known

    def nonzero(self, source: Operand, axis: int, rows: ImageAxis) -> torch.Tensor:
        """Whether each image has a nonzero value at each index of an axis; (images, indices)."""
        key = (source, axis)
        if key not in self._nonzero:
            value = self.tape.find(source).movedim((rows.axis, axis), (0, 1))
            value = value.unflatten(0, (-1, rows.each)).movedim(2, 1)
            self._nonzero[key] = (value != 0).flatten(2).any(2)
        return self._nonzero[key]


@dataclass(frozen=True, eq=False, slots=True)
class Changes:
    """Effects of removing channels, image by image.

    Attributes:
        loss: change of the loss, shape (channels, images), double.
        right: 1 where an image becomes correctly classified, -1 where it becomes misclassified,
            shape (channels, images).
    """

    loss: torch.Tensor
    right: torch.Tensor


class Removals:
    """Removes channels of a network one at a time and measures the change of each image's loss.

    Args:
        network: the traced network; its model comes back exactly as it was.
        objective: loss of each image.
        first: images on which the layout of images in the model is found.
    """

    def __init__(
        self, network: Network, objective: PerExampleLoss, first: CalibrationBatch
    ) -> None:
        self.network = network
        self.objective = objective
        self.source = source_of(network)
        tapes = runs_of_two_and_three(self.source, first)
        self.routes = Routes(network, *tapes)
        self.places = ReadSites(network, *tapes)
        self._gates = Gates(network.solution)

    # -- the dense run

    def dense(self, batch: CalibrationBatch) -> DenseBatch:
        """The dense network's run on a batch."""
        tape, labels = record_batch(self.source, batch)
        with torch.inference_mode():
            outputs = fill(tape.output, tape.find)
            losses = self.objective.losses(outputs, labels).double()
            right = self.objective.right(outputs, labels)
            classes = 0
            if right is not None and isinstance(outputs, torch.Tensor):
                classes = outputs.shape[1]
            return DenseBatch(batch, tape, labels, losses, right, classes)

    def slopes(self, dense: DenseBatch) -> Sums:
        """Gradients of each image's loss with respect to a gate on each atom; (images, atoms)."""
        if self.places.by_image:
            losses = partial(self.objective.losses, labels=dense.labels)
            return self._gates.terms(self.places.slopes_of_run(dense.tape, losses, len(dense)))
        slopes = self.places.slopes(dense.batch, self.objective)
        return np.concatenate([self._gates.terms(part) for part in slopes])

    # -- without channels

    def ablate(
        self, dense: DenseBatch, group: Group, channels: Ids, where: NDArray[np.bool_] | None = None
    ) -> Changes:
        """Remove each of these channels of a group, one at a time, on a batch.

        Args:
            dense: dense network's run on the batch.
            group: group of the channels.
            channels: indices of the channels in the group.
            where: mask of the images to run, shape (channels, images); None is all. The results for
                the other images are meaningless.
        """
        changes = Changes(
            torch.zeros((len(channels), len(dense)), dtype=torch.float64),
            torch.zeros((len(channels), len(dense)), dtype=torch.int8),
        )
        route = self.routes.of(group)
        with torch.inference_mode():
            if route is None:
                for place, channel in enumerate(channels.tolist()):
                    outputs = self._twin(dense, group, channel)
                    self._compare(dense, outputs, None, (changes, place, slice(None)))
            elif route.ends:
                for pairs in self.iterate_pairs(dense, group, route, channels, where):
                    outputs = self._run(dense, route, pairs)
                    at = (changes, pairs.places, pairs.images)
                    self._compare(dense, outputs, pairs.images, at)
        return changes

    def supports_subsets(self, group: Group) -> bool:
        """Whether cost scales with the number of images."""
        return self.routes.of(group) is not None

    def cost_per_image(self, group: Group) -> float:
        """Relative cost of removing one of the group's channels on one image."""
        return self.routes.cost_per_image(group)

    def _compare(
        self,
        dense: DenseBatch,
        outputs: object,
        images: torch.Tensor | None,
        at: tuple[Changes, Index, Index],
    ) -> None:
        """Record the changes of these images' losses."""

        def choose(values: torch.Tensor) -> torch.Tensor:
            return values if images is None else values[images]

        labels = None if dense.labels is None else choose(dense.labels)
        losses = self.objective.losses(outputs, labels).double()
        changes, places, columns = at
        changes.loss[places, columns] = (losses - choose(dense.losses)).cpu()
        right = self.objective.right(outputs, labels)
        if right is not None and dense.right is not None:
            gained = right.to(torch.int8) - choose(dense.right).to(torch.int8)
            changes.right[places, columns] = gained.cpu()

    # -- pairs

    def iterate_pairs(
        self,
        dense: DenseBatch,
        group: Group,
        route: DownstreamPath,
        channels: Ids,
        where: NDArray[np.bool_] | None,
    ) -> Iterator[Pairs]:
        """The pairs of a channel and an image for which anything changes, in batches."""
        chosen = torch.from_numpy(channels)
        active = torch.zeros((len(dense), len(group)), dtype=torch.bool)
        for number, reads in route.reads.items():
            step = self.routes.step(number)
            for read in reads:
                operand = step.operands[read.operand]
                nonzero = dense.nonzero(operand, read.axis, self.routes.rows[operand])
                active |= nonzero.cpu()[:, read.index].any(2)
        wanted = active[:, chosen].T
        if where is not None:
            wanted = wanted & torch.from_numpy(where)
        places, images = wanted.nonzero(as_tuple=True)
        size = int(np.clip(NUMBERS_AT_A_TIME // max(1, route.numbers), 16, MOST_PAIRS))
        for start in range(0, len(places), size):
            rows = slice(start, start + size)
            yield Pairs(places[rows], chosen[places[rows]], images[rows])

    def _run(self, dense: DenseBatch, route: DownstreamPath, pairs: Pairs) -> object:
        """The model's outputs for pairs."""
        values: dict[Ref, torch.Tensor] = {}
        value = self._finder(dense, pairs, values)

        def find(source: Slot) -> torch.Tensor | int:
            return source.each * len(pairs) if isinstance(source, Length) else value(source)

        for step in route.steps:
            product = None if step.number in route.reads else self.routes.product(step)
            if step.number in route.subtract:
                output = self._without_channel(dense, step, route.reads[step.number][0], pairs)
            elif product is not None:
                output = product(value(step.operands[0]))
            else:
                call = step.call(find)
                if step.number in route.reads:
                    call = self._mask(call, step, route.reads[step.number], pairs)
                function = in_place_of(step.function) if step.number in route.in_place else None
                output = (function or call.function)(*call.arguments, **call.keywords)
            for item, tensor in enumerate(iterate_tensors(output)):
                values[Ref(step.number, item)] = tensor
            for ref in route.drop.get(step.number, ()):
                values.pop(ref, None)
        return fill(self.routes.sample.output, find)

    def _finder(
        self, dense: DenseBatch, pairs: Pairs, values: dict[Ref, torch.Tensor]
    ) -> Callable[[Operand], torch.Tensor]:
        """A function from a source to its value for these pairs, computed or from the dense run."""
        taken: dict[Operand, torch.Tensor] = {}

        def value(source: Operand) -> torch.Tensor:
            if isinstance(source, torch.Tensor):
                return source
            if isinstance(source, Ref) and source in values:
                return values[source]
            if source not in self.routes.rows:
                return dense.tape.find(source)
            if source not in taken:
                taken[source] = select(dense.value(source), self.routes.rows[source], pairs.images)
            return taken[source]

        return value

    def _mask(self, call: Call, step: Step, reads: Sequence[DownstreamRead], pairs: Pairs) -> Call:
        """The operation with each pair's channel set to zero."""
        changes: dict[int, torch.Tensor] = {}
        tensors = call.tensors()
        for read in reads:
            operand = changes.get(read.operand)
            if operand is None:
                operand = changes[read.operand] = tensors[read.operand].clone()
            rows = self.routes.rows[step.operands[read.operand]]
            axis = read.axis + (read.axis > rows.axis)
            by_pair = operand.unflatten(rows.axis, (len(pairs), rows.each))
            by_pair = by_pair.movedim((rows.axis, axis), (0, 1))
            each_pair = torch.arange(len(pairs))[:, None]
            by_pair[each_pair, read.index[pairs.channels]] = 0
        return with_operands(call, changes)

    def _without_channel(
        self, dense: DenseBatch, step: Step, read: DownstreamRead, pairs: Pairs
    ) -> torch.Tensor:
        """A linear step's result minus the contribution of each pair's channel."""
        ref = Ref(step.number)
        output = select(dense.value(ref), self.routes.rows[ref], pairs.images)
        operand = dense.value(step.operands[read.operand])
        call = Call(step.function, step.arguments, step.keywords)
        subtract_(output, call, operand, pairs.images, read.index[pairs.channels])
        return output

    # -- one by one

    def _twin(self, dense: DenseBatch, group: Group, channel: int) -> object:
        """The model's outputs for the whole batch without one channel, by the masked twin."""
        network, tape = self.network, dense.tape
        stays = network.solution.mark_kept(network.alive([group.channels[channel]]))
        twin = MaskedTwin(self.source.operations, stays)
        steps = tape.steps
        if tape.resumable:
            touched = {n for n, o in enumerate(self.source.operations) if _touches(o, stays)}
            steps = depending_on(tape.steps, touched)
        values: dict[Ref, torch.Tensor] = {}
        memory = Memory(tape.written)

        def find(source: Slot) -> torch.Tensor:
            if isinstance(source, Ref) and source in values:
                return values[source]
            return memory.find(tape.find(source))

        for step in steps:
            output = twin.ignoring_removed(step.call(find), self.source.operations[step.number])
            for item, tensor in enumerate(iterate_tensors(output)):
                values[Ref(step.number, item)] = tensor
        return fill(tape.output, find)


@dataclass(frozen=True, eq=False, slots=True)
class Pairs:
    """Pairs of a channel and an image, ordered by channel.

    Attributes:
        places: index of the channel among those asked for, shape (pairs,).
        channels: index of the channel in its group, shape (pairs,).
        images: index of the image in the batch, shape (pairs,).
    """

    places: torch.Tensor
    channels: torch.Tensor
    images: torch.Tensor

    def __len__(self) -> int:
        return len(self.images)


def select(value: torch.Tensor, rows: ImageAxis, images: torch.Tensor) -> torch.Tensor:
    """A new tensor of these images' values, in the same memory layout."""
    if value.dim() == 4 and rows == ImageAxis(0):  # index_select would change the layout
        return value.permute(0, 2, 3, 1).index_select(0, images).permute(0, 3, 1, 2)
    return rows.select(value, images)


def _touches(operation: OpRecord, stays: NDArray[np.bool_]) -> bool:
    arrays = [mask.units for mask in operation.masks]
    arrays += [units for _, axes in operation.mixed for units in axes.values()]
    return any(not stays[units].all() for units in arrays)
