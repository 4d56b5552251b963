"""The proof of a cut: the small model against the masked twin of the dense one.

The masked twin is the dense model whose *consumers* ignore the removed channels: the slices of
their weights that read these are zero. (Zeroing the filters that make them would be wrong: after
batch normalisation and ReLU a zero is no longer zero.) A layer that mixes channels, such as layer
normalisation, is run by the twin on the kept channels alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
from secateurs.channels.proof import TOLERANCE, Proof, inexact_operations, largest_mismatch
from secateurs.channels.tensors import Mask
from secateurs.errors import CutError
from secateurs.keras.internals import Operation, compile_function
from secateurs.keras.model.example_inputs import as_arrays, make_inputs, pack_inputs
from secateurs.keras.model.tensors import (
    VariableValues,
    layers_by_path,
    named_operations,
    present_values,
    values_of,
)
from secateurs.keras.proof.differences import as_numbers, largest_difference, precision_of
from secateurs.keras.proof.masked_twin import (
    Kept,
    MaskedTwin,
    Sampled,
    SideBySide,
    SilentPlaces,
    stand_ins_of,
)
from secateurs.keras.proof.smaller_images import crop_images
from secateurs.keras.protocols import BackendTensor
from secateurs.keras.sizes.layer_sizes import by_owner
from secateurs.keras.trace_model import TracedModel, source_of
from secateurs.keras.tracing.composites import is_followed
from secateurs.keras.tracing.interpreter import OpInterpreter, convert_arrays
from secateurs.keras.tracing.op_record import OpRecord


def prove(
    network: Network,
    small: keras.Model,
    cut: Cut,
    alive: NDArray[np.bool_],
    example_inputs: object = None,
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
    comparison = TwinComparison.of(network, cut, alive, example_inputs)
    proof = comparison.on_smaller_images(small)
    if proof is not None:
        return proof
    proof = comparison.whole(small)
    if not proof.holds:
        again = comparison.call_by_call(small)
        proof = again if again.holds else proof
    if not proof.holds:
        raise CutError(proof.refusal(network.name, "A layer"))
    return proof


def inputs_for(network: Network, example_inputs: object) -> list[NDArray[np.generic]]:
    """What to run a network's model on: these, or what it was traced with, or made up."""
    source = source_of(network)
    given = source.example_inputs if example_inputs is None else example_inputs
    if given is None:
        return make_inputs(source.model, source.index_ranges)
    return as_arrays(given, source.model)


def outputs_without(
    network: Network, cut: Cut, arrays: list[NDArray[np.generic]]
) -> list[NDArray[np.number]]:
    """What the masked twin gives: the dense model that ignores what the cut removes."""
    alive = network.alive(network.removed_by(cut))
    return TwinComparison.of(network, cut, alive, arrays).twins_outputs()


@dataclass(frozen=True, eq=False, slots=True)
class TwinComparison:
    """The dense model, inputs, and what its masked twin needs to be compared with a small one.

    Attributes:
        network: the dense model's, as traced.
        cut: what went.
        kept: what stays.
        arrays: the inputs.
        stand_ins: call -> a layer of the kept channels alone, for those that mix channels.
        silent: call -> operands that the twin changes so that it can leave large weights alone.
        sizes_as_traced: False where the inputs are smaller images than those that were traced.
    """

    network: Network
    cut: Cut
    kept: Kept
    arrays: list[NDArray[np.generic]]
    stand_ins: Mapping[int, Operation]
    silent: SilentPlaces = field(default_factory=dict)
    sizes_as_traced: bool = True

    @classmethod
    def of(
        cls,
        network: Network,
        cut: Cut,
        alive: NDArray[np.bool_],
        example_inputs: object,
    ) -> TwinComparison:
        """Make the inputs and the stand-ins."""
        source, arrays = source_of(network), inputs_for(network, example_inputs)
        kept = Kept(network.solution.mark_kept(alive))
        return cls(network, cut, kept, arrays, stand_ins_of(source, cut, kept), _silent(source))

    @property
    def source(self) -> TracedModel:
        return source_of(self.network)

    def twins_outputs(self) -> list[NDArray[np.number]]:
        """What the masked twin gives."""
        return self._run(self.source.model, self._twin(), self._twins_values()).outputs

    def _twin(self) -> MaskedTwin:
        return MaskedTwin(
            self.source.operations,
            self.kept,
            self.stand_ins,
            self.silent,
            sizes_as_traced=self.sizes_as_traced,
        )

    def on_smaller_images(self, small: keras.Model) -> Proof | None:
        """The proof on cropped images; None where it does not hold, or the full ones are needed.

        A layer may refuse smaller images however it likes: that says nothing of the cut.
        """
        images = crop_images(self.arrays, self.source.operations)
        if images is None:
            return None
        smaller = replace(self, arrays=images.arrays, sizes_as_traced=False)
        try:
            proof = smaller.whole(small)
        except Exception:  # noqa: BLE001 - whatever a layer raises of images of another size
            return None
        return replace(proof, images=images.text) if proof.holds else None

    def whole(self, small: keras.Model) -> Proof:
        """Each model run from its inputs to its outputs."""
        sampled = Sampled(self.source.operations, self.kept, sizes_as_traced=self.sizes_as_traced)
        expected = self._run(self.source.model, self._twin(), self._twins_values())
        try:
            received = self._run(small, sampled, present_values(small))
        except Exception as error:
            raise CutError(
                f"{self.network.name}: the cut model does not run: {type(error).__name__}: "
                f"{error}. Nothing was changed."
            ) from error
        if len(received.samples) != len(expected.samples):
            raise CutError(
                f"{self.network.name}: the cut model makes {len(received.samples)} calls where the "
                f"dense one makes {len(expected.samples)}: the code of a layer takes another path "
                "when it is smaller. Leave its channels out of the cut: skip=..."
            )
        self._check_own_code(small, received)
        return self._proof(received, expected)

    def _check_own_code(self, small: keras.Model, followed: TwinResults) -> None:
        """Layers that were gone through call by call must give the same when they run as a whole.

        Raises:
            CutError: they do not, or cannot be run.
        """
        layers = [path for path, layer in named_operations(small) if is_followed(layer)]
        if not layers:
            return
        given = pack_inputs(small, convert_arrays(small, self.arrays))
        try:
            outputs = keras.tree.flatten(small(given, training=False))
        except Exception as error:
            raise CutError(
                f"{self.network.name}: the cut model does not run: {type(error).__name__}: "
                f"{error}. Nothing was changed."
            ) from error
        computed = [as_numbers(output) for output in outputs]
        difference, scale = largest_difference(computed, followed.outputs)
        if not difference <= TOLERANCE[precision_of(self.source.model)] * scale:
            raise CutError(
                f"{self.network.name}: {', '.join(layers[:3])}: expected code that does what its "
                f"calls do one by one; it gives other numbers, by up to {difference:.2g}. Say what "
                "such a layer does with @secateurs.keras.rule(...), or leave it out: skip=..."
            )

    def call_by_call(self, small: keras.Model) -> Proof:
        """Each call of the small model on the values that the twin has there."""
        calls: dict[str, Operation] = {}
        for path, layer in layers_by_path(small):
            calls.setdefault(path, layer)
        changes = by_owner(self.cut.sizes)
        side_by_side = SideBySide(
            self.source.operations, self.kept, self.stand_ins, self.silent, calls, changes
        )
        values = {**self._twins_values(), **present_values(small)}
        expected = self._run(self.source.model, side_by_side, values)
        received = TwinResults(expected.theirs, expected.their_samples)
        return self._proof(received, expected)

    def _twins_values(self) -> VariableValues:
        """Every variable of the dense model, zero where it reads a channel that goes."""
        values = present_values(self.source.model)
        for stand_in in self.stand_ins.values():
            values |= values_of([stand_in])
        spared = {key for masks in self.silent.values() for key in masks}
        for (name, axis), leaf in self.source.read.items():
            units = leaf.axes.get(axis)
            if units is None or (name, axis) in spared:
                continue
            if not self.kept.stays[units].all():
                variable, value = values[id(leaf.variable)]
                stays = self.kept.along_axis(units, len(leaf.shape), axis)
                numbers = np.asarray(keras.ops.convert_to_numpy(value))
                masked = np.where(stays, numbers, np.zeros_like(numbers))
                tensor = keras.ops.convert_to_tensor(masked, dtype=variable.dtype)
                values[id(leaf.variable)] = (variable, tensor)
        return values

    def _run(self, model: keras.Model, step: Sampled, values: VariableValues) -> TwinResults:
        variables = [variable for variable, _ in values.values()]

        def forward(
            present: Sequence[BackendTensor], arrays: Sequence[NDArray[np.generic]]
        ) -> tuple[list[BackendTensor], ...]:
            step.begin()
            with keras.StatelessScope(state_mapping=list(zip(variables, present, strict=True))):
                outputs = OpInterpreter(step).run(model, convert_arrays(model, arrays))
            return outputs, step.samples, *step.beside(outputs)

        numbers = compile_function(forward)([value for _, value in values.values()], self.arrays)
        return TwinResults(*([as_numbers(item) for item in part] for part in numbers))

    def _proof(self, received: TwinResults, expected: TwinResults) -> Proof:
        difference, scale = largest_difference(received.outputs, expected.outputs)
        if not math.isfinite(scale):
            raise CutError(
                f"{self.network.name}: the dense model's output is not finite on these inputs"
                f"{_first_not_finite(self.source)}; nothing can be proven. Check its weights and "
                "the example inputs."
            )
        relative = TOLERANCE[precision_of(self.source.model)]
        inside, where = _largest_inside(
            self.source.operations, received.samples, expected.samples, 10 * relative
        )
        inexact = inexact_operations(self.network.mixings, self.kept.stays)
        return Proof(difference, scale, relative * scale, inside, 10 * relative, where, inexact)


@dataclass(frozen=True, eq=False, slots=True)
class TwinResults:
    """What a run gave: outputs and samples, and those of what was run beside it."""

    outputs: list[NDArray[np.number]]
    samples: list[NDArray[np.number]]
    theirs: list[NDArray[np.number]] = field(default_factory=list)
    their_samples: list[NDArray[np.number]] = field(default_factory=list)


def _silent(source: TracedModel) -> SilentPlaces:
    """The weights that are larger than all that they read: of these, what they read is changed."""
    silent: dict[int, dict[tuple[str, int], Mask]] = {}
    for (name, axis), operands in source.reading.items():
        numbers = sum(
            math.prod(source.operations[call].inputs[mask.operand][0]) for call, mask in operands
        )
        if numbers < math.prod(source.leaves[name].shape):
            for call, mask in operands:
                silent.setdefault(call, {})[name, axis] = mask
    return silent


def _largest_inside(
    operations: Sequence[OpRecord],
    received: Sequence[NDArray[np.number]],
    expected: Sequence[NDArray[np.number]],
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
    return largest_mismatch(
        [operation.layer for operation, _, _ in filled],
        [mine for _, mine, _ in filled],
        [theirs for _, _, theirs in filled],
        tolerance,
    )


def _first_not_finite(source: TracedModel) -> str:
    for name, leaf in source.leaves.items():
        values = leaf.array()
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            return f" ({name} holds NaN or infinity)"
    return ""
