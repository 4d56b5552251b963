"""The proof of a cut: the small model against the masked twin of the dense one.

The masked twin is the dense model whose *consumers* ignore the removed channels: the slices of
their weights that read these are zero. (Zeroing the filters that make them would be wrong: after
batch normalisation and ReLU a zero is no longer zero.) A layer that mixes channels, such as layer
normalisation, is run by the twin on the kept channels alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.channels.cut import Cut
from secateurs.channels.evidence import Proof, furthest_apart
from secateurs.channels.labels import Ids
from secateurs.channels.network import Network
from secateurs.channels.tensors import Mask
from secateurs.errors import CutError
from secateurs.keras.attributes import Changes, by_owner, with_positions
from secateurs.keras.counted import Counted, Site, called, converted
from secateurs.keras.inputs import as_arrays, made_up
from secateurs.keras.internals import compiled, mask_of, set_mask
from secateurs.keras.leaves import calls_of, named_operations, named_variables
from secateurs.keras.surgery import remade, undisturbed
from secateurs.keras.trace import TracedModel, traced
from secateurs.keras.tracer import Axes, Operation

SAMPLES_EACH = 64

TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}
"""Largest difference that rounding explains, relative to the largest output."""


@dataclass(frozen=True, eq=False, slots=True)
class Kept:
    """Which units stay, and where.

    Attributes:
        stays: for each unit, whether it does.
    """

    stays: NDArray[np.bool_]

    def places(self, units: Ids) -> NDArray[np.int32]:
        """Places along an axis of these units that stay."""
        return np.flatnonzero(self.stays[units]).astype(np.int32)

    def shape(self, dense: Sequence[int], axes: Axes) -> tuple[int, ...]:
        """The shape of what stays of a tensor."""
        return tuple(
            int(self.stays[axes[axis]].sum()) if axis in axes else length
            for axis, length in enumerate(dense)
        )

    def laid_out(self, units: Ids, rank: int, axis: int) -> NDArray[np.bool_]:
        """Whether each unit stays, along one axis of a tensor of this rank."""
        shape = [1] * rank
        shape[axis] = len(units)
        return self.stays[units].reshape(shape)

    def all(self, axes: Axes) -> bool:
        """Whether nothing goes along these axes."""
        return all(bool(self.stays[units].all()) for units in axes.values())

    def compressed(self, tensor: Any, axes: Axes) -> Any:
        """The tensor without the removed channels."""
        small = tensor
        for axis, units in axes.items():
            if not self.stays[units].all():
                small = keras.ops.take(small, self.places(units), axis=axis)
        if small is not tensor:
            set_mask(small, mask_of(tensor))
        return small

    def expanded(self, tensor: Any, axes: Axes) -> Any:
        """The tensor with something, that nobody reads, at the removed channels."""
        for axis, units in axes.items():
            if not self.stays[units].all():
                back = np.cumsum(self.stays[units]).astype(np.int32) - 1
                tensor = keras.ops.take(tensor, np.maximum(back, 0), axis=axis)
        return tensor


class Sampled:
    """Runs a model and keeps a few values of every call's result.

    A model's output alone can prove nothing where it hardly depends on the weights (a head that
    starts at zero, activations that have died away), so the proof also compares what is inside.
    """

    def __init__(self, operations: Sequence[Operation], kept: Kept) -> None:
        self._operations = operations
        self._kept = kept
        self.samples: list[Any] = []

    def begin(self) -> None:
        """Forget the samples of a run before this one."""
        self.samples = []

    def beside(self, outputs: Sequence[Any]) -> tuple[list[Any], ...]:
        """What was found beside the outputs themselves."""
        del outputs
        return ()

    def __call__(self, site: Site, arguments: Sequence[Any], keywords: dict[str, Any]) -> Any:
        operation = self._operations[site.index]
        output = self.do(operation, site, arguments, keywords)
        self.samples.append(self.sample(keras.tree.flatten(output)[0], operation))
        return output

    def do(
        self, operation: Operation, site: Site, arguments: Sequence[Any], keywords: dict[str, Any]
    ) -> Any:
        """The call itself."""
        del operation
        return called(site.operation, arguments, keywords)

    def sample(self, tensor: Any, operation: Operation) -> Any:
        """Values at places that depend on the small model's shape alone."""
        shape, axes = operation.outputs[0]
        batch = tuple(tensor.shape)[:1] if shape and 0 not in axes else ()
        dense = (*batch, *shape[len(batch) :])
        small = self._kept.shape(dense, axes)
        total = math.prod(small)
        is_float = "float" in keras.backend.standardize_dtype(tensor.dtype)
        if not is_float or not total:
            return keras.ops.zeros((0,))
        flat = np.random.default_rng(total).integers(0, total, min(total, SAMPLES_EACH))
        places = np.unravel_index(flat, small) if small else ()
        own = self.shape_of(dense, small)
        index = np.ravel_multi_index(self.moved(places, axes), own) if small else flat
        values = keras.ops.reshape(tensor, (-1,))
        return keras.ops.cast(keras.ops.take(values, index.astype(np.int32), axis=0), "float32")

    def shape_of(self, dense: Sequence[int], small: Sequence[int]) -> Sequence[int]:
        """The shape that this model's result has."""
        del dense
        return small

    def moved(self, places: Sequence[NDArray[Any]], axes: Axes) -> tuple[NDArray[Any], ...]:
        """Where this model has what the small one has at these places."""
        del axes
        return tuple(places)


class MaskedTwin(Sampled):
    """Runs the dense model as if the removed channels were not there."""

    def __init__(
        self, operations: Sequence[Operation], kept: Kept, stand_ins: dict[int, Any]
    ) -> None:
        super().__init__(operations, kept)
        self._stand_ins = stand_ins

    def do(
        self, operation: Operation, site: Site, arguments: Sequence[Any], keywords: dict[str, Any]
    ) -> Any:
        if site.index in self._stand_ins:
            layer = self._stand_ins[site.index]
            return self._on_kept_channels(operation, layer, arguments, keywords)
        if operation.masks:
            ignoring = partial(self._ignoring, operation.masks)
            arguments, keywords = with_tensors(operation, arguments, keywords, ignoring)
        return called(site.operation, arguments, keywords)

    def _ignoring(self, masks: Sequence[Mask], number: int, tensor: Any) -> Any:
        masked = tensor
        for mask in masks:
            if mask.operand == number and not self._kept.stays[mask.units].all():
                stays = self._kept.laid_out(mask.units, len(tensor.shape), mask.axis)
                masked = keras.ops.where(stays, masked, keras.ops.zeros_like(masked))
        set_mask(masked, mask_of(tensor))
        return masked

    def _on_kept_channels(
        self,
        operation: Operation,
        layer: Any,
        arguments: Sequence[Any],
        keywords: dict[str, Any],
    ) -> Any:
        padding: list[Any] = []

        def compressed(number: int, tensor: Any) -> Any:
            padding.append(mask_of(tensor))
            return self._kept.compressed(tensor, operation.inputs[number][1])

        arguments, keywords = with_tensors(operation, arguments, keywords, compressed)
        output = called(layer, arguments, keywords)
        flat = [
            self._kept.expanded(tensor, axes)
            for tensor, (_, axes) in zip(keras.tree.flatten(output), operation.outputs, strict=True)
        ]
        set_mask(flat[0], padding[0])
        return keras.tree.pack_sequence_as(output, flat)

    def shape_of(self, dense: Sequence[int], small: Sequence[int]) -> Sequence[int]:
        return dense

    def moved(self, places: Sequence[NDArray[Any]], axes: Axes) -> tuple[NDArray[Any], ...]:
        return tuple(
            self._kept.places(axes[axis])[at] if axis in axes else at
            for axis, at in enumerate(places)
        )


def with_tensors(
    operation: Operation,
    arguments: Sequence[Any],
    keywords: dict[str, Any],
    change: Callable[[int, Any], Any],
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call with its tensors changed; ``change`` is told which tensor it is."""
    structure = [list(arguments), keywords]
    flat = list(keras.tree.flatten(structure))
    for number, slot in enumerate(operation.slots):
        flat[slot] = change(number, flat[slot])
    changed = keras.tree.pack_sequence_as(structure, flat)
    return list(changed[0]), dict(changed[1])


def prove(
    network: Network, small: Any, cut: Cut, alive: NDArray[np.bool_], example_inputs: Any = None
) -> Proof:
    """Run the small model and the masked twin on the same inputs.

    A difference that rounding along many layers may explain is looked at again call by call, each
    on the twin's own values, where rounding cannot add up.

    Args:
        network: the dense model's, as traced.
        small: the cut model.
        cut: what went.
        alive: the atoms that stay.
        example_inputs: as the model takes; made up where there are none.

    Raises:
        CutError: the small model cannot run, the difference is larger than rounding explains, or
            the outputs are not finite, so that nothing can be proven.
    """
    comparison = Comparison.of(network, small, cut, alive, example_inputs)
    proof = comparison.whole()
    if not proof.holds:
        again = comparison.call_by_call()
        proof = again if again.holds else proof
    if not proof.holds:
        raise CutError(proof.refusal(network.name, "A layer"))
    return proof


def outputs_without(network: Network, cut: Cut, arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """What the masked twin gives: the dense model that ignores what the cut removes."""
    alive = network.alive(network.removed_by(cut))
    return Comparison.of(network, None, cut, alive, arrays).twins_outputs()


@dataclass(frozen=True, eq=False, slots=True)
class Comparison:
    """Two models, the same inputs, and what the twin needs.

    Attributes:
        network: the dense model's, as traced.
        small: the cut model.
        cut: what went.
        kept: what stays.
        arrays: the inputs.
        stand_ins: call -> a layer of the kept channels alone, for those that mix channels.
    """

    network: Network
    small: Any
    cut: Cut
    kept: Kept
    arrays: list[NDArray[Any]]
    stand_ins: dict[int, Any]

    @classmethod
    def of(
        cls,
        network: Network,
        small: Any,
        cut: Cut,
        alive: NDArray[np.bool_],
        example_inputs: Any,
    ) -> Comparison:
        """Make the inputs and the stand-ins."""
        source = traced(network)
        given = source.example_inputs if example_inputs is None else example_inputs
        arrays = (
            made_up(source.model, source.index_ranges)
            if given is None
            else as_arrays(given, source.model)
        )
        kept = Kept(network.solution.kept(alive))
        return cls(network, small, cut, kept, arrays, _stand_ins(source, cut, kept))

    @property
    def source(self) -> TracedModel:
        return traced(self.network)

    def twins_outputs(self) -> list[NDArray[Any]]:
        """What the masked twin gives."""
        twin = MaskedTwin(self.source.operations, self.kept, self.stand_ins)
        return self._run(self.source.model, twin, self._twins_values()).outputs

    def whole(self) -> Proof:
        """Each model run from its inputs to its outputs."""
        operations = self.source.operations
        twin = MaskedTwin(operations, self.kept, self.stand_ins)
        sampled = Sampled(operations, self.kept)
        expected = self._run(self.source.model, twin, self._twins_values())
        try:
            received = self._run(self.small, sampled, present_values(self.small))
        except Exception as error:
            raise CutError(
                f"{self.network.name}: the cut model does not run: {type(error).__name__}: "
                f"{error}. Nothing was changed."
            ) from error
        return self._proof(received, expected)

    def call_by_call(self) -> Proof:
        """Each call of the small model on the values that the twin has there."""
        calls = [operation for _, operation in calls_of(self.small)]
        changes = by_owner(self.cut.sizes)
        side_by_side = SideBySide(self.source.operations, self.kept, self.stand_ins, calls, changes)
        values = {**self._twins_values(), **present_values(self.small)}
        expected = self._run(self.source.model, side_by_side, values)
        received = Results(expected.theirs, expected.their_samples)
        return self._proof(received, expected)

    def _twins_values(self) -> dict[int, tuple[Any, Any]]:
        """Every variable of the dense model, zero where it reads a channel that goes."""
        values = present_values(self.source.model)
        for stand_in in self.stand_ins.values():
            values |= _values_of([stand_in])
        for (_, axis), leaf in self.source.read.items():
            units = leaf.axes.get(axis)
            if units is not None and not self.kept.stays[units].all():
                variable, value = values[id(leaf.variable)]
                stays = self.kept.laid_out(units, len(leaf.shape), axis)
                numbers = np.asarray(keras.ops.convert_to_numpy(value))
                masked = np.where(stays, numbers, np.zeros_like(numbers))
                tensor = keras.ops.convert_to_tensor(masked, dtype=variable.dtype)
                values[id(leaf.variable)] = (variable, tensor)
        return values

    def _run(self, model: Any, step: Sampled, values: dict[int, tuple[Any, Any]]) -> Results:
        variables = [variable for variable, _ in values.values()]

        def forward(present: list[Any], arrays: list[Any]) -> tuple[list[Any], ...]:
            step.begin()
            with keras.StatelessScope(state_mapping=list(zip(variables, present, strict=True))):
                outputs = Counted(step).run(model, converted(model, arrays))
            return outputs, step.samples, *step.beside(outputs)

        numbers = compiled(forward)([value for _, value in values.values()], self.arrays)
        return Results(*([_as_numbers(item) for item in part] for part in numbers))

    def _proof(self, received: Results, expected: Results) -> Proof:
        difference, scale = largest_difference(received.outputs, expected.outputs)
        if not math.isfinite(scale):
            raise CutError(
                f"{self.network.name}: the dense model's output is not finite on these inputs"
                f"{_first_not_finite(self.source)}; nothing can be proven. Check its weights and "
                "the example inputs."
            )
        relative = TOLERANCE[_precision(self.source.model)]
        inside, where = _largest_inside(
            self.source.operations, received.samples, expected.samples, 10 * relative
        )
        mixings = (m for m in self.network.mixings if not self.kept.stays[m.units].all())
        inexact = tuple(dict.fromkeys(str(mixing) for mixing in mixings))
        return Proof(difference, scale, relative * scale, inside, 10 * relative, where, inexact)


@dataclass(frozen=True, eq=False, slots=True)
class Results:
    """What a run gave: outputs and samples, and those of what was run beside it."""

    outputs: list[NDArray[Any]]
    samples: list[NDArray[Any]]
    theirs: list[NDArray[Any]] = field(default_factory=list)
    their_samples: list[NDArray[Any]] = field(default_factory=list)


class SideBySide(MaskedTwin):
    """The masked twin, with each call of the small model run beside it on the twin's values."""

    def __init__(
        self,
        operations: Sequence[Operation],
        kept: Kept,
        stand_ins: dict[int, Any],
        calls: Sequence[Any],
        changes: Changes,
    ) -> None:
        super().__init__(operations, kept, stand_ins)
        self._calls = calls
        self._changes = changes
        self.begin()

    def begin(self) -> None:
        super().begin()
        self._theirs: dict[int, Any] = {}
        self._their_samples: list[Any] = []
        self._theirs_sampled = Sampled(self._operations, self._kept)

    def __call__(self, site: Site, arguments: Sequence[Any], keywords: dict[str, Any]) -> Any:
        output = super().__call__(site, arguments, keywords)
        operation = self._operations[site.index]

        def compressed(number: int, tensor: Any) -> Any:
            return self._kept.compressed(tensor, operation.inputs[number][1])

        layer = self._calls[site.index]
        less, options = with_tensors(operation, arguments, keywords, compressed)
        less = with_positions(layer, less, self._changes.get(site.path, ()))
        theirs = keras.tree.flatten(called(layer, less, options))
        for mine, other in zip(keras.tree.flatten(output), theirs, strict=True):
            self._theirs[id(mine)] = other
        self._their_samples.append(self._theirs_sampled.sample(theirs[0], operation))
        return output

    def beside(self, outputs: Sequence[Any]) -> tuple[list[Any], ...]:
        return [self._theirs.get(id(tensor), tensor) for tensor in outputs], self._their_samples


def _stand_ins(source: TracedModel, cut: Cut, kept: Kept) -> dict[int, Any]:
    """For each call that mixes channels of which some go: its layer, made for those that stay."""
    layers: dict[int, Any] = {}
    for index, (_, layer) in enumerate(calls_of(source.model)):
        operation = source.operations[index]
        if operation.mixes and not all(kept.all(axes) for _, axes in operation.inputs):
            layers[index] = _stand_in(source, cut, kept, operation, layer)
    return layers


def _stand_in(source: TracedModel, cut: Cut, kept: Kept, operation: Operation, layer: Any) -> Any:
    if not hasattr(layer, "build"):
        return layer  # an operation of keras.ops: it takes what it is given
    path = operation.layer
    with undisturbed():
        new = remade(layer, path, by_owner(cut.sizes))
        shapes = [kept.shape(shape, axes) for shape, axes in operation.inputs]
        new.build(shapes[0] if len(shapes) == 1 else shapes)
    own = zip(named_variables(layer, path), named_variables(new, path), strict=True)
    leaves = {id(leaf.variable): leaf for leaf in source.leaves.values()}
    for (_, old, _), (_, made, _) in own:
        leaf = leaves[id(old)]
        numbers = np.asarray(keras.ops.convert_to_numpy(old.value))
        for axis, units in leaf.axes.items():
            numbers = np.take(numbers, kept.places(units), axis=axis)
        made.assign(numbers)
    return new


def present_values(model: Any) -> dict[int, tuple[Any, Any]]:
    """Every variable of a model, by ``id``, with its value."""
    return _values_of([operation for _, operation in named_operations(model)])


def _values_of(operations: Sequence[Any]) -> dict[int, tuple[Any, Any]]:
    """Variables (by ``id``) and their present values, out of which no gradient is to be had."""
    return {
        id(variable): (variable, keras.ops.stop_gradient(variable.value))
        for operation in operations
        for _, variable, _ in named_variables(operation, "")
    }


def _as_numbers(tensor: Any) -> NDArray[Any]:
    kind = keras.backend.standardize_dtype(tensor.dtype)
    if kind in ("bfloat16", "float16"):
        tensor = keras.ops.cast(tensor, "float32")
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def largest_difference(
    received: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]
) -> tuple[float, float]:
    """(largest absolute difference, largest absolute value) over all outputs of two runs."""
    difference = scale = 0.0
    for mine, theirs in zip(received, expected, strict=True):
        if mine.shape != theirs.shape:
            return math.inf, scale
        if mine.size and mine.dtype.kind == "f":
            difference = max(difference, _finite_or_inf(np.abs(mine - theirs).max()))
            scale = max(scale, _finite_or_inf(np.abs(theirs).max()))
    return difference, scale


def _finite_or_inf(number: float) -> float:
    return math.inf if math.isnan(number) else float(number)


def _largest_inside(
    operations: Sequence[Operation],
    received: Sequence[NDArray[Any]],
    expected: Sequence[NDArray[Any]],
    tolerance: float,
) -> tuple[float, str]:
    """How far the samples of the calls are apart, and where they first come apart.

    Returns:
        (largest difference of a call's samples relative to their size, the layer of the first call
        beyond the tolerance, or else of the largest difference).
    """
    pairs = list(zip(operations, received, expected, strict=True))
    for operation, mine, theirs in pairs:
        if mine.shape != theirs.shape:
            return math.inf, operation.layer
    filled = [pair for pair in pairs if pair[1].size]
    return furthest_apart(
        [operation.layer for operation, _, _ in filled],
        [mine for _, mine, _ in filled],
        [theirs for _, _, theirs in filled],
        tolerance,
    )


def _precision(model: Any) -> str:
    """The coarsest floating-point type that a layer of the model computes with."""
    types = {getattr(operation, "compute_dtype", "float32") for _, operation in calls_of(model)}
    return max(types & set(TOLERANCE), key=TOLERANCE.__getitem__, default="float32")


def _first_not_finite(source: TracedModel) -> str:
    for name, leaf in source.leaves.items():
        values = leaf.array()
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            return f" ({name} holds NaN or infinity)"
    return ""
