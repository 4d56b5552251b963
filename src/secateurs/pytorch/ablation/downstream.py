"""The path of a group's channels to the output: steps to rerun, and shortcuts on the way.

It is found once for each group, on a sample of images, and is valid for any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch._ops import OpOverload

from secateurs.calibration.statistics import channel_index
from secateurs.channels.equations import Ids
from secateurs.channels.network import Group, Network
from secateurs.pytorch.ablation.dense_convolution import DenseConvolution, is_mostly_padding
from secateurs.pytorch.replay.tape import (
    BatchedTape,
    ImageAxis,
    Input,
    Operand,
    Ref,
    Step,
    Tape,
    TensorSource,
    last_readers,
    operands_in,
    rows_between,
)
from secateurs.pytorch.trace_model import source_of
from secateurs.pytorch.tracing.interpreter import aten
from secateurs.pytorch.tracing.op_call import Call
from secateurs.pytorch.tracing.op_record import OpRecord

CONVOLUTIONS = {aten.conv1d, aten.conv2d, aten.conv3d, aten.convolution}
PRODUCTS = {aten.linear, aten.addmm, aten.mm, aten.matmul}
MAKE_NEW = CONVOLUTIONS | PRODUCTS | {aten.batch_norm, aten.add, aten.mul, aten.sub, aten.relu}
"""Operations whose result shares no memory with their operands."""


@dataclass(frozen=True, eq=False, slots=True)
class DownstreamRead:
    """An operand from which a step reads a group's channels.

    Attributes:
        operand: index among its tensor arguments.
        axis: axis along which the channels lie.
        index: indices of each channel, shape (channels, each).
    """

    operand: int
    axis: int
    index: torch.Tensor


@dataclass(eq=False, slots=True)
class DownstreamPath:
    """The path of a group's channels to the output.

    Attributes:
        steps: steps that depend on the group's channels, in order.
        reads: step number -> operands from which it reads them.
        subtract: numbers of linear steps that read them from values of the dense run: each pair's
            result is the dense one minus one channel's contribution.
        in_place: numbers of steps that may overwrite their first operand.
        drop: step number -> values that no later step reads.
        ends: whether the output depends on the channels at all.
        numbers: number of elements in the largest value of a pair.
    """

    steps: list[Step]
    reads: dict[int, list[DownstreamRead]]
    subtract: set[int]
    in_place: set[int]
    drop: dict[int, list[Ref]]
    ends: bool
    numbers: int


class Routes:
    """The downstream paths of all groups of a network.

    Args:
        network: the traced network.
        sample: tape of the network on two images.
        other: its tape on three images.

    Attributes:
        sample: tape of the network on two images.
        rows: value -> location of the images in it.
    """

    def __init__(self, network: Network, sample: Tape, other: Tape) -> None:
        self._network = network
        self._operations = source_of(network).operations
        self.sample = sample
        self.rows = rows_between(sample, other)
        self._program = BatchedTape.between(sample, other)
        self._steps: list[Step] = []
        self._reading: dict[int, int] = {}
        if self._program is not None:
            self._steps, self._reading = _fold_norms(self._program)
        self._known: dict[str, DownstreamPath | None] = {}
        self._products: dict[int, DenseConvolution | None] = {}

    def product(self, step: Step) -> DenseConvolution | None:
        """The step as a matrix product; None where it is none, or that does not pay."""
        if step.number not in self._products:
            self._products[step.number] = self._find_product(step)
        return self._products[step.number]

    def _find_product(self, step: Step) -> DenseConvolution | None:
        call = Call(step.function, step.arguments, step.keywords)
        if call.packet is not aten.conv2d or call["input"] not in self.rows:
            return None
        weight = call["weight"]
        if not isinstance(weight, torch.Tensor) or weight.device.type != "cpu":
            return None
        space = self.sample.find(call["input"]).shape[2:]
        return DenseConvolution(call, space) if is_mostly_padding(call, space) else None

    def cost_per_image(self, group: Group) -> float:
        """Relative cost of removing one of the group's channels on one image."""
        route = self.of(group)
        steps = self.sample.steps if route is None else route.steps
        skipped = set() if route is None else route.subtract
        return 1.0 + sum(self._macs(step) for step in steps if step.number not in skipped)

    def _macs(self, step: Step) -> float:
        call = Call(step.function, step.arguments, step.keywords)
        weight = call.get("weight") if call.packet in CONVOLUTIONS | {aten.linear} else None
        if not isinstance(weight, torch.Tensor):
            return 0.0
        return self.sample.values[Ref(step.number)].numel() / 2 * weight[0].numel()

    def step(self, number: int) -> Step:
        """The step of this number."""
        return next(step for step in self._steps if step.number == number)

    def of(self, group: Group) -> DownstreamPath | None:
        """The group's path; None where its channels have to be removed one by one."""
        if group.name not in self._known:
            self._known[group.name] = self._find_route(group)
        return self._known[group.name]

    def _find_route(self, group: Group) -> DownstreamPath | None:
        """Find the group's path; None where channels of several images cannot run together.

        That is so where an operation mixes the group's channels, where a channel's indices vary in
        number, or where a value that depends on them has no axis of images of its own.
        """
        if self._program is None or self._is_mixed(group):
            return None
        reads = self._find_reads(group)
        if reads is None:
            return None
        steps = depending_on(self._steps, set(reads))
        changed = {Ref(step.number, item) for step in steps for item in range(step.results)}
        if any(ref not in self.rows for ref in changed):
            return None
        return self._plan(steps, reads, changed)

    def _plan(
        self, steps: list[Step], reads: dict[int, list[DownstreamRead]], changed: set[Ref]
    ) -> DownstreamPath:
        """How to run these steps: with which shortcuts, and which values are dropped when."""
        first = [step for step in steps if step.number in reads and changed.isdisjoint(step.reads)]
        subtract = {step.number for step in first if self._is_linear(step, reads[step.number])}
        largest = max((self.sample.values[ref].numel() // 2 for ref in changed), default=0)
        return DownstreamPath(
            steps,
            reads,
            subtract,
            {step.number for step in steps if self._may_overwrite(step, steps, changed)},
            last_readers(steps, self.sample.output),
            not changed.isdisjoint(operands_in(self.sample.output)),
            largest,
        )

    def _find_reads(self, group: Group) -> dict[int, list[DownstreamRead]] | None:
        """Step number -> operands from which it reads the group; None where one cannot be given.

        One cannot where a channel's indices vary in number, or lie along the axis of the images.
        """
        reads: dict[int, list[DownstreamRead]] = {}
        for step in self._steps:
            operation = self._operations[self._reading.get(step.number, step.number)]
            for mask in operation.masks:
                part = channel_index(self._network, group, mask.units)
                if not len(part):
                    continue
                rows = self.rows.get(step.operands[mask.operand])
                if part.rows is None or rows is None or rows.axis == mask.axis:
                    return None
                if not self._reads_only_itself(group, step, operation, part.rows):
                    read = DownstreamRead(mask.operand, mask.axis, torch.from_numpy(part.rows))
                    reads.setdefault(step.number, []).append(read)
        return reads

    def _is_mixed(self, group: Group) -> bool:
        """Whether an operation mixes the group's channels with others."""
        stays = self._network.solution.mark_kept(self._network.alive(group.channels))
        return any(
            not stays[units].all()
            for operation in self._operations
            for _, axes in operation.mixed
            for units in axes.values()
        )

    def _reads_only_itself(self, group: Group, step: Step, operation: OpRecord, index: Ids) -> bool:
        """Whether a step reads a channel only to compute that same channel.

        A depthwise convolution does: the channel need not be masked there, since it is masked
        wherever the result is read.
        """
        call = Call(step.function, step.arguments, step.keywords)
        groups = call.get("groups", 1)
        if call.packet not in CONVOLUTIONS or groups == 1 or call.get("transposed"):
            return False
        units = operation.outputs[0][1].get(1)
        made = None if units is None else channel_index(self._network, group, units)
        if made is None:
            return False
        filters, inside = call["weight"].shape[:2]
        each = filters // groups
        readers = np.zeros((len(group), filters), bool)
        readers[made.channel, made.index] = True
        outputs = (index // inside)[:, :, None] * each + np.arange(each)
        reached = np.zeros_like(readers)
        np.put_along_axis(reached, outputs.reshape(len(group), -1), True, axis=1)
        return bool((readers | ~reached).all())

    def _is_linear(self, step: Step, reads: Sequence[DownstreamRead]) -> bool:
        """Whether the step's result is a sum over what it reads, with a model's own weight."""
        call = Call(step.function, step.arguments, step.keywords)
        if len(reads) > 1 or call.packet not in CONVOLUTIONS | PRODUCTS:
            return False
        operand, result = step.operands[reads[0].operand], Ref(step.number)
        if any(self.rows[source] != ImageAxis(0) for source in (operand, result)):
            return False
        if call.packet in CONVOLUTIONS:
            plain = call.get("groups", 1) == 1 and not call.get("transposed")
            return plain and isinstance(call["weight"], torch.Tensor) and reads[0].axis == 1
        weight = weight_of(call)
        plain = not {"alpha", "beta"} & call.keywords.keys()
        return plain and isinstance(weight, torch.Tensor) and weight.dim() == 2

    def _may_overwrite(self, step: Step, steps: Sequence[Step], changed: set[Ref]) -> bool:
        """Whether the step may overwrite its first operand, new memory that it alone reads."""
        if in_place_of(step.function) is None or not step.reads:
            return False
        first = step.operands[0]
        if (
            not isinstance(first, Ref)
            or first not in changed
            or first in set(operands_in(self.sample.output))
        ):
            return False
        maker = next(s for s in steps if s.number == first.step)
        alone = sum(s.reads.count(first) for s in steps) == 1
        result = self.sample.values.get(Ref(step.number))
        old = self.sample.values.get(first)
        same = (
            result is not None
            and old is not None
            and result.shape == old.shape
            and result.dtype == old.dtype
        )
        return alone and same and maker.function.overloadpacket in MAKE_NEW


def depending_on(steps: Sequence[Step], first: set[int]) -> list[Step]:
    """The steps numbered in ``first`` and all that depend on their results."""
    changed: set[TensorSource] = set()
    found = []
    for step in steps:
        if step.number in first or not changed.isdisjoint(step.reads):
            changed.update(Ref(step.number, item) for item in range(step.results))
            found.append(step)
    return found


def channels_last(value: torch.Tensor) -> torch.Tensor:
    """The same values; 4-d tensors in channels-last format."""
    return value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value


def in_place_of(function: OpOverload) -> OpOverload | None:
    """``aten.relu_`` for ``aten.relu``; None where there is none."""
    packet = getattr(aten, f"{function._schema.name.partition('::')[2]}_", None)
    return getattr(packet, function._overloadname, None) if packet is not None else None


def weight_of(call: Call) -> Operand:
    """The weight of a matrix product."""
    weight: Operand = call["weight"] if call.packet is aten.linear else call.arguments[-1]
    return weight


def _fold_norms(program: BatchedTape) -> tuple[list[Step], dict[int, int]]:
    """The program's steps, with batch normalisation folded into the convolution before it.

    Returns:
        (steps, number of a folded step -> number of the convolution whose channels it reads)
    """
    readers: dict[Operand, int] = {}
    everything: list[Operand] = [s for step in program.steps for s in step.reads]
    for source in [*everything, *operands_in(program.output)]:
        readers[source] = readers.get(source, 0) + 1
    by_number = {step.number: step for step in program.steps}
    gone: set[int] = set()
    folded: dict[int, Step] = {}
    reading: dict[int, int] = {}
    for step in program.steps:
        first = step.operands[0] if step.reads else None
        if not isinstance(first, Ref) or readers[first] > 1:
            continue
        merged = _merge(by_number[first.step], step)
        if merged is not None:
            gone.add(first.step)
            folded[step.number] = merged
            reading[step.number] = first.step
    steps = [folded.get(s.number, s) for s in program.steps if s.number not in gone]
    return steps, reading


def _merge(convolution: Step, norm: Step) -> Step | None:
    """One convolution equivalent to both steps; None where they are no such pair."""
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
