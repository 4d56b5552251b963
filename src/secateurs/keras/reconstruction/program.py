"""A Keras model's pass over many images, in pieces, one step after the other.

A functional model is a graph; here it becomes a list of steps that the lockstep walk runs one at a
time for all images. A layer that does several things in one call becomes several steps: a
convolution and its activation, the two steps of a separable convolution, attention and its
projections. Only values that later steps still read are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.calibration.batches import CalibrationBatch
from secateurs.errors import DataError, SecateursError
from secateurs.keras.internals import Operation, Variable, graph_of, infer, without_gradients
from secateurs.keras.model.example_inputs import as_arrays
from secateurs.keras.model.tensors import size_of
from secateurs.keras.protocols import BackendTensor
from secateurs.keras.reconstruction.parts import Part, parts_of
from secateurs.keras.tracing.interpreter import CallSite, OpInterpreter, convert_arrays
from secateurs.keras.tracing.op_record import OpRecord
from secateurs.reconstruction.drawing import Present

MOST_AT_A_TIME = 256
"""Maximum number of images in a piece."""

NUMBERS_AT_A_TIME = 2**23
"""Maximum number of elements in the largest value of a piece: 32 MB in float32."""


@dataclass(frozen=True, slots=True)
class GraphRef:
    """Reference to output ``item`` of step number ``step``; step -1 is the model's inputs."""

    step: int
    item: int = 0


@dataclass(eq=False, slots=True)
class _Recorded:
    """Stand-in for a tensor while the steps of a graph are recorded."""

    spec: keras.KerasTensor
    ref: GraphRef


@dataclass(eq=False, slots=True)
class GraphStep:
    """One step, with references to its arguments.

    Attributes:
        number: its index in the program.
        operation: index of the traced call that it is, or is a part of.
        part: the part of the call that it runs.
        arguments: positional arguments, with ``GraphRef`` in place of computed values.
        keywords: keyword arguments, likewise.
        specs: shapes and dtypes of its outputs.
        is_last: whether its output is that of the call.
        is_whole: whether it is the whole call.
    """

    number: int
    operation: int
    part: Part
    arguments: Sequence[object]
    keywords: Mapping[str, object]
    specs: list[keras.KerasTensor]
    is_last: bool
    is_whole: bool = True

    @property
    def operands(self) -> list[object]:
        """All arguments, flat."""
        return list(keras.tree.flatten([list(self.arguments), dict(self.keywords)]))

    @property
    def reads(self) -> list[GraphRef]:
        """References among the arguments: values that differ from run to run."""
        return [operand for operand in self.operands if isinstance(operand, GraphRef)]

    def run(self, find: Callable[[object], object]) -> list[BackendTensor]:
        """Run the step; ``find`` resolves references. Returns its outputs, flat."""
        arguments, keywords = keras.tree.map_structure(
            find, (list(self.arguments), dict(self.keywords))
        )
        return list(keras.tree.flatten(self.part.run(arguments, keywords)))


@dataclass(frozen=True, eq=False, slots=True)
class Program:
    """The steps of a forward pass over a fixed number of images.

    Attributes:
        steps: steps in topological order.
        outputs: references to the model's outputs.
    """

    steps: Sequence[GraphStep]
    outputs: Sequence[GraphRef]

    @classmethod
    def of(cls, model: keras.Model, shapes: Sequence[tuple[int, ...]]) -> Program:
        """Record the program of a model for inputs of these shapes."""
        recorder = _Recorder()
        inputs = [
            _Recorded(keras.KerasTensor(shape, dtype=like.dtype), GraphRef(-1, number))
            for number, (shape, like) in enumerate(zip(shapes, graph_of(model).inputs, strict=True))
        ]
        given = OpInterpreter(recorder.step).run(model, inputs)
        steps, outputs = recorder.steps, [one.ref for one in given]
        return _in_order(steps, outputs)

    @property
    def last_readers(self) -> Mapping[int, list[GraphRef]]:
        """Number of a step -> references that no later step reads."""
        last: dict[GraphRef, int] = {}
        for step in self.steps:
            last.update((ref, step.number) for ref in step.reads)
        found: dict[int, list[GraphRef]] = {}
        for ref, number in last.items():
            if ref not in self.outputs:
                found.setdefault(number, []).append(ref)
        return found

    def bytes_at_once(self, until: int) -> int:
        """Return the peak bytes of values that have to be kept, up to a step."""
        last, alive, most = self.last_readers, {}, 0
        for step in self.steps[: until + 1]:
            for item, spec in enumerate(step.specs):
                alive[GraphRef(step.number, item)] = math.prod(spec.shape) * size_of(
                    keras.backend.standardize_dtype(spec.dtype)
                )
            most = max(most, sum(alive.values()))
            for ref in last.get(step.number, ()):
                alive.pop(ref, None)
        return most

    def largest(self) -> int:
        """Return the number of elements of the largest value."""
        return max((math.prod(spec.shape) for step in self.steps for spec in step.specs), default=1)

    def readers(self) -> Mapping[GraphRef, list[GraphStep]]:
        """Map each value to the steps that read it; a step that reads it twice is listed twice."""
        found: dict[GraphRef, list[GraphStep]] = {}
        for step in self.steps:
            for ref in step.reads:
                found.setdefault(ref, []).append(step)
        return found


class _Recorder:
    """Records each call as a sequence of steps."""

    def __init__(self) -> None:
        self.steps: list[GraphStep] = []

    def step(
        self, site: CallSite, arguments: Sequence[object], keywords: dict[str, object]
    ) -> object:
        specs = keras.tree.map_structure(_spec_of, (list(arguments), dict(keywords)))
        made = _outputs_of(site.operation, *specs)
        given, options = keras.tree.map_structure(_ref_of, (list(arguments), dict(keywords)))
        flat = list(keras.tree.flatten(made))
        parts = parts_of(site.operation, given, options, *specs)
        before: list[GraphRef] = []
        for place, part in enumerate(parts):
            number, is_last = len(self.steps), place == len(parts) - 1
            outputs = flat if is_last else [part.spec if part.spec is not None else flat[0]]
            whole = len(parts) == 1
            self.steps.append(
                GraphStep(
                    number, site.index, part, *part.arguments(before), outputs, is_last, whole
                )
            )
            before.append(GraphRef(number))
        last = self.steps[-1].number
        results = [_Recorded(spec, GraphRef(last, item)) for item, spec in enumerate(flat)]
        packed: object = keras.tree.pack_sequence_as(made, results)
        return packed


def _spec_of(item: object) -> object:
    if isinstance(item, Variable):
        return keras.KerasTensor(item.shape, dtype=item.dtype)
    return item.spec if isinstance(item, _Recorded) else item


def _ref_of(item: object) -> object:
    return item.ref if isinstance(item, _Recorded) else item


def _outputs_of(
    operation: Operation, arguments: Sequence[object], keywords: Mapping[str, object]
) -> object:
    made: object = operation.compute_output_spec(*arguments, **keywords)
    if any(None in spec.shape for spec in keras.tree.flatten(made)):
        made = infer(operation, *arguments, **keywords)
    return made


def _in_order(steps: Sequence[GraphStep], outputs: Sequence[GraphRef]) -> Program:
    """Order the steps branch by branch; of branches that meet in a sum, the longest comes last.

    The last contraction of a branch can compensate for errors of the other branches only if these
    have been run before it. Keras interleaves the branches, so its order is not used.
    """
    order = _order_by_branches(steps, outputs)
    place = {step.number: number for number, step in enumerate(order)}

    def renumber(ref: GraphRef) -> GraphRef:
        return GraphRef(place[ref.step], ref.item) if ref.step >= 0 else ref

    for number, step in enumerate(order):
        step.number = number
        step.arguments, step.keywords = keras.tree.map_structure(
            lambda item: renumber(item) if isinstance(item, GraphRef) else item,
            (list(step.arguments), dict(step.keywords)),
        )
    return Program(order, [renumber(ref) for ref in outputs])


def _order_by_branches(steps: Sequence[GraphStep], outputs: Sequence[GraphRef]) -> list[GraphStep]:
    """Order the steps after those that they read; of several branches, the deepest last."""
    depth: dict[int, int] = {}
    for step in steps:
        depth[step.number] = 1 + max((depth.get(ref.step, 0) for ref in step.reads), default=0)
    order: list[GraphStep] = []
    seen: set[int] = set()
    waiting: list[tuple[int, bool]] = [(ref.step, False) for ref in reversed(outputs)]
    while waiting:
        number, is_ready = waiting.pop()
        if is_ready:
            order.append(steps[number])
        elif number >= 0 and number not in seen:
            seen.add(number)
            before = sorted(
                {ref.step for ref in steps[number].reads}, key=lambda n: (-depth.get(n, 0), n)
            )
            waiting.append((number, True))
            waiting += [(one, False) for one in before]
    return [*order, *(step for step in steps if step.number not in seen)]


StepChange = Callable[[GraphStep, list[BackendTensor]], list[BackendTensor]]


@dataclass(eq=False)
class Piece:
    """Some of the images, and the values of their pass that are still needed.

    Attributes:
        program: program for this number of images.
        images: number of images.
        values: values that later steps still read, and the model's inputs.
        done: number of steps that have been run.
        labels: labels of the images, if they have any.
        present: positions of each text that are not padding.
    """

    program: Program
    images: int
    values: dict[GraphRef, BackendTensor] = field(default_factory=dict)
    done: int = 0
    labels: NDArray[np.generic] | None = None
    present: Present = field(default_factory=dict)
    _last: Mapping[int, list[GraphRef]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._last = self._last or self.program.last_readers

    @property
    def steps(self) -> Sequence[GraphStep]:
        """The steps of the program."""
        return self.program.steps

    @overload
    def find(self, source: GraphRef) -> BackendTensor: ...
    @overload
    def find(self, source: object) -> object: ...
    def find(self, source: object) -> object:
        """Resolve a reference to its value; return anything else unchanged."""
        return self.values[source] if isinstance(source, GraphRef) else source

    def do(self, step: GraphStep) -> list[BackendTensor]:
        """Run a step, keep its outputs, and return them."""
        with without_gradients():
            made = step.run(self.find)
        self.keep(step, made)
        return made

    def keep(self, step: GraphStep, made: Sequence[BackendTensor]) -> None:
        """Keep these as the outputs of a step, and count the step as done."""
        self.values.update((GraphRef(step.number, item), one) for item, one in enumerate(made))
        self.done += 1

    def forget(self, step: GraphStep) -> None:
        """Drop values that no later step reads."""
        for ref in self._last.get(step.number, ()):
            if ref.step >= 0:
                self.values.pop(ref, None)

    def measure_memory(self) -> int:
        """Bytes of the values held, inputs excluded."""
        return sum(
            math.prod(value.shape) * size_of(keras.backend.standardize_dtype(value.dtype))
            for ref, value in self.values.items()
            if ref.step >= 0
        )

    def result(self) -> list[BackendTensor]:
        """The floating-point tensors among the model's outputs."""
        return [one for one in self.outputs() if keras.backend.is_float_dtype(one.dtype)]

    def outputs(self) -> list[BackendTensor]:
        """The outputs of the model, flat."""
        return [self.values[ref] for ref in self.program.outputs]

    def branch(self) -> Piece:
        """A copy, to go on from here in another way."""
        return Piece(
            self.program,
            self.images,
            dict(self.values),
            self.done,
            self.labels,
            self.present,
            self._last,
        )

    def play(self, change: StepChange | None = None) -> list[BackendTensor]:
        """Run the rest of the pass; return the model's floating-point outputs.

        Args:
            change: function (step, its outputs) -> outputs to use instead.
        """
        for step in self.steps[self.done :]:
            made = step.run(self.find)
            self.keep(step, made if change is None else change(step, made))
            self.forget(step)
        return self.result()


class Pieces:
    """A model's pass for any number of images.

    Args:
        model: model to run.
        operations: traced calls, of this model or of the dense one that it was cut from.
        first: some images, which give the shapes.
    """

    def __init__(
        self, model: keras.Model, operations: Sequence[OpRecord], first: CalibrationBatch
    ) -> None:
        self.model = model
        self._operations = operations
        self._programs: dict[int, Program] = {}
        self._shapes = [array.shape[1:] for array in as_arrays(first.images, model)]
        two = self.program(2)
        self.numbers = max(1, two.largest() // 2)

    def bytes_at_once(self, until: int) -> int:
        """Peak bytes of the values held for one image, up to a step."""
        return self.program(2).bytes_at_once(until) // 2

    def program(self, images: int) -> Program:
        """Return the program for a number of images; programs are cached.

        Raises:
            DataError: the model does not accept such images.
        """
        if images not in self._programs:
            shapes = [(images, *shape) for shape in self._shapes]
            try:
                self._programs[images] = Program.of(self.model, shapes)
            except SecateursError:
                raise
            except Exception as error:
                raise DataError(
                    f"calibration data: expected images that pass through {self.model.name}, as "
                    f"the example inputs did; with {images} of them it raised "
                    f"{type(error).__name__}: {error}"
                ) from error
        return self._programs[images]

    def operation(self, step: GraphStep) -> OpRecord:
        """Return the traced call that a step is part of."""
        return self._operations[step.operation]

    def sizes(self, images: int) -> Iterator[slice]:
        """Slices of the images, of a size that suits the machine."""
        each = max(1, min(MOST_AT_A_TIME, NUMBERS_AT_A_TIME // self.numbers))
        for start in range(0, images, each):
            yield slice(start, min(images, start + each))

    def piece(self, batch: CalibrationBatch) -> Piece:
        """These images, at the start of their pass."""
        tensors = convert_arrays(self.model, as_arrays(batch.images, self.model))
        values = {GraphRef(-1, number): tensor for number, tensor in enumerate(tensors)}
        return Piece(
            self.program(len(batch)),
            len(batch),
            values,
            labels=batch.labels,
            present=batch.present_places,
        )


def as_numbers(tensor: BackendTensor | Variable) -> NDArray[np.float32]:
    """Convert a tensor or weight to an array; half precision becomes float32."""
    tensor = tensor.value if isinstance(tensor, Variable) else tensor
    if keras.backend.standardize_dtype(tensor.dtype) in ("float16", "bfloat16"):
        tensor = keras.ops.cast(tensor, "float32")
    return np.asarray(keras.ops.convert_to_numpy(tensor))
