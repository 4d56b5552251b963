"""Record a forward pass as a flat list of operations, and replay it from any of them.

A tape holds no modules and no control flow, only PyTorch operations and the sources of their
arguments. So the part of any model that depends on a changed value can be run by itself (which is
all that ablating a channel needs), with another number of images, or under autograd with inserted
gates, and the user's model is not touched.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn
from torch._ops import OpOverload

from secateurs.calibration.batches import TRACE_PADDED
from secateurs.channels.proof import TOLERANCE
from secateurs.errors import DataError
from secateurs.pytorch.model.example_inputs import format_inputs
from secateurs.pytorch.tracing import rules
from secateurs.pytorch.tracing.interpreter import OpInterpreter, aten
from secateurs.pytorch.tracing.op_call import (
    Arguments,
    Call,
    Keywords,
    fields_of,
    is_data_class,
    iterate_tensors,
    like,
    with_fields,
)
from secateurs.pytorch.tracing.op_record import OpRecord
from secateurs.pytorch.tracing.records_by_layer import RecordsByLayer
from secateurs.training.memory import is_out_of_memory


@dataclass(frozen=True, slots=True)
class Ref:
    """The ``item``-th tensor that step number ``step`` returned."""

    step: int
    item: int = 0


@dataclass(frozen=True, slots=True)
class Input:
    """The ``number``-th input tensor of the model."""

    number: int


@dataclass(frozen=True, slots=True)
class Length:
    """An integer that is ``each`` times the number of images."""

    each: int


TensorSource = Ref | Input
"""The source of a tensor that depends on the run."""


@dataclass(frozen=True, slots=True)
class Cast:
    """A source's values in another dtype, such as an integer mask converted to a boolean one.

    Operations that change nothing but the dtype have no number, hence no ``Ref`` of their own.
    Between real dtypes values count as the same, and no ``Cast`` is needed.
    """

    source: TensorSource | Cast
    dtype: torch.dtype


Operand = torch.Tensor | TensorSource
"""A tensor that an operation reads: a weight or a constant itself, or a source."""

Slot = Operand | Length
"""A value looked up for each run."""

Find = Callable[[Slot], object]
"""Maps a slot to its value in a run."""


@dataclass(slots=True)
class Step:
    """One operation, and the sources of its arguments.

    Attributes:
        number: its index on the tape, and among the trace's operations.
        function: the operator to run; an in-place operator is replaced by its out-of-place form
            where no other tensor shares the memory.
        arguments: positional arguments, with ``Ref``, ``Input`` and ``Length`` for values that
            differ from run to run.
        keywords: keyword arguments; likewise.
        results: number of tensors it returns.
        mutates: whether it still writes in place.
        has_gradient: whether gradients were enabled when it ran.
    """

    number: int
    function: OpOverload
    arguments: tuple[object, ...]
    keywords: Keywords
    results: int = 1
    mutates: bool = False
    has_gradient: bool = True

    @property
    def operands(self) -> list[Operand]:
        """Its tensor arguments, in the order in which masks number them."""
        return list(operands_in([*self.arguments, *self.keywords.values()]))

    @property
    def reads(self) -> list[TensorSource]:
        """Those of its operands that depend on the run."""
        return [operand for operand in self.operands if isinstance(operand, Ref | Input)]

    def call(self, find: Find) -> Call:
        """The operation with its arguments for one run."""
        arguments = [fill(value, find) for value in self.arguments]
        keywords = {key: fill(value, find) for key, value in self.keywords.items()}
        return Call(self.function, arguments, keywords)


@dataclass(eq=False, slots=True)
class Tape:
    """A recorded forward pass.

    Attributes:
        steps: its operations, in order.
        values: the result of each.
        inputs: input tensors of the model.
        output: outputs of the model, with sources in place of tensors.
        written: ids of the storages of the model or the caller that it writes into.
        memories: id of the memory of each value.
    """

    steps: list[Step]
    values: dict[Ref, torch.Tensor]
    inputs: list[torch.Tensor]
    output: object
    written: frozenset[int] = frozenset()
    memories: dict[Ref, int] = field(default_factory=dict)

    @property
    def resumable(self) -> bool:
        """Whether it can be replayed from the middle: no step writes into shared memory.

        Writes that do not depend on the inputs (tables that a model fills first) do not matter,
        since those steps are never replayed.
        """
        if self.written:
            return False
        live = self.depending_on_inputs()
        return not any(step.mutates and not live.isdisjoint(step.reads) for step in self.steps)

    def depending_on_inputs(self) -> set[Operand]:
        """The inputs and all values computed from them, also through memory written into."""
        live: set[Operand] = {Input(number) for number in range(len(self.inputs))}
        if any(step.mutates for step in self.steps):
            return self._with_memory(live)
        for step in self.steps:
            if not live.isdisjoint(step.reads):
                live.update(Ref(step.number, item) for item in range(step.results))
        return live

    def _with_memory(self, live: set[Operand]) -> set[Operand]:
        memory: set[int] = set()
        for step in self.steps:
            operands = step.operands
            for operand in operands:
                if self._memory(operand) in memory:
                    live.add(operand)
            if any(operand in live for operand in operands):
                live.update(Ref(step.number, item) for item in range(step.results))
                if step.mutates:  # it writes into its first operand
                    memory.add(self._memory(operands[0]))
        return live

    def _memory(self, source: Operand) -> int:
        if isinstance(source, Ref):
            return self.memories[source]
        return memory_of(self.find(source))

    def find(self, source: Slot) -> torch.Tensor:
        """The recorded value of a source."""
        if isinstance(source, Ref):
            return self.values[source]
        if isinstance(source, Input):
            return self.inputs[source.number]
        if isinstance(source, Length):
            raise TypeError(f"expected a tape of one run, whose lengths are numbers; got {source}")
        return source


def record(
    model: nn.Module,
    operations: Sequence[OpRecord],
    arguments: Arguments,
    keywords: Keywords,
    watch: Callable[[int, Call], None] | None = None,
    *,
    keep: bool = True,
    values: bool = True,
) -> Tape:
    """Run the model in eval mode and record its operations.

    Args:
        model: a private copy (``TracedModel.to_run``).
        operations: operations of its trace; the run must take the same path.
        arguments: positional arguments of its forward.
        keywords: keyword arguments of its forward.
        watch: called before each operation, with its number.
        keep: whether to keep the tape; without it, only ``watch`` is of use.
        values: whether to keep the results of operations. Otherwise only shapes and dtypes are
            kept, as tensors on the meta device, and a pass takes no more memory than the model
            itself.

    Raises:
        DataError: the model takes another path on these inputs than on the example inputs.
    """
    inputs = list(iterate_tensors([list(arguments), keywords]))
    recorder = _Recorder(operations, inputs, watch, keep, values)
    try:
        returned = recorder.run(model, arguments, keywords)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        if is_out_of_memory(error):
            raise
        message = " ".join(str(error).split()).rstrip(".")
        raise DataError(
            f"calibration data: expected {format_inputs([*arguments, *keywords.values()])} to "
            f"pass through {type(model).__name__}, as the example inputs did; its forward raised "
            f"{type(error).__name__}: {message}. Batches may have any size, also 2 or 3; let the "
            "model accept them."
        ) from error
    if recorder.index + 1 != len(operations):
        raise DataError(recorder.off_course(f"operation {recorder.index} is another"))
    if recorder.decided_otherwise and not _answers_alike(model, arguments, keywords, returned):
        raise DataError(
            recorder.off_course(
                "control flow depends on a value that differs, and so do the outputs"
            )
        )
    sources = recorder.sources_of(returned)
    written = frozenset(recorder.written)
    return Tape(recorder.steps, recorder.values, inputs, sources, written, recorder.memories)


class _Plain(OpInterpreter):
    """Runs a model unchanged."""

    def step(self, function: OpOverload, arguments: Arguments, keywords: Keywords) -> object:
        return function(*arguments, **keywords)


def _answers_alike(
    model: nn.Module, arguments: Arguments, keywords: Keywords, returned: object
) -> bool:
    """Whether a model on its own path gives the same outputs, up to rounding."""
    answer = _Plain(rules.is_whole).run(model, arguments, keywords)
    pairs = itertools.zip_longest(iterate_tensors(returned), iterate_tensors(answer))
    return all(
        one is not None and other is not None and _is_close(one, other) for one, other in pairs
    )


def _is_close(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point() and not one.is_complex():
        return torch.equal(one, other)
    if not one.numel():
        return True
    apart, size = (one - other).abs().max(), other.abs().max()
    return bool(apart <= TOLERANCE[str(one.dtype).removeprefix("torch.")] * (size + 1))


def record_step(
    model: nn.Module,
    operations: Sequence[OpRecord],
    run: Callable[[nn.Module], object],
    given: object,
    *,
    training: bool,
) -> tuple[Tape, list[OpRecord]]:
    """Record a training step up to its loss: the operations of the model and of the loss.

    Args:
        model: a private copy (``TracedModel.to_run``).
        operations: operations of its trace. The step may take another path: its operations are
            matched by layer, name and occurrence.
        run: the step.
        given: the batch it will use, tensors included.
        training: whether to run in train mode.

    Returns:
        (the tape, the record of each of its operations)
    """
    inputs = list(iterate_tensors([given]))
    recorder = _StepRecorder(operations, inputs, run)
    returned = recorder.run(model, [given], {}, training)
    sources = recorder.sources_of(returned)
    written = frozenset(recorder.written)
    tape = Tape(recorder.steps, recorder.values, inputs, sources, written, recorder.memories)
    return tape, recorder.records


# ``contiguous`` is not on the tape, since whether it copies depends on the sizes. Where it did, a
# view of its result would be a view of a non-contiguous tensor in the replay. A reshape is a view
# where that is possible, and a copy where ``contiguous`` copied.
_LAYOUT_FREE = {aten.view.default: aten.reshape.default}


def memory_of(tensor: torch.Tensor) -> int:
    """Id of the memory that a tensor lies in, unique while that memory lives."""
    number: int = tensor.untyped_storage()._cdata
    return number


class Memory:
    """Private memory that one replay writes into, in place of the model's and the caller's.

    Args:
        written: ids of the storages that the tape writes into (``Tape.written``).
    """

    def __init__(self, written: frozenset[int]) -> None:
        self._written = written
        self._private: dict[int, torch.UntypedStorage] = {}

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether the tensor lies in memory that is written into."""
        return bool(self._written) and memory_of(tensor) in self._written

    def find(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor, in this replay's private memory if that is written into."""
        if not self.holds(tensor):
            return tensor
        key = memory_of(tensor)
        if key not in self._private:
            self._private[key] = tensor.untyped_storage().clone()
        return _place_in_storage(tensor, self._private[key])

    def branch(self, values: Mapping[Ref, torch.Tensor]) -> tuple[Memory, dict[Ref, torch.Tensor]]:
        """Copy this memory and values, preserving which of them share storage."""
        copies: dict[int, torch.UntypedStorage] = {}

        def copy(storage: torch.UntypedStorage) -> torch.UntypedStorage:
            if storage._cdata not in copies:
                copies[storage._cdata] = storage.clone()
            return copies[storage._cdata]

        other = Memory(self._written)
        other._private = {key: copy(storage) for key, storage in self._private.items()}
        return other, {
            ref: _place_in_storage(value, copy(value.untyped_storage()))
            for ref, value in values.items()
        }


def _place_in_storage(tensor: torch.Tensor, storage: torch.UntypedStorage) -> torch.Tensor:
    """A tensor with this layout in another storage."""
    empty = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return empty.set_(storage, tensor.storage_offset(), tensor.size(), tensor.stride())


class _Recorder(OpInterpreter):
    """Records each operation as it runs."""

    def __init__(
        self,
        operations: Sequence[OpRecord],
        inputs: Sequence[torch.Tensor],
        watch: Callable[[int, Call], None] | None,
        keep: bool,
        keep_values: bool = True,
    ) -> None:
        super().__init__(rules.is_whole)
        self.steps: list[Step] = []
        self.values: dict[Ref, torch.Tensor] = {}
        self._keep_values = keep_values
        self._operations = operations
        self._watch = watch
        self._keep = keep
        self.decided_otherwise = False
        """Whether a boolean was replaced by its value in the trace, which differed."""
        self._sources: dict[int, TensorSource | Cast | torch.Tensor] = {
            id(x): Input(n) for n, x in enumerate(inputs)
        }
        self.written: set[int] = set()
        self.memories: dict[Ref, int] = {}
        self._sharing: dict[int, set[int]] = {}
        self._copies: dict[int, torch.Tensor] = {}
        self._alive: list[torch.Tensor] = list(inputs)  # keeps ids from being reused
        self._ends: dict[int, weakref.ref[torch.Tensor]] = {}
        self._memory_numbers: dict[int, int] = {}
        self._unused_numbers = itertools.count(-1, -1)

    def off_course(self, difference: str) -> str:
        """Message that the model takes another path than when it was traced."""
        return (
            "calibration data: expected the forward pass that was traced "
            f"({len(self._operations)} operations); received images for which {difference}. The "
            "model's path depends on its input: trace it with an input like the calibration "
            "data, and with two examples, not one; for texts, use padded ones if there are any: "
            f"{TRACE_PADDED}"
        )

    def pass_through(
        self, function: OpOverload, arguments: Arguments, keywords: Keywords
    ) -> object:
        output = function(*arguments, **keywords)
        source = self._sources.get(id(arguments[0])) if arguments else None
        if source is not None and isinstance(output, torch.Tensor):
            # Same values, hence the same source.
            self._sources[id(output)] = _as_type(source, arguments[0], output)
            self._protect_id(output)
        return output

    def step(self, function: OpOverload, arguments: Arguments, keywords: Keywords) -> object:
        operation = self._operations[self.index] if self.index < len(self._operations) else None
        if operation is None or operation.name != str(function.overloadpacket):
            raise DataError(self.off_course(f"operation {self.index} is another"))
        call = Call(function, arguments, keywords)
        if self._watch is not None:
            self._watch(self.index, call)
        if not self._keep:
            return self._decide(operation, function(*arguments, **keywords))
        return self._decide(operation, self._record_call(call))

    def _decide(self, operation: OpRecord, output: object) -> object:
        """Replace a boolean by its value in the trace; return anything else unchanged.

        Some models skip a mask that hides nothing, as a shortcut. The path that applies the mask
        gives the same outputs, which ``record`` verifies.
        """
        if not isinstance(output, bool) or operation.decision is None:
            return output
        self.decided_otherwise |= output != operation.decision
        return operation.decision

    def _record_call(self, call: Call) -> object:
        """Run an operation and add it to the tape, with sources in place of its tensors."""
        call = self._with_private_copy(call)
        step = Step(
            self.index,
            _LAYOUT_FREE.get(call.function, call.function),
            tuple(self.sources_of(value) for value in call.arguments),
            {key: self.sources_of(value) for key, value in call.keywords.items()},
        )
        target = _find_written(call)
        if target is not None:
            self._make_functional(step, target)
        output = call.function(*call.arguments, **call.keywords)
        made = list(iterate_tensors(output))
        for item, tensor in enumerate(made):
            self._note(Ref(self.index, item), tensor, hold=bool(call.tensors()))
        step.results = len(made)
        self.steps.append(step)
        return output

    def sources_of(self, value: object) -> object:
        """The value with sources in place of inputs and results."""

        def source(tensor: Slot) -> object:
            made_of_nothing = getattr(tensor, "_secateurs_source", tensor)
            return self._sources.get(id(tensor), made_of_nothing)

        return fill(value, source)

    def _note(self, ref: Ref, tensor: torch.Tensor, *, hold: bool) -> None:
        self.memories[ref] = self._number_memory(tensor)
        self._sharing.setdefault(memory_of(tensor), set()).add(id(tensor))
        if hold:
            self._sources[id(tensor)] = ref
            self.values[ref] = self._value(tensor)
        else:
            # On the tensor itself: holding the result of torch.zeros and the like makes PyTorch add
            # an operation.
            tensor._secateurs_source = ref  # type: ignore[attr-defined]
            self.values[ref] = self._value(tensor.view_as(tensor))
        if hold or not self._keep_values:
            self._protect_id(tensor)

    def _value(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor itself, or its shape and dtype where values are not kept."""
        return tensor if self._keep_values else torch.empty_like(tensor, device="meta")

    def _protect_id(self, tensor: torch.Tensor) -> None:
        """Make sure that no later tensor with a reused id is taken for this one."""
        if self._keep_values:
            self._alive.append(tensor)
            return
        key, memory = id(tensor), memory_of(tensor)

        def forget(_: object) -> None:
            self._ends.pop(key, None)
            self._sources.pop(key, None)
            self._sharing.get(memory, set()).discard(key)

        self._ends[key] = weakref.ref(tensor, forget)

    def _number_memory(self, tensor: torch.Tensor) -> int:
        """A number shared by tensors in the same memory, whether or not values are kept."""
        memory = memory_of(tensor)
        if self._keep_values or memory in self._given:
            return memory
        if not self._sharing.get(memory):  # the id is reused for new memory
            self._memory_numbers[memory] = next(self._unused_numbers)
        return self._memory_numbers[memory]

    def _restore(self) -> None:
        for ref, value in self.values.items():  # recorded values must not change with the restore
            if self.memories[ref] in self.written:
                self.values[ref] = value.clone()
        super()._restore()

    def _with_private_copy(self, call: Call) -> Call:
        """Redirect writes into the user's tensors (a buffer, an input) to a copy."""
        if self._copies:
            call = self._with_copies(call)
        target = _find_written(call)
        if target is None or isinstance(self.sources_of(target), Ref):
            return call
        if _twin(call.function) is None or self._sharing.get(memory_of(target)):
            return call  # other tensors share the memory: it is written into, and restored later
        copy = target.clone()
        self._alive.append(target)
        self._copies[id(target)] = copy
        self._sources[id(copy)] = self._sources.get(id(target), target)  # the unchanged original
        self._alive.append(copy)
        return self._with_copies(call)

    def _with_copies(self, call: Call) -> Call:
        def spare(value: Slot) -> Slot:
            return self._copies.get(id(value), value)

        arguments = [fill(value, spare) for value in call.arguments]
        keywords = {key: fill(value, spare) for key, value in call.keywords.items()}
        return Call(call.function, arguments, keywords)

    def _make_functional(self, step: Step, target: torch.Tensor) -> None:
        """Make an in-place step return a new tensor, which replaces its operand from now on."""
        twin = _twin(step.function)
        memory = memory_of(target)
        if memory in self._given:
            self.written.add(memory)
        others = self._sharing.get(memory, set()) - {id(target)}
        if twin is None or others or memory in self._given:
            step.mutates = True
            return
        step.function = twin
        old = self.sources_of(target)
        if isinstance(old, Ref):
            # The value before the write, for replays that start there.
            self.values[old] = target.clone() if self._keep_values else self._value(target)


class _StepRecorder(_Recorder):
    """Records a training step, on whatever path it takes."""

    def __init__(
        self,
        operations: Sequence[OpRecord],
        inputs: Sequence[torch.Tensor],
        run: Callable[[nn.Module], object],
    ) -> None:
        super().__init__(operations, inputs, None, keep=True)
        self._by_layer = RecordsByLayer(operations)
        self._done: Counter[tuple[str, str]] = Counter()
        self._run = run
        self.records: list[OpRecord] = []

    def call(self, model: nn.Module, arguments: Arguments, keywords: Keywords) -> object:
        del arguments, keywords
        # No gradients are computed here; they are enabled so that the step's own no_grad is
        # noticed.
        with torch.enable_grad():
            return self._run(model)

    def pass_through(
        self, function: OpOverload, arguments: Arguments, keywords: Keywords
    ) -> object:
        """Pass an unnumbered operation through, but record ``detach``, at which gradients stop."""
        if function.overloadpacket is not aten.detach:
            return super().pass_through(function, arguments, keywords)
        self.index += 1
        return self.step(function, arguments, keywords)

    def step(self, function: OpOverload, arguments: Arguments, keywords: Keywords) -> object:
        name = str(function.overloadpacket)
        known = None if self.is_outside else self._find_record(name)
        output = self._record_call(Call(function, arguments, keywords))
        self.steps[-1].has_gradient = torch.is_grad_enabled()
        if known is None:
            known = OpRecord(name, self.layer)
            known.outputs = [(tuple(one.shape), {}) for one in iterate_tensors(output)]
        self.records.append(known)
        return output

    def _find_record(self, name: str) -> OpRecord | None:
        key = (self.layer, name)
        self._done[key] += 1
        return self._by_layer.find(*key, self._done[key] - 1, self.index)


def _as_type(
    source: TensorSource | Cast | torch.Tensor, before: object, after: torch.Tensor
) -> TensorSource | Cast | torch.Tensor:
    """The source of a tensor that at most the dtype distinguishes from another."""
    if not isinstance(before, torch.Tensor) or isinstance(source, torch.Tensor):
        return source
    both_real = before.is_floating_point() and after.is_floating_point()
    return source if both_real or before.dtype == after.dtype else Cast(source, after.dtype)


def _find_written(call: Call) -> torch.Tensor | None:
    """The tensor that an operation writes into; None where there is none."""
    if not call.function._schema.is_mutable:
        return None
    for argument in call.function._schema.arguments:
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = call.get(argument.name)
            if isinstance(value, torch.Tensor):
                return value
    return None


def _twin(function: OpOverload) -> OpOverload | None:
    """``aten.relu`` for ``aten.relu_``; None where there is no such differentiable form."""
    if function.overloadpacket is aten.copy_:
        return None
    name = function._schema.name.partition("::")[2]
    packet = getattr(aten, name[:-1], None) if name.endswith("_") else None
    twin = getattr(packet, function._overloadname, None) if packet is not None else None
    if twin is None or twin._schema.is_mutable:
        return None
    names = [[argument.name for argument in f._schema.arguments[1:]] for f in (twin, function)]
    return twin if names[0] == names[1] else None


def fill(value: object, find: Find) -> object:
    """Apply ``find`` to each tensor, source and length in nested lists, tuples and dictionaries."""
    if isinstance(value, torch.Tensor | Ref | Input | Length):
        return find(value)
    if isinstance(value, Cast):
        found = fill(value.source, find)
        return found.to(value.dtype) if isinstance(found, torch.Tensor) else value
    if isinstance(value, list | tuple):
        items = [fill(item, find) for item in value]
        kind: Callable[..., object] = type(value)
        return kind(*items) if hasattr(value, "_fields") else kind(items)
    if isinstance(value, dict):
        return like(value, {key: fill(item, find) for key, item in value.items()})
    if is_data_class(value):
        parts = {key: fill(item, find) for key, item in fields_of(value).items()}
        return with_fields(value, parts)
    return value


def operands_in(values: object) -> Iterator[Operand]:
    """Every tensor or source in nested lists, tuples and dictionaries, in order."""
    if isinstance(values, torch.Tensor | Ref | Input):
        yield values
    elif isinstance(values, Cast):
        yield from operands_in(values.source)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from operands_in(value)
    elif isinstance(values, dict):
        for value in values.values():
            yield from operands_in(value)
    elif is_data_class(values):
        for value in fields_of(values).values():
            yield from operands_in(value)


def with_operands(call: Call, changes: Mapping[int, torch.Tensor]) -> Call:
    """The call with some of its tensor arguments, given by number, replaced."""
    numbers = itertools.count()

    def replace(tensor: Slot) -> Slot:
        return changes.get(next(numbers), tensor)

    arguments = [fill(value, replace) for value in call.arguments]
    keywords = {key: fill(value, replace) for key, value in call.keywords.items()}
    return Call(call.function, arguments, keywords)


def replay(
    tape: Tape,
    change: Callable[[Step, Call], Call],
    outside: Callable[[torch.Tensor], torch.Tensor],
) -> object:
    """Replay a whole tape and return the model's outputs.

    Args:
        tape: recorded tape.
        change: maps an operation about to run to the one to run instead.
        outside: maps a tensor that no operation returned (a weight, a constant, an input) to the
            one to use.
    """
    values: dict[Ref, torch.Tensor] = {}
    memory = Memory(tape.written)

    def find(source: Slot) -> torch.Tensor:
        if isinstance(source, Ref):
            return values[source]
        tensor = tape.find(source)
        return memory.find(tensor) if memory.holds(tensor) else outside(tensor)

    last = last_readers(tape.steps, tape.output)
    for step in tape.steps:
        call = change(step, step.call(find))
        with nullcontext() if step.has_gradient else torch.no_grad():
            output = call.function(*call.arguments, **call.keywords)
        for item, tensor in enumerate(iterate_tensors(output)):
            values[Ref(step.number, item)] = tensor
        for ref in last.get(step.number, ()):
            values.pop(ref, None)
    return fill(tape.output, find)


def last_readers(steps: Iterable[Step], output: object) -> dict[int, list[Ref]]:
    """Step number -> values that no later step reads."""
    last: dict[Ref, int] = {}
    for step in steps:
        for source in step.reads:
            if isinstance(source, Ref):
                last[source] = step.number
    for operand in operands_in(output):
        if isinstance(operand, Ref):
            last.pop(operand, None)
    by_step: dict[int, list[Ref]] = {}
    for ref, number in last.items():
        by_step.setdefault(number, []).append(ref)
    return by_step


# -- tapes for any number of images


@dataclass(frozen=True, slots=True)
class ImageAxis:
    """Location of images in a tensor: each image has ``each`` consecutive indices of ``axis``."""

    axis: int
    each: int = 1

    def select(self, tensor: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """The part of the tensor that belongs to these images, in this order."""
        if self.each == 1:
            return tensor.index_select(self.axis, images)
        offsets = torch.arange(self.each, device=images.device)
        index = (images[:, None] * self.each + offsets).flatten()
        return tensor.index_select(self.axis, index)


@dataclass(eq=False, slots=True)
class BatchedTape:
    """A tape that can be replayed with any number of images.

    Attributes:
        steps: steps with ``Length`` in place of integers that count images.
        output: outputs of the model.
        rows: location of the images in each value; values without images are not listed.
    """

    steps: list[Step]
    output: object
    rows: dict[Operand, ImageAxis] = field(default_factory=dict)

    @classmethod
    def between(cls, one: Tape, other: Tape) -> BatchedTape | None:
        """Merge two tapes of the same model with different numbers of images.

        None where that is impossible: the images do not lie along one axis, an integer that differs
        is no multiple of the number of images, or operations write into shared memory.
        """
        sizes = one.inputs[0].shape[0], other.inputs[0].shape[0]
        same = [s.function for s in one.steps] == [s.function for s in other.steps]
        if not same or not (one.resumable and other.resumable):
            return None
        program = cls([], one.output)
        try:
            for left, right in zip(one.steps, other.steps, strict=True):
                arguments = tuple(_merge_all(left.arguments, right.arguments, sizes))
                keywords = {
                    key: _merge(value, right.keywords[key], sizes)
                    for key, value in left.keywords.items()
                }
                program.steps.append(
                    Step(left.number, left.function, arguments, keywords, left.results)
                )
            program.rows = rows_between(one, other, strict=True)
        except _ImagesElsewhereError:
            return None
        return program


class _ImagesElsewhereError(Exception):
    """Images do not lie along one axis."""


def rows_between(one: Tape, other: Tape, *, strict: bool = False) -> dict[Operand, ImageAxis]:
    """Locate the images in each value: the axis whose length grows with their number.

    Args:
        one: a tape.
        other: a tape of the same model with another number of images.
        strict: raise for values in which images do not lie along one axis, instead of omitting
            them.
    """
    sizes = one.inputs[0].shape[0], other.inputs[0].shape[0]
    pairs: list[tuple[TensorSource, torch.Tensor, torch.Tensor]] = [
        (Input(number), *pair)
        for number, pair in enumerate(zip(one.inputs, other.inputs, strict=True))
    ]
    pairs += [(ref, value, other.values[ref]) for ref, value in one.values.items()]
    rows: dict[Operand, ImageAxis] = {}
    for source, mine, theirs in pairs:
        try:
            found = _rows(mine.shape, theirs.shape, sizes)
        except _ImagesElsewhereError:
            if strict:
                raise
            continue
        if found is not None:
            rows[source] = found
    return rows


def _rows(one: Sequence[int], other: Sequence[int], sizes: tuple[int, int]) -> ImageAxis | None:
    """Location of the images, given the shapes for two numbers of them; None without images."""
    differ = [axis for axis, (a, b) in enumerate(zip(one, other, strict=False)) if a != b]
    if len(one) == len(other) and not differ:
        return None
    axis = differ[0] if differ else 0
    each, rest = divmod(one[axis], sizes[0]) if one else (0, 1)
    if len(one) != len(other) or len(differ) > 1 or rest or other[axis] != each * sizes[1]:
        raise _ImagesElsewhereError
    return ImageAxis(axis, each)


def _merge_all(one: Arguments, other: Arguments, sizes: tuple[int, int]) -> list[object]:
    if len(one) != len(other):
        raise _ImagesElsewhereError
    return [_merge(a, b, sizes) for a, b in zip(one, other, strict=True)]


def _merge(one: object, other: object, sizes: tuple[int, int]) -> object:
    """Merge an argument of a step on both tapes, with ``Length`` for integers that count images."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return type(one)(_merge_all(one, other, sizes))
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: _merge(value, other[key], sizes) for key, value in one.items()}
    if isinstance(one, torch.Tensor):
        return _merge_constant(one, other)
    if type(one) is int and type(other) is int and one != other:
        each, rest = divmod(one, sizes[0])
        if rest or other != each * sizes[1]:
            raise _ImagesElsewhereError
        return Length(each)
    if one != other and not (isinstance(one, float) and math.isnan(one)):
        raise _ImagesElsewhereError
    return one


def _merge_constant(one: torch.Tensor, other: object) -> torch.Tensor:
    """A weight, or a constant created in each run, which must be equal in both."""
    same = isinstance(other, torch.Tensor) and (
        one is other or (one.shape == other.shape and torch.equal(one, other))
    )
    if not same:
        raise _ImagesElsewhereError
    return one
