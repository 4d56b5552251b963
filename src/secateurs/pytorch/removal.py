"""Running a network without one channel, many times over, as cheaply as that can be exact.

Removing a channel changes nothing before the first operation that reads it, so everything up to
there is taken from one dense run (prefix caching). That first operation is linear in what it reads:
what it gives without the channel is what it gave, less one summand, and the summand is a
convolution of one channel, or an outer product. On images where the channel is zero wherever it is
read, nothing changes at all, so they are left out. What remains are pairs of a channel and an
image; they go through the rest of the network together, whatever their channels, in batches as
large as suits the machine, with batch normalisation folded into the convolutions before it.

Where a model does not allow that (images that cannot be told apart, operations that mix channels),
its channels are removed one by one, as the masked twin does, from the first consumer on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from secateurs.channels.labels import Ids
from secateurs.channels.network import Group, Network
from secateurs.criteria.calibration import Batch
from secateurs.criteria.gathered import part_of
from secateurs.pytorch.calls import Call, tensors_in
from secateurs.pytorch.counted import aten
from secateurs.pytorch.objective import Objective, on_device
from secateurs.pytorch.operations import Operation
from secateurs.pytorch.proof import MaskedTwin
from secateurs.pytorch.tape import (
    Input,
    Length,
    Program,
    Ref,
    Rows,
    Source,
    Step,
    Tape,
    filled,
    last_readers,
    operands_in,
    record,
    rows_between,
    with_operands,
)
from secateurs.pytorch.trace import traced

NUMBERS_AT_A_TIME = 2**20
"""Numbers in the largest value of a batch of pairs: as many as stay near the processor."""

MOST_PAIRS = 4096

CONVOLUTIONS = {aten.conv1d, aten.conv2d, aten.conv3d, aten.convolution}
PRODUCTS = {aten.linear, aten.addmm, aten.mm, aten.matmul}
MAKE_NEW = CONVOLUTIONS | PRODUCTS | {aten.batch_norm, aten.add, aten.mul, aten.sub, aten.relu}
"""Operations whose result shares no memory with anything."""


@dataclass(eq=False, slots=True)
class Dense:
    """The dense network's run on one batch.

    Attributes:
        tape: what every operation gave.
        labels: of the images, where the model is.
        losses: of the images.
        right: which images are classified right; None where labels are not classes.
        classes: how many classes the outputs score; 0 where labels are not classes.
    """

    tape: Tape
    labels: torch.Tensor | None
    losses: torch.Tensor
    right: torch.Tensor | None
    classes: int
    _laid_out: dict[Source, torch.Tensor] = field(default_factory=dict)
    _nonzero: dict[tuple[Source, int], torch.Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.losses)

    def value(self, source: Source) -> torch.Tensor:
        """A recorded value; images with their channels last, which convolutions like best."""
        known = self._laid_out.get(source)
        if known is None:
            known = channels_last(self.tape.find(source))
            self._laid_out[source] = known
        return known

    def nonzero(self, source: Source, axis: int, rows: Rows) -> torch.Tensor:
        """Where along an axis each image has a value other than zero; (images, indices)."""
        key = (source, axis)
        if key not in self._nonzero:
            value = self.tape.find(source).movedim((rows.axis, axis), (0, 1))
            value = value.unflatten(0, (-1, rows.each)).movedim(2, 1)
            self._nonzero[key] = (value != 0).flatten(2).any(2)
        return self._nonzero[key]


@dataclass(frozen=True, eq=False, slots=True)
class Changes:
    """What removing channels did, image by image.

    Attributes:
        loss: change of the loss, shape (channels, images), double.
        right: 1 where an image is now classified right and was not, -1 the other way round.
    """

    loss: torch.Tensor
    right: torch.Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Read:
    """Where one step reads a group's channels.

    Attributes:
        operand: which of its tensor arguments.
        axis: along which axis of it.
        index: the indices of each channel, shape (channels, each).
    """

    operand: int
    axis: int
    index: torch.Tensor


@dataclass(eq=False, slots=True)
class Route:
    """How a group's channels reach the output.

    Attributes:
        steps: the steps that depend on the group's channels, in order.
        reads: step number -> where it reads them.
        subtract: numbers of steps that read them from values that do not depend on them yet, and
            are linear: their results are less one summand.
        in_place: numbers of steps that may write over their first operand.
        drop: step number -> values that nobody reads after it.
        ends: whether the output depends on them at all.
        numbers: in the largest value a pair needs.
    """

    steps: list[Step]
    reads: dict[int, list[Read]]
    subtract: set[int]
    in_place: set[int]
    drop: dict[int, list[Ref]]
    ends: bool
    numbers: int


class Removals:
    """Removes channels of a network one at a time and says what that does to each image's loss.

    Args:
        network: as traced; its model comes back exactly as it was.
        objective: the loss.
        first: some images, to learn from how the model treats them.
    """

    def __init__(self, network: Network, objective: Objective, first: Batch) -> None:
        self.network = network
        self.objective = objective
        self.source = traced(network)
        tapes = [self._record(first.rows(np.arange(number) % len(first)))[0] for number in (2, 3)]
        self._rows = rows_between(*tapes)
        self._sample = tapes[0]
        self._program = Program.between(*tapes)
        self._steps: list[Step] = []
        self._reading: dict[int, int] = {}
        if self._program is not None:
            self._steps, self._reading = _folded(self._program)
        self._routes: dict[str, Route | None] = {}

    # -- the dense run

    def _record(self, batch: Batch) -> tuple[Tape, torch.Tensor | None]:
        arguments, keywords, labels = on_device(batch, self.source.model)
        tape = record(self.source.model, self.source.operations, arguments, keywords)
        return tape, labels

    def dense(self, batch: Batch) -> Dense:
        """The dense network's run on a batch."""
        tape, labels = self._record(batch)
        with torch.inference_mode():
            outputs = filled(tape.output, tape.find)
            losses = self.objective.losses(outputs, labels).double()
            right = self.objective.right(outputs, labels)
            return Dense(tape, labels, losses, right, 0 if right is None else outputs.shape[1])

    # -- without channels

    def without(self, dense: Dense, group: Group, channels: Ids) -> Changes:
        """Remove each of these channels of a group, one at a time, on a batch.

        Args:
            dense: the dense network's run on the batch.
            group: whose channels.
            channels: which of them.
        """
        changes = Changes(
            torch.zeros((len(channels), len(dense)), dtype=torch.float64),
            torch.zeros((len(channels), len(dense)), dtype=torch.int8),
        )
        route = self._route(group)
        with torch.inference_mode():
            if route is None:
                for place, channel in enumerate(channels.tolist()):
                    outputs = self._twin(dense, group, channel)
                    self._compare(dense, outputs, None, (changes, place, slice(None)))
            elif route.ends:
                for pairs in self._pairs(dense, group, route, channels):
                    outputs = self._run(dense, route, pairs)
                    at = (changes, pairs.places, pairs.images)
                    self._compare(dense, outputs, pairs.images, at)
        return changes

    def _compare(
        self, dense: Dense, outputs: Any, images: torch.Tensor | None, at: tuple[Changes, Any, Any]
    ) -> None:
        """Write down what became of these images' losses."""

        def chosen(values: torch.Tensor) -> torch.Tensor:
            return values if images is None else values[images]

        labels = None if dense.labels is None else chosen(dense.labels)
        losses = self.objective.losses(outputs, labels).double()
        changes, places, columns = at
        changes.loss[places, columns] = (losses - chosen(dense.losses)).cpu()
        right = self.objective.right(outputs, labels)
        if right is not None and dense.right is not None:
            gained = right.to(torch.int8) - chosen(dense.right).to(torch.int8)
            changes.right[places, columns] = gained.cpu()

    # -- pairs

    def _pairs(self, dense: Dense, group: Group, route: Route, channels: Ids) -> Iterator[_Pairs]:
        """The pairs of a channel and an image for which anything changes, in batches."""
        chosen = torch.from_numpy(channels)
        active = torch.zeros((len(dense), len(group)), dtype=torch.bool)
        for number, reads in route.reads.items():
            step = self._step(number)
            for read in reads:
                operand = step.operands[read.operand]
                nonzero = dense.nonzero(operand, read.axis, self._rows[operand])
                active |= nonzero.cpu()[:, read.index].any(2)
        places, images = active[:, chosen].T.nonzero(as_tuple=True)
        size = int(np.clip(NUMBERS_AT_A_TIME // max(1, route.numbers), 16, MOST_PAIRS))
        for start in range(0, len(places), size):
            rows = slice(start, start + size)
            yield _Pairs(places[rows], chosen[places[rows]], images[rows])

    def _run(self, dense: Dense, route: Route, pairs: _Pairs) -> Any:
        """The model's output for pairs."""
        values: dict[Ref, torch.Tensor] = {}
        find = self._finder(dense, pairs, values)
        for step in route.steps:
            if step.number in route.subtract:
                output = self._less_one(dense, step, route.reads[step.number][0], pairs)
            else:
                call = step.call(find)
                if step.number in route.reads:
                    call = self._masked(call, step, route.reads[step.number], pairs)
                function = in_place_of(step.function) if step.number in route.in_place else None
                output = (function or call.function)(*call.arguments, **call.keywords)
            for item, tensor in enumerate(tensors_in(output)):
                values[Ref(step.number, item)] = tensor
            for ref in route.drop.get(step.number, ()):
                values.pop(ref, None)
        return filled(self._sample.output, find)

    def _finder(
        self, dense: Dense, pairs: _Pairs, values: dict[Ref, torch.Tensor]
    ) -> Callable[[Any], Any]:
        """What a source is for these pairs: computed for them, or taken from the dense run."""
        taken: dict[Source, torch.Tensor] = {}

        def find(source: Any) -> Any:
            if isinstance(source, Length):
                return source.each * len(pairs)
            if isinstance(source, torch.Tensor):
                return source
            if source in values:
                return values[source]
            if source not in self._rows:
                return dense.tape.find(source)
            if source not in taken:
                taken[source] = select(dense.value(source), self._rows[source], pairs.images)
            return taken[source]

        return find

    def _masked(self, call: Call, step: Step, reads: Sequence[Read], pairs: _Pairs) -> Call:
        """The operation with each pair's channel taken as zero."""
        changes: dict[int, torch.Tensor] = {}
        tensors = call.tensors()
        for read in reads:
            operand = changes.get(read.operand)
            if operand is None:
                operand = changes[read.operand] = tensors[read.operand].clone()
            rows = self._rows[step.operands[read.operand]]
            axis = read.axis + (read.axis > rows.axis)
            by_pair = operand.unflatten(rows.axis, (len(pairs), rows.each))
            by_pair = by_pair.movedim((rows.axis, axis), (0, 1))
            own = torch.arange(len(pairs))[:, None]
            by_pair[own, read.index[pairs.channels]] = 0
        return with_operands(call, changes)

    def _less_one(self, dense: Dense, step: Step, read: Read, pairs: _Pairs) -> torch.Tensor:
        """What a linear step gives without each pair's channel: what it gave, less one summand."""
        ref = Ref(step.number)
        output = select(dense.value(ref), self._rows[ref], pairs.images)
        operand = dense.value(step.operands[read.operand])
        call = Call(step.function, step.arguments, step.keywords)
        if call.packet not in CONVOLUTIONS and read.index.shape[1] == 1:
            weight = _inputs_first(call)
            column = read.index[pairs.channels, 0]
            values = operand[pairs.images, ..., column]
            by_output = weight[column].reshape(len(pairs), *[1] * (values.dim() - 1), -1)
            return output.addcmul_(values[..., None], by_output, value=-1)
        for channel, rows in pairs.runs():
            index = read.index[channel]
            # Narrowed first: to select along the channels would lay all of the operand out anew.
            slices = [operand.narrow(read.axis, place, 1) for place in index.tolist()]
            part = torch.cat(slices, read.axis).index_select(0, pairs.images[rows])
            output[rows] -= _summand(call, part, index)
        return output

    # -- one by one

    def _twin(self, dense: Dense, group: Group, channel: int) -> Any:
        """The model's output for the whole batch without one channel, as the masked twin has it."""
        network, tape = self.network, dense.tape
        stays = network.solution.kept(network.alive([group.channels[channel]]))
        twin = MaskedTwin(self.source.operations, stays)
        steps = tape.steps
        if tape.resumable:
            touched = {n for n, o in enumerate(self.source.operations) if _touches(o, stays)}
            steps = depending_on(tape.steps, touched)
        values: dict[Ref, torch.Tensor] = {}

        def find(source: Any) -> Any:
            return values[source] if source in values else tape.find(source)

        for step in steps:
            output = twin.do(step.call(find), self.source.operations[step.number])
            for item, tensor in enumerate(tensors_in(output)):
                values[Ref(step.number, item)] = tensor
        return filled(tape.output, lambda source: values.get(source, tape.find(source)))

    # -- routes

    def price(self, group: Group) -> float:
        """About how much work it is to remove one of the group's channels on one image."""
        route = self._route(group)
        steps = self._sample.steps if route is None else route.steps
        skipped = set() if route is None else route.subtract
        return 1.0 + sum(self._macs(step) for step in steps if step.number not in skipped)

    def _macs(self, step: Step) -> float:
        call = Call(step.function, step.arguments, step.keywords)
        weight = call.get("weight") if call.packet in CONVOLUTIONS | {aten.linear} else None
        if not isinstance(weight, torch.Tensor):
            return 0.0
        return self._sample.values[Ref(step.number)].numel() / 2 * weight[0].numel()

    def _step(self, number: int) -> Step:
        return next(step for step in self._steps if step.number == number)

    def _route(self, group: Group) -> Route | None:
        """The group's route; None where its channels have to be removed one by one."""
        if group.name not in self._routes:
            self._routes[group.name] = self._found_route(group)
        return self._routes[group.name]

    def _found_route(self, group: Group) -> Route | None:
        if self._program is None or self._is_mixed(group):
            return None
        reads: dict[int, list[Read]] = {}
        for step in self._steps:
            operation = self.source.operations[self._reading.get(step.number, step.number)]
            for mask in operation.masks:
                part = part_of(self.network, group, mask.units)
                if not len(part):
                    continue
                rows = self._rows.get(step.operands[mask.operand])
                if part.rows is None or rows is None or rows.axis == mask.axis:
                    return None
                index = torch.from_numpy(part.rows)
                if not self._is_idle(group, step, operation, part.rows):
                    reads.setdefault(step.number, []).append(Read(mask.operand, mask.axis, index))
        steps = depending_on(self._steps, set(reads))
        changed = {Ref(step.number, item) for step in steps for item in range(step.results)}
        if any(ref not in self._rows for ref in changed):
            return None
        subtract = {
            step.number
            for step in steps
            if step.number in reads
            and not changed.intersection(step.reads)
            and self._is_linear(step, reads[step.number])
        }
        largest = max((self._sample.values[ref].numel() // 2 for ref in changed), default=0)
        return Route(
            steps,
            reads,
            subtract,
            {step.number for step in steps if self._may_overwrite(step, steps, changed)},
            last_readers(steps, self._sample.output),
            not changed.isdisjoint(operands_in(self._sample.output)),
            largest,
        )

    def _is_mixed(self, group: Group) -> bool:
        """Whether an operation's result for a channel depends on which others there are."""
        stays = self.network.solution.kept(self.network.alive(group.channels))
        return any(
            not stays[units].all()
            for operation in self.source.operations
            for _, axes in operation.mixed
            for units in axes.values()
        )

    def _is_idle(self, group: Group, step: Step, operation: Operation, index: Ids) -> bool:
        """Whether what a step reads of a channel only goes to that same channel.

        A depthwise convolution reads a channel to make the channel: it need not be masked, as
        everything that reads what it makes is.
        """
        call = Call(step.function, step.arguments, step.keywords)
        groups = call.get("groups", 1)
        if call.packet not in CONVOLUTIONS or groups == 1 or call.get("transposed"):
            return False
        units = operation.outputs[0][1].get(1)
        made = None if units is None else part_of(self.network, group, units)
        if made is None:
            return False
        filters, inside = call["weight"].shape[:2]
        each = filters // groups
        own = np.zeros((len(group), filters), bool)
        own[made.channel, made.index] = True
        outputs = (index // inside)[:, :, None] * each + np.arange(each)
        reached = np.zeros_like(own)
        np.put_along_axis(reached, outputs.reshape(len(group), -1), True, axis=1)
        return bool((own | ~reached).all())

    def _is_linear(self, step: Step, reads: Sequence[Read]) -> bool:
        """Whether the step's result is a sum over what it reads, with a weight of the model's."""
        call = Call(step.function, step.arguments, step.keywords)
        if len(reads) > 1 or call.packet not in CONVOLUTIONS | PRODUCTS:
            return False
        operand, result = step.operands[reads[0].operand], Ref(step.number)
        if any(self._rows[source] != Rows(0) for source in (operand, result)):
            return False
        if call.packet in CONVOLUTIONS:
            plain = call.get("groups", 1) == 1 and not call.get("transposed")
            return plain and isinstance(call["weight"], torch.Tensor) and reads[0].axis == 1
        weight = _weight_of(call)
        plain = not {"alpha", "beta"} & call.keywords.keys()
        return plain and isinstance(weight, torch.Tensor) and weight.dim() == 2

    def _may_overwrite(self, step: Step, steps: Sequence[Step], changed: set[Ref]) -> bool:
        """Whether the step may write over its first operand, which is new and read by it alone."""
        if in_place_of(step.function) is None or not step.reads:
            return False
        first = step.operands[0]
        if first not in changed or first in set(operands_in(self._sample.output)):
            return False
        maker = next(s for s in steps if s.number == first.step)
        alone = sum(s.reads.count(first) for s in steps) == 1
        result = self._sample.values.get(Ref(step.number))
        old = self._sample.values.get(first)
        same = (
            result is not None
            and old is not None
            and result.shape == old.shape
            and result.dtype == old.dtype
        )
        return alone and same and maker.function.overloadpacket in MAKE_NEW


@dataclass(frozen=True, eq=False, slots=True)
class _Pairs:
    """Pairs of a channel and an image, by channel.

    Attributes:
        places: the channel's place among those asked for.
        channels: the channel's number in its group.
        images: the image's number in the batch.
    """

    places: torch.Tensor
    channels: torch.Tensor
    images: torch.Tensor

    def __len__(self) -> int:
        return len(self.images)

    def runs(self) -> Iterator[tuple[int, slice]]:
        """Each channel, and where its pairs are."""
        channels, counts = torch.unique_consecutive(self.channels, return_counts=True)
        start = 0
        for channel, count in zip(channels.tolist(), counts.tolist(), strict=True):
            yield channel, slice(start, start + count)
            start += count


def depending_on(steps: Sequence[Step], first: set[int]) -> list[Step]:
    """The steps numbered in ``first`` and all that depend on what they give."""
    changed: set[Any] = set()
    found = []
    for step in steps:
        if step.number in first or not changed.isdisjoint(step.reads):
            changed.update(Ref(step.number, item) for item in range(step.results))
            found.append(step)
    return found


def channels_last(value: torch.Tensor) -> torch.Tensor:
    """The same values, with the channels of images next to each other in memory."""
    return value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value


def select(value: torch.Tensor, rows: Rows, images: torch.Tensor) -> torch.Tensor:
    """A new tensor of these images' values, in the same memory layout."""
    if value.dim() == 4 and rows == Rows(0):  # index_select would lay it out anew
        return value.permute(0, 2, 3, 1).index_select(0, images).permute(0, 3, 1, 2)
    return rows.select(value, images)


def in_place_of(function: Any) -> Any:
    """``aten.relu_`` for ``aten.relu``; None where there is none."""
    packet = getattr(aten, f"{function._schema.name.partition('::')[2]}_", None)
    return getattr(packet, function._overloadname, None) if packet is not None else None


def _touches(operation: Operation, stays: Any) -> bool:
    arrays = [mask.units for mask in operation.masks]
    arrays += [units for _, axes in operation.mixed for units in axes.values()]
    return any(not stays[units].all() for units in arrays)


def _weight_of(call: Call) -> Any:
    return call["weight"] if call.packet is aten.linear else call.arguments[-1]


def _inputs_first(call: Call) -> torch.Tensor:
    """The weight of a matrix product as (inputs, outputs)."""
    weight: torch.Tensor = _weight_of(call).detach()
    return weight.T if call.packet is aten.linear else weight


def _summand(call: Call, part: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """What some input channels add to the result of a convolution or matrix product."""
    if call.packet in CONVOLUTIONS:
        weight = channels_last(call["weight"].detach().index_select(1, index))
        small = call.changed(input=channels_last(part), weight=weight, bias=None)
        result: torch.Tensor = small.run()
        return result
    return part @ _inputs_first(call).index_select(0, index)


def _folded(program: Program) -> tuple[list[Step], dict[int, int]]:
    """The program's steps, with batch normalisation folded into the convolution before it.

    Returns:
        (steps, number of a folded step -> number of the operation whose channels it reads)
    """
    readers: dict[Any, int] = {}
    everything = [s for step in program.steps for s in step.reads]
    for source in [*everything, *operands_in(program.output)]:
        readers[source] = readers.get(source, 0) + 1
    by_number = {step.number: step for step in program.steps}
    gone: set[int] = set()
    folded: dict[int, Step] = {}
    for step in program.steps:
        first = step.operands[0] if step.reads else None
        if not isinstance(first, Ref) or readers[first] > 1:
            continue
        merged = _merged(by_number[first.step], step)
        if merged is not None:
            gone.add(first.step)
            folded[step.number] = merged
    steps = [folded.get(s.number, s) for s in program.steps if s.number not in gone]
    return steps, {number: by_number[number].operands[0].step for number in folded}


def _merged(convolution: Step, norm: Step) -> Step | None:
    """One convolution that does both; None where these are not such a pair."""
    first = Call(convolution.function, convolution.arguments, convolution.keywords)
    second = Call(norm.function, norm.arguments, norm.keywords)
    if first.packet not in CONVOLUTIONS or second.packet is not aten.batch_norm:
        return None
    weight, mean, variance = first["weight"], second.get("running_mean"), second.get("running_var")
    bias, scale, shift = first.get("bias"), second.get("weight"), second.get("bias")
    fixed = all(isinstance(value, torch.Tensor) for value in (weight, mean, variance))
    if second["training"] or not fixed or first.get("transposed"):
        return None
    if any(isinstance(value, Ref | Input) for value in (bias, scale, shift)):
        return None
    factor = torch.rsqrt(variance.detach().double() + second["eps"])
    factor = factor if scale is None else factor * scale.detach().double()
    offset = (0.0 if bias is None else bias.detach().double()) - mean.detach().double()
    offset = offset * factor if shift is None else offset * factor + shift.detach().double()
    weight = weight.detach()
    shape = (-1, *[1] * (weight.dim() - 1))
    keywords = first.named | {
        "weight": channels_last((weight.double() * factor.reshape(shape)).to(weight.dtype)),
        "bias": offset.to(weight.dtype),
    }
    return Step(norm.number, convolution.function, (), keywords, norm.results)
