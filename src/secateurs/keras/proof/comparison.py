"""The proof of a cut: the small model against the masked twin of the dense one.

The masked twin is the dense model whose *consumers* ignore the removed channels: the slices of
their weights that read these are zero. (Zeroing the filters that produce them would be wrong: after
batch normalisation and ReLU, a zero is no longer zero.) The twin runs a layer that mixes channels,
such as layer normalisation, on the kept channels only.
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
from secateurs.keras.internals import (
    AssumedValues,
    Operation,
    Variable,
    compile_function,
    is_quantized,
    present_numbers,
    take_over,
)
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
from secateurs.keras.tracing.interpreter import (
    CallSite,
    OpInterpreter,
    call_layer,
    convert_arrays,
)
from secateurs.keras.tracing.op_record import OpRecord


def prove(
    network: Network,
    small: keras.Model,
    cut: Cut,
    alive: NDArray[np.bool_],
    example_inputs: object = None,
) -> Proof:
    """Run the small model and the masked twin on the same inputs and compare.

    A difference beyond the tolerance may be rounding that accumulated over many layers. It is then
    checked call by call, each on the twin's own values, where rounding cannot accumulate.

    Args:
        network: trace of the dense model.
        small: cut model.
        cut: the cut.
        alive: whether each atom is kept, shape (atoms,).
        example_inputs: inputs of the model; None uses those of the trace, or generates some.

    Raises:
        CutError: the small model does not run, the difference is larger than rounding explains, or
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
    """Return inputs for a network's model: the given ones, those of its trace, or generated."""
    source = source_of(network)
    given = source.example_inputs if example_inputs is None else example_inputs
    if given is None:
        return make_inputs(source.model, source.index_ranges)
    return as_arrays(given, source.model)


def outputs_without(
    network: Network, cut: Cut, arrays: list[NDArray[np.generic]]
) -> list[NDArray[np.number]]:
    """Return the outputs of the masked twin: the dense model without the removed channels."""
    alive = network.alive(network.removed_by(cut))
    return TwinComparison.of(network, cut, alive, arrays).twins_outputs()


@dataclass(frozen=True, eq=False, slots=True)
class TwinComparison:
    """Comparison of a small model with the masked twin of the dense one, on given inputs.

    Attributes:
        network: trace of the dense model.
        cut: the cut.
        kept: kept units.
        arrays: flat list of inputs.
        stand_ins: index of a call that mixes channels -> its layer rebuilt for the kept channels.
        silent: operands that the twin masks where that is cheaper than masking a large weight.
        sizes_as_traced: False where the inputs are smaller images than those of the trace.
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
        """Prepare the inputs and the rebuilt layers."""
        source, arrays = source_of(network), inputs_for(network, example_inputs)
        kept = Kept(network.solution.mark_kept(alive))
        return cls(
            network, cut, kept, arrays, stand_ins_of(source, cut, kept), _operands_to_mask(source)
        )

    @property
    def source(self) -> TracedModel:
        return source_of(self.network)

    def twins_outputs(self) -> list[NDArray[np.number]]:
        """Run the masked twin and return its outputs."""
        return self._run(self.source.model, self._twin(), self._twins_values()).outputs

    def _twin(self) -> MaskedTwin:
        return MaskedTwin(
            self.source.operations,
            self.kept,
            self.stand_ins,
            self.silent,
            kernels=_kernels_of(self.source, self.silent),
            sizes_as_traced=self.sizes_as_traced,
        )

    def on_smaller_images(self, small: keras.Model) -> Proof | None:
        """Prove on cropped images; None where that fails or the full images are needed.

        A layer may reject smaller images with any exception, which does not refute the cut.
        """
        images = crop_images(self.arrays, self.source.operations)
        if images is None:
            return None
        smaller = replace(self, arrays=images.arrays, sizes_as_traced=False)
        try:
            proof = smaller.whole(small)
        except Exception:  # noqa: BLE001 - a layer may raise anything on other image sizes
            return None
        return replace(proof, images=images.text) if proof.holds else None

    def whole(self, small: keras.Model) -> Proof:
        """Prove by running each model from its inputs to its outputs."""
        sampled = Sampled(self.source.operations, self.kept, sizes_as_traced=self.sizes_as_traced)
        expected = self._run(self.source.model, self._twin(), self._twins_values())
        try:
            received = self._run(small, sampled, present_values(small, on_tape=True))
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
        """Check that composite layers give the same result when they run as a whole.

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
                f"{self.network.name}: {', '.join(layers[:3])}: expected code that computes the "
                "same as the calls recorded from it; its outputs differ by up to "
                f"{difference:.2g}. Register a rule for such a layer with "
                "@secateurs.keras.rule(...), or leave it out: skip=..."
            )

    def call_by_call(self, small: keras.Model) -> Proof:
        """Prove by running each call of the small model on the twin's values."""
        calls: dict[str, Operation] = {}
        for path, layer in layers_by_path(small):
            calls.setdefault(path, layer)
        changes = by_owner(self.cut.sizes)
        side_by_side = SideBySide(
            self.source.operations,
            self.kept,
            self.stand_ins,
            self.silent,
            calls,
            changes,
            self._list_written(small),
        )
        values = {**self._twins_values(), **present_values(small, on_tape=True)}
        expected = self._run(self.source.model, side_by_side, values)
        received = TwinResults(expected.theirs, expected.their_samples)
        return self._proof(received, expected)

    def _list_written(self, small: keras.Model) -> dict[int, Operation]:
        """Return index of a call -> the operation that the small model's code creates there."""
        written: dict[int, Operation] = {}

        def note(
            site: CallSite, arguments: Sequence[object], keywords: dict[str, object]
        ) -> object:
            if site.written:
                written[site.index] = site.operation
            return call_layer(site.operation, arguments, keywords)

        OpInterpreter(note).run(small, convert_arrays(small, self.arrays))
        return written

    def _twins_values(self) -> VariableValues:
        """Return the dense model's variable values, zero where they read removed channels."""
        values = present_values(self.source.model, on_tape=True)
        for stand_in in self.stand_ins.values():
            values |= values_of([stand_in], on_tape=True)
        left_alone = {key for masks in self.silent.values() for key in masks}
        for (name, axis), leaf in self.source.read.items():
            units = leaf.axes.get(axis)
            if units is None or (name, axis) in left_alone:
                continue
            if not self.kept.stay_all(units):
                variable, value = values[id(leaf.variable)]
                stays = self.kept.along_axis(units, len(leaf.shape), axis)
                numbers = present_numbers(value)
                masked = np.where(stays, numbers, numbers.dtype.type(0))
                values[id(leaf.variable)] = (variable, take_over(masked, variable.dtype))
        return values

    def _run(self, model: keras.Model, step: Sampled, values: VariableValues) -> TwinResults:
        variables = [variable for variable, _ in values.values()]

        def forward(
            present: Sequence[BackendTensor], arrays: Sequence[NDArray[np.generic]]
        ) -> tuple[list[BackendTensor], ...]:
            with AssumedValues(state_mapping=list(zip(variables, present, strict=True))) as assumed:
                step.begin(assumed)
                outputs = OpInterpreter(step).run(model, convert_arrays(model, arrays))
            return outputs, step.samples(), *step.beside(outputs)

        run = compile_function(forward, once=True)
        numbers = run([value for _, value in values.values()], self.arrays)
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
    """Outputs and samples of a run, and those of the small model run beside it (``theirs``)."""

    outputs: list[NDArray[np.number]]
    samples: list[NDArray[np.number]]
    theirs: list[NDArray[np.number]] = field(default_factory=list)
    their_samples: list[NDArray[np.number]] = field(default_factory=list)


def _operands_to_mask(source: TracedModel) -> SilentPlaces:
    """Return the operands to mask in place of weights: where the weight has more elements."""
    silent: dict[int, dict[tuple[str, int], Mask]] = {}
    for (name, axis), operands in source.reading.items():
        numbers = sum(
            math.prod(source.operations[call].inputs[mask.operand][0]) for call, mask in operands
        )
        if numbers < math.prod(source.leaves[name].shape):
            for call, mask in operands:
                silent.setdefault(call, {})[name, axis] = mask
    return silent


def _kernels_of(source: TracedModel, silent: SilentPlaces) -> dict[int, tuple[Variable, int]]:
    """Return, by call, the kernel that reads the operand to mask, and its axis.

    Only for layers that add up, along this axis, products of the operand and of the kernel: there
    channels can be left out of both. This halves what is copied on PyTorch and on TensorFlow: their
    convolutions need a kernel in another memory order. On JAX Keras takes a narrower operand for
    one of groups.
    """
    kernels: dict[int, tuple[Variable, int]] = {}
    contractions = _CONTRACTIONS.get(keras.backend.backend(), ())
    for call, places in silent.items():
        layer = source.operations[call].call
        is_plain_sum = type(layer) in contractions and not is_quantized(layer)
        if is_plain_sum and len(places) == 1 and getattr(layer, "groups", 1) == 1:
            (((name, axis), mask),) = places.items()
            if source.leaves[name].variable is layer.kernel and mask.operand == 0:
                kernels[call] = layer.kernel, axis
    return kernels


_CONTRACTIONS: Mapping[str, Sequence[type]] = {
    "torch": (
        keras.layers.Dense,
        keras.layers.Conv1D,
        keras.layers.Conv2D,
        keras.layers.Conv3D,
    ),
    "tensorflow": (keras.layers.Dense, keras.layers.Conv2D),
}


def _largest_inside(
    operations: Sequence[OpRecord],
    received: Sequence[NDArray[np.number]],
    expected: Sequence[NDArray[np.number]],
    tolerance: float,
) -> tuple[float, str]:
    """The largest mismatch between the models' samples of like calls, and its layer.

    Returns:
        (largest difference of a call's samples relative to their size, layer of the first call
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
