"""A model's pass over many images, in pieces, one operation after the other.

``play`` runs a whole pass of one piece at a time; the lockstep walk runs one operation at a time
for all pieces. In both, only values that a later step reads are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secateurs.calibration.batches import CalibrationBatch
from secateurs.pytorch.model.example_inputs import parse_example_inputs
from secateurs.pytorch.replay.tape import (
    BatchedTape,
    Find,
    Input,
    Memory,
    Operand,
    Ref,
    Slot,
    Step,
    Tape,
    TensorSource,
    fill,
    last_readers,
    operands_in,
    record,
)
from secateurs.pytorch.tracing.op_call import Call, aten, iterate_tensors
from secateurs.pytorch.tracing.op_record import OpRecord
from secateurs.reconstruction.drawing import Present

MOST_AT_A_TIME = 256
"""Maximum number of images in a piece."""

NUMBERS_AT_A_TIME = 2**23
"""Maximum number of elements in the largest value of a piece: 32 MB in single precision."""

StepChange = Callable[[Step, Call], object]
"""(step, its call) -> replacement of its result."""


def call_of(step: Step, find: Find) -> Call:
    """A step with its arguments; a view becomes a reshape, which copies where it has to.

    The tape does not record operations that only change the memory layout (``contiguous``).
    """
    call = step.call(find)
    if call.function is aten.view.default:
        return Call(aten.reshape.default, call.arguments, call.keywords)
    return call


@dataclass(eq=False)
class Piece:
    """Some of the images, and the values of their pass that are still needed.

    Attributes:
        steps: steps to take, for this number of images.
        inputs: inputs of the model.
        output: outputs of the model, with sources in place of tensors.
        images: number of images.
        values: values held at present.
        done: number of steps taken.
        memory: memory that is written into in place of the model's.
        labels: labels of the images, if there are any.
        present: masks of the positions of each text that are not padding.
    """

    steps: Sequence[Step]
    inputs: Sequence[torch.Tensor]
    output: object
    images: int
    values: dict[Ref, torch.Tensor] = field(default_factory=dict)
    done: int = 0
    memory: Memory = field(default_factory=lambda: Memory(frozenset()))
    labels: NDArray[np.generic] | None = None
    present: Present = field(default_factory=dict)
    _last: dict[int, list[Ref]] = field(default_factory=dict)
    _wanted: set[Operand] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._last = last_readers(self.steps, self.output)
        self._wanted = {source for step in self.steps for source in step.reads}
        self._wanted.update(operands_in(self.output))

    @overload
    def find(self, source: Operand) -> torch.Tensor: ...
    @overload
    def find(self, source: Slot) -> torch.Tensor | int: ...
    def find(self, source: Slot) -> torch.Tensor | int:
        """The value of a source or length; a tensor is itself."""
        if isinstance(source, Ref):
            return self.values[source]
        if isinstance(source, Input):
            return self.memory.find(self.inputs[source.number])
        if isinstance(source, torch.Tensor):
            return self.memory.find(source)
        return source.each * self.images

    def call(self, step: Step) -> Call:
        """A step with its arguments."""
        return call_of(step, self.find)

    def do(self, step: Step, change: StepChange | None = None) -> object:
        """Take one step and keep those of its results that are read later."""
        call = self.call(step)
        output = (
            call.function(*call.arguments, **call.keywords)
            if change is None
            else change(step, call)
        )
        for item, tensor in enumerate(iterate_tensors(output)):
            if (ref := Ref(step.number, item)) in self._wanted:
                self.values[ref] = tensor
        self.done += 1
        return output

    def forget(self, step: Step) -> None:
        """Drop values that no later step reads."""
        for ref in self._last.get(step.number, ()):
            self.values.pop(ref, None)

    def measure_memory(self) -> int:
        """Bytes of the values held; shared memory counts once."""
        stores = {
            value.untyped_storage()._cdata: value.untyped_storage()
            for value in self.values.values()
        }
        return sum(store.nbytes() for store in stores.values())

    def result(self) -> list[torch.Tensor]:
        """The floating-point tensors among the model's outputs."""
        return [tensor for tensor in iterate_tensors(self.outputs()) if tensor.is_floating_point()]

    def outputs(self) -> object:
        """The outputs of the model."""
        return fill(self.output, self.find)

    def branch(self) -> Piece:
        """A copy, to go on from here in another way."""
        memory, values = self.memory, dict(self.values)
        if any(step.mutates for step in self.steps):
            memory, values = memory.branch(values)
        return Piece(
            self.steps,
            self.inputs,
            self.output,
            self.images,
            values,
            self.done,
            memory,
            self.labels,
            self.present,
        )


@dataclass(eq=False)
class Pieces:
    """A model's pass for any number of images.

    Args:
        model: model in eval mode where it is run; it comes back unchanged.
        operations: operations of the trace of this model, or of the dense one that it was cut from.
        first: images on which the layout of images in the model is found.

    Attributes:
        numbers: number of elements in the largest value, for each image.
    """

    model: nn.Module
    operations: Sequence[OpRecord]
    first: CalibrationBatch
    numbers: int = 0
    _program: BatchedTape | None = None

    def __post_init__(self) -> None:
        two, three = (self._record(self.first.rows(np.arange(n) % len(self.first))) for n in (2, 3))
        self._program = BatchedTape.between(two, three)
        largest = max((value.numel() for value in two.values.values()), default=1)
        self.numbers = max(1, largest // 2)
        self.steps: Sequence[Step] = two.steps
        self.shapes = {ref: value.shape for ref, value in two.values.items()}
        self._two = two.steps, {ref: _bytes(value) for ref, value in two.values.items()}, two.output

    def bytes_at_once(self, until: int) -> int:
        """Peak bytes of the values held for one image, up to a step."""
        steps, sizes, output = self._two
        return _most_held(steps[: until + 1], sizes, last_readers(steps, output)) // 2

    def _record(self, batch: CalibrationBatch) -> Tape:
        """The tape of a batch without gradients or values."""
        with torch.no_grad():
            arguments, keywords = parse_example_inputs(batch.images, self.model)
            return record(self.model, self.operations, arguments, keywords, values=False)

    def sizes(self, images: int) -> Iterator[slice]:
        """Slices of the images, of a size that suits the machine."""
        each = max(1, min(MOST_AT_A_TIME, NUMBERS_AT_A_TIME // self.numbers))
        if self._program is None:
            each = min(each, 32)
        for start in range(0, images, each):
            yield slice(start, min(images, start + each))

    def piece(self, batch: CalibrationBatch) -> Piece:
        """These images, at the start of their pass."""
        arguments, keywords = parse_example_inputs(batch.images, self.model)
        inputs = list(iterate_tensors([list(arguments), keywords]))
        memory = Memory(frozenset())
        tape: BatchedTape | Tape | None = self._program
        if tape is None:
            tape = self._record(batch)
            memory = Memory(tape.written)
        return Piece(
            tape.steps,
            inputs,
            tape.output,
            len(batch),
            memory=memory,
            labels=batch.labels,
            present=batch.present_places,
        )


def play(
    piece: Piece,
    change: StepChange | None = None,
    watch: Callable[[Step, object], None] | None = None,
) -> list[torch.Tensor]:
    """Run the rest of a pass; return the floating-point outputs of the model.

    Args:
        piece: piece at its start, or further on.
        change: (step, its call) -> replacement of its result.
        watch: called with each step and its result.
    """
    for step in piece.steps[piece.done :]:
        output = piece.do(step, change)
        if watch is not None:
            watch(step, output)
        piece.forget(step)
    return piece.result()


def readers_of(steps: Sequence[Step]) -> Mapping[TensorSource, list[Step]]:
    """Source -> the steps that read it, one entry for each read."""
    readers: dict[TensorSource, list[Step]] = {}
    for step in steps:
        for source in step.reads:
            readers.setdefault(source, []).append(step)
    return readers


def _bytes(value: torch.Tensor) -> int:
    return value.numel() * value.element_size()


def _most_held(
    steps: Sequence[Step], sizes: Mapping[Ref, int], last: Mapping[int, Sequence[Ref]]
) -> int:
    """Peak bytes of the values held."""
    alive: dict[Ref, int] = {}
    most = 0
    by_step: dict[int, list[Ref]] = {}
    for ref in sizes:
        by_step.setdefault(ref.step, []).append(ref)
    for step in steps:
        for ref in by_step.get(step.number, ()):
            alive[ref] = sizes[ref]
        most = max(most, sum(alive.values()))
        for ref in last.get(step.number, ()):
            alive.pop(ref, None)
    return most
