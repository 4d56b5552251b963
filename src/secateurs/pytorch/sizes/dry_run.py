"""Dry run of a cut on shapes alone, to find sizes that a forward pass has hard-coded.

Labels give the shape of every result after a cut. Whether the user's code agrees shows when it
runs: a cut is made on tensors without data, the model is run, and each operation's result is
compared with the expected shape. Where they differ, an integer in the code did not follow. A wrong
result is replaced by one of the expected shape, so that one run finds every such place.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch._ops import OpOverload

from secateurs.channels.equations import Ids
from secateurs.pytorch.model.copies import list_modules
from secateurs.pytorch.tracing import rules
from secateurs.pytorch.tracing.interpreter import OpInterpreter, aten, is_users, line_in, users_line
from secateurs.pytorch.tracing.op_call import (
    MADE_NEW,
    STARTS,
    Arguments,
    Call,
    Keywords,
    is_decided_by_data,
    iterate_tensors,
    map_tensors,
    numbers_of,
    run_on_constants,
    start_of,
    without_data,
    without_values,
)
from secateurs.pytorch.tracing.op_record import Axes, ForwardPass, OpRecord


@dataclass(frozen=True, slots=True, eq=False)
class WrongSize:
    """An axis whose length is not the expected one.

    Attributes:
        key: (pass, operation, output, axis), the same in every dry run; followed by the index of
            the side where that is one of a grid along the axis.
        units: channels along it; None where it carries none.
        dense: its length in the dense model.
        got: its length now; None where the operation failed without telling.
        line: the user's line that is running.
        layers: the modules whose code is running, innermost first.
    """

    key: tuple[int, ...]
    units: Ids | None
    dense: int
    got: int | None
    line: str
    layers: tuple[str, ...]

    @property
    def is_stuck(self) -> bool:
        """Whether it still has its dense length: an integer did not follow."""
        return self.got == self.dense


START = -1
"""In place of a result's index in a key: the position from which an operation selects."""

OPERAND = -2
"""In place of a result's index, minus an operand's index: an operand that the code made."""


@dataclass(frozen=True, slots=True, eq=False)
class WrongNumber:
    """A factor that changed, because it was computed from a size that changed."""

    key: tuple[int, ...]
    dense: float
    got: float
    line: str


@dataclass(frozen=True, slots=True, eq=False)
class Raised:
    """An exception that ended the forward pass.

    Attributes:
        place: (pass, index of the last operation that ran).
        line: the user's line that raised.
        message: first line of its message.
        layers: the modules whose code was running, innermost first.
        next: the sizes that the next operation would have had to change, first those it reads.
    """

    place: tuple[int, int]
    line: str
    message: str
    layers: tuple[str, ...]
    next: tuple[WrongSize, ...] = ()


@dataclass(slots=True)
class Findings:
    """The mismatches that a dry run found."""

    sizes: list[WrongSize] = field(default_factory=list)
    numbers: list[WrongNumber] = field(default_factory=list)
    raised: Raised | None = None

    def __bool__(self) -> bool:
        return bool(self.sizes or self.numbers or self.raised)


class PathChangedError(Exception):
    """The small model runs other operations than the dense one."""


class DryRun(OpInterpreter):
    """Runs the small model on tensors without data and compares shapes with the expected ones."""

    def __init__(
        self, model: nn.Module, forward: ForwardPass, number: int, stays: NDArray[np.bool_]
    ) -> None:
        super().__init__(rules.is_whole)
        self._model = model
        self._forward = forward
        self._pass = number
        self._stays = stays
        self._paths = {id(module): path for path, module in list_modules(model)}
        self.findings = Findings()

    def rehearse(self) -> Findings:
        """Run the model to its end, or to where it raises."""
        try:
            self.run(
                self._model,
                self._forward.arguments,
                self._forward.keywords,
                self._forward.training,
            )
        except Exception as error:  # noqa: BLE001 - a user's forward may raise anything
            line, layers = line_of(error), tuple(self._layers_in(_frames_of(error)))
            self.findings.raised = Raised(
                (self._pass, max(0, min(self.index, len(self._forward.operations) - 1))),
                line,
                (str(error).splitlines() or [type(error).__name__])[0][:120],
                layers,
                tuple(
                    self._explain_as_made(line, layers)
                    if isinstance(error, PathChangedError)
                    else self._next(line, layers)
                ),
            )
        return self.findings

    def _next(self, line: str, layers: tuple[str, ...]) -> Iterator[WrongSize]:
        """Lengths that should change in the operation after the last one.

        First those of what it reads and does not return: code checks what it was given against a
        number of its own module (``assert x.shape[1] == self.channels`` before a convolution).
        """
        for operation in self._forward.operations[self.index + 1 : self.index + 2]:
            returned = {units.tobytes() for _, axes in operation.outputs for units in axes.values()}
            for place, labels in enumerate(operation.operands):
                for axis, units in labels.axes.items() if labels.weight is None else ():
                    if units.tobytes() not in returned and not self._stays[units].all():
                        key = (self._pass, self.index + 1, OPERAND - place, axis)
                        size = len(units)
                        yield WrongSize(key, units, size, size, line, layers[:1])
            for place, (dense, axes) in enumerate(operation.outputs):
                small = self._shape(dense, axes)
                for axis, units in axes.items():
                    if small[axis] != dense[axis]:
                        key = (self._pass, self.index + 1, place, axis)
                        size = dense[axis]
                        yield WrongSize(key, units, size, size, line, layers)

    def _explain_as_made(self, line: str, layers: tuple[str, ...]) -> Iterator[WrongSize]:
        """Lengths of tensors made by the code for an operation in whose place another one runs.

        A value written into a canvas of the wrong size goes through other views first.
        """
        for operation in self._forward.operations[self.index : self.index + 1]:
            for place, dense, axes in operation.made:
                expected = self._shape(dense, axes)
                for axis, units in axes.items():
                    if expected[axis] != dense[axis]:
                        key = (self._pass, self.index, OPERAND - place, axis)
                        yield WrongSize(key, units, dense[axis], dense[axis], line, layers)

    def step(self, function: OpOverload, arguments: Arguments, keywords: Keywords) -> object:
        """Run an operation; a result of another shape than expected is noted and replaced."""
        call, operation = self._match_record(Call(function, arguments, keywords))
        if call.packet in MADE_NEW:
            return run_on_constants(call)
        if operation.is_constant or (not operation.outputs and operation.value is None):
            return _run_constants(call)
        call = self._with_made(call, operation)
        if is_decided_by_data(call):
            known = operation.value
            return self._make_results(call, operation) if known is None else known
        self._compare_numbers(call, operation)
        self._compare_starts(call, operation)
        if any(tensor.layout is not torch.strided for tensor in call.tensors()):
            return self._make_expected(call, operation)  # sparse operations cannot run without data
        return self._run_and_compare(call, operation)

    def _run_and_compare(self, call: Call, operation: OpRecord) -> object:
        """The result where it has the expected shapes; else a result that has, and a note."""
        try:
            output = call.run()
        except (RuntimeError, IndexError, ValueError, TypeError):
            self._note_sizes(call, operation, None)
            return self._make_expected(call, operation)
        shapes = [tuple(tensor.shape) for tensor in iterate_tensors(output)]
        if operation.is_of_nothing:
            return map_tensors(output, _without_its_values)
        if shapes != [self._shape(shape, axes) for shape, axes in operation.outputs]:
            self._note_sizes(call, operation, shapes)
            return self._make_expected(call, operation)
        if operation.choices:
            return _with_choices(output, operation)
        if isinstance(output, torch.Tensor) and output.is_meta:
            return output
        return map_tensors(output, _without_its_values)

    def _match_record(self, call: Call) -> tuple[Call, OpRecord]:
        """(call, record of the operation that the dense model ran here); raise if the path changed.

        PyTorch omits a slice that covers the whole axis, as happens where the slice's end did not
        follow the cut: then the recorded slice is applied first.
        """
        operations = self._forward.operations
        while self._is_left_out(call):
            self._note_left_out(operations[self.index])
            self.index += 1
        end = self.index
        while end < len(operations) and operations[end].name == "aten.slice":
            end += 1
        is_left_out = end < len(operations) and operations[end].name == str(call.packet)
        while is_left_out and operations[self.index].name != str(call.packet):
            call = self._slice_as_expected(call, operations[self.index])
            self.index += 1
        if self.index >= len(operations):
            raise PathChangedError("it executes more operations than the dense model")
        operation = operations[self.index]
        if operation.name != str(call.packet):
            raise PathChangedError(
                f"it executes {call.name} where the dense model executes {operation.name}"
            )
        return call, operation

    def _is_left_out(self, call: Call) -> bool:
        """Whether the next recorded slice was omitted: a slice from 0, while this one is behind it.

        Queries, keys and values are cut out of one tensor in turn, say.
        """
        after = self._forward.operations[self.index : self.index + 2]
        if call.packet is not aten.slice or any(one.name != "aten.slice" for one in after):
            return False
        starts = [start for start in (*(one.start for one in after), start_of(call)) if start]
        if len(starts) < 3 or len({axis for axis, _ in starts}) > 1:
            return False
        (_, first), (_, second), (_, present) = starts
        return first == 0 < min(second, present)

    def _note_left_out(self, operation: OpRecord) -> None:
        """Note lengths of a recorded slice that was omitted."""
        (dense, axes), *_ = operation.outputs
        expected = self._shape(dense, axes)
        layers = tuple(self._layers_in(_running_frames()))
        for axis, size in enumerate(dense):
            if expected[axis] != size:
                key = (self._pass, self.index, 0, axis)
                wrong = WrongSize(key, axes.get(axis), size, None, users_line(), layers)
                self.findings.sizes.append(wrong)

    def _slice_as_expected(self, call: Call, left_out: OpRecord) -> Call:
        """The call with the expected result of an omitted slice; the wrong end is noted."""
        (dense, axes), *_ = left_out.outputs
        expected = self._shape(dense, axes)
        for place, tensor in enumerate(call.tensors()):
            if tensor.dim() != len(dense):
                continue
            wrong = [axis for axis, size in enumerate(expected) if tensor.shape[axis] != size]
            if len(wrong) != 1 or tensor.shape[wrong[0]] < expected[wrong[0]]:
                continue
            size, units = dense[wrong[0]], axes.get(wrong[0])
            key = (self._pass, self.index, 0, wrong[0])
            layers = tuple(self._layers_in(_running_frames()))
            self.findings.sizes.append(WrongSize(key, units, size, size, users_line(), layers))
            made = torch.empty(expected, dtype=tensor.dtype, device="meta")
            return call.with_tensors({place: made})
        return call

    def _with_made(self, call: Call, operation: OpRecord) -> Call:
        """The call with expected sizes for the tensors that the user's code made.

        A canvas or a state is allocated by a number that may not have followed. It is noted here,
        where it is aligned with the channels, and not as a wrong result of a later operation.
        """
        changes: dict[int, torch.Tensor] = {}
        tensors = call.tensors()
        for place, dense, axes in operation.made:
            if place >= len(tensors) or tensors[place].is_meta:
                continue
            shape = self._shape(dense, axes)
            got = tuple(tensors[place].shape)
            if got == shape:
                changes[place] = without_data(tensors[place])
                continue
            if len(got) == len(dense):
                self._note_operand(place, dense, axes, got)
            changes[place] = torch.empty(shape, dtype=tensors[place].dtype, device="meta")
        return call.with_tensors(changes) if changes else call

    def _note_operand(
        self, place: int, dense: tuple[int, ...], axes: Axes, got: tuple[int, ...]
    ) -> None:
        line, layers = users_line(), tuple(self._layers_in(_running_frames()))
        expected = self._shape(dense, axes)
        for axis, size in enumerate(dense):
            if got[axis] != expected[axis]:
                key = (self._pass, self.index, OPERAND - place, axis)
                wrong = WrongSize(key, axes.get(axis), size, got[axis], line, layers)
                self.findings.sizes.append(wrong)

    def pass_through(
        self, function: OpOverload, arguments: Arguments, keywords: Keywords
    ) -> object:
        return _run_constants(Call(function, arguments, keywords))

    def _shape(self, dense: tuple[int, ...], axes: Axes) -> tuple[int, ...]:
        shape = list(dense)
        for axis, units in axes.items():
            shape[axis] = int(self._stays[units].sum())
        return tuple(shape)

    def _make_expected(self, call: Call, operation: OpRecord) -> object:
        first = call.tensors()[0]
        if call.function._schema.is_mutable:
            return first
        return _with_choices(self._make_results(call, operation), operation)

    def _make_results(self, call: Call, operation: OpRecord) -> object:
        """Empty results of the expected shapes."""
        made = [
            torch.empty(self._shape(shape, axes), dtype=dtype, device="meta")
            for (shape, axes), dtype in zip(operation.outputs, operation.types, strict=True)
        ]
        returns = call.function._schema.returns
        if len(returns) == 1 and isinstance(returns[0].type, torch.TensorType):
            return made[0]
        return made if len(returns) == 1 else tuple(made)

    def _note_sizes(
        self, call: Call, operation: OpRecord, shapes: list[tuple[int, ...]] | None
    ) -> None:
        """Note axes of unexpected length; ``shapes`` is None where the operation raised."""
        line = users_line()
        layers = tuple(self._layers_in(_running_frames()))
        given = set(call.numbers(int))
        for place, (dense, axes) in enumerate(operation.outputs):
            expected = self._shape(dense, axes)
            got = (
                _find_asked_shape(call, place, expected)
                if shapes is None
                else _nth(shapes, place, call)
            )
            for axis, length in enumerate(_find_lengths(got, dense, expected, given)):
                if length == expected[axis]:
                    continue
                key = (self._pass, self.index, place, axis)
                wrong = WrongSize(key, axes.get(axis), dense[axis], length, line, layers)
                self.findings.sizes.append(wrong)

    def _compare_numbers(self, call: Call, operation: OpRecord) -> None:
        present = numbers_of(call)
        for place, (dense, got) in enumerate(zip(operation.numbers, present, strict=False)):
            if not math.isclose(dense, got, rel_tol=1e-6, abs_tol=1e-12):
                key = (self._pass, self.index, place)
                self.findings.numbers.append(WrongNumber(key, dense, got, users_line()))

    def _compare_starts(self, call: Call, operation: OpRecord) -> None:
        """Check that a selection starts after all channels kept before its dense start."""
        found = start_of(call)
        if operation.start is None or found is None:
            return
        axis, dense = operation.start
        units = operation.operands[0].axes.get(axis)
        if units is None or found[1] == self._stays[units[:dense]].sum():
            return
        key = (self._pass, self.index, START, axis)
        layers = tuple(self._layers_in(_running_frames()))
        asked = max(found[1], call.get(STARTS[call.packet], 0))  # maybe behind the end
        wrong = WrongSize(key, units[:dense], dense, asked, users_line(), layers)
        self.findings.sizes.append(wrong)

    def _layers_in(self, frames: Iterator[FrameType]) -> Iterator[str]:
        seen = set()
        for frame in frames:
            path = self._paths.get(id(frame.f_locals.get("self")))
            if path is not None and path not in seen:
                seen.add(path)
                yield path


def _run_constants(call: Call) -> object:
    """The result of an operation on constants alone, maybe on the input's device."""
    has_data = not any(tensor.is_meta for tensor in call.tensors())
    return run_on_constants(call) if has_data else call.run()


def _with_choices(output: object, operation: OpRecord) -> object:
    """The result with integers from the trace: code may read which experts run, as a list."""
    places = itertools.count()

    def choose(tensor: torch.Tensor) -> torch.Tensor:
        known = operation.choices.get(next(places))
        return _without_its_values(tensor) if known is None else known.clone()

    return map_tensors(output, choose)


def _without_its_values(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.is_meta else without_values(tensor)


def _find_asked_shape(call: Call, place: int, expected: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape that a failed reshape, view, expand or split was asked to give this result."""
    if call.packet is aten.split_with_sizes:
        axis, sizes = call.get("dim", 0) % len(expected), call["split_sizes"]
        return (*expected[:axis], sizes[place], *expected[axis + 1 :])
    for value in [*call.arguments[1:], *call.keywords.values()]:
        is_shape = isinstance(value, (list, tuple)) and len(value) == len(expected)
        if is_shape and all(isinstance(size, int) for size in value):
            return tuple(value)
    return None


def _find_lengths(
    got: tuple[int, ...] | None,
    dense: tuple[int, ...],
    expected: tuple[int, ...],
    given: set[int],
) -> list[int | None]:
    """The length of each axis of a result; None where it is unknown.

    Args:
        got: the shape that the result has or was to have; None where that is unknown.
        dense: its shape in the dense model.
        expected: the shape it should have.
        given: whole numbers among the operation's arguments.
    """
    if got is not None and len(got) == len(dense):
        # A -1 in the requested shape follows by itself.
        return [want if size < 0 else size for size, want in zip(got, expected, strict=True)]
    lengths: list[int | None] = []
    for old, want in zip(dense, expected, strict=True):
        if old == want:
            lengths.append(want)
        else:
            lengths.append(old if old in given else None)
    return lengths


def _nth(shapes: list[tuple[int, ...]], place: int, call: Call) -> tuple[int, ...] | None:
    """The shape of a result; for a slice that ends behind the end, the length it asked for."""
    if place >= len(shapes):
        return None
    start, end = call.get("start", 0), call.get("end")
    if call.packet is not aten.slice or not isinstance(end, int) or call.get("step", 1) != 1:
        return shapes[place]
    axis = call.get("dim", 0) % len(shapes[place])
    is_cut_off = start >= 0 and call.tensors()[0].shape[axis] < end < sys.maxsize
    asked = end - start if is_cut_off else shapes[place][axis]
    return (*shapes[place][:axis], asked, *shapes[place][axis + 1 :])


def _running_frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _frames_of(error: BaseException) -> Iterator[FrameType]:
    trail = error.__traceback__
    frames = []
    while trail is not None:
        frames.append(trail.tb_frame)
        trail = trail.tb_next
    yield from reversed(frames)


UNKNOWN_LINE = "an unknown line"


def line_of(error: BaseException) -> str:
    """The line of the model's code where its forward pass raised."""
    trail = error.__traceback__
    place = UNKNOWN_LINE
    while trail is not None:
        if trail.tb_frame.f_code is OpInterpreter.run.__code__:
            place = UNKNOWN_LINE
        elif is_users(trail.tb_frame):
            place = line_in(trail.tb_frame, trail.tb_lineno)
        trail = trail.tb_next
    return place
