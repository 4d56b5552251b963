"""The tracer: follows channels through a forward pass, and holds the state that rules work on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch._ops import OpOverload, OpOverloadPacket

from secateurs.channels.cost import Contraction, Product
from secateurs.channels.equations import Equations, Ids
from secateurs.channels.network import Mixing, Role
from secateurs.channels.tensors import Mask
from secateurs.pytorch.model.tensors import ModelTensor
from secateurs.pytorch.tracing.fresh_tensors import (
    EMPTY,
    FreshTensors,
    arguments_written_to,
    is_uniform,
    is_view,
)
from secateurs.pytorch.tracing.interpreter import OpInterpreter, aten, users_line
from secateurs.pytorch.tracing.op_call import (
    ADDING,
    MADE_NEW,
    SCALING,
    Arguments,
    Call,
    Keywords,
    iterate_tensors,
    map_tensors,
    name_of,
    numbers_of,
    run_on_constants,
    start_of,
    without_data,
)
from secateurs.pytorch.tracing.op_record import (
    NO_CHANNEL,
    Axes,
    Labels,
    OpRecord,
    Place,
    follow,
    is_choice,
    is_data,
    is_followed,
    labels_of,
    note_as_data,
)
from secateurs.pytorch.tracing.stand_ins import StandIns

NETWORK_INPUT = "the network's input"
NETWORK_OUTPUT = "it is the network's output"


@dataclass(slots=True)
class _AlignedAxes:
    """Axes that an operation aligns with each other.

    Attributes:
        known: units along the axes that carry channels.
        unbound: axes of the model's tensors that have no units yet.
        free: axes along which a constant is uniform; they may get any number of channels.
        fixed: labels of the last tensor that carries no channels there and has a fixed length.
    """

    known: list[Ids] = field(default_factory=list)
    unbound: list[tuple[ModelTensor, int]] = field(default_factory=list)
    free: list[Place] = field(default_factory=list)
    fixed: Labels | None = None


def _may_be_sizes(numbers: Sequence[float], call: Call) -> bool:
    """Whether one of an operation's numbers may be computed from a size."""
    if not numbers:
        return False
    if call.packet in _SCALED:
        return True
    return call.packet in ADDING and max(numbers) > MOST_USUAL_TERM


_SCALED = SCALING | {aten.scaled_dot_product_attention}


MOST_USUAL_TERM = 2
"""Larger terms may be sizes; code adds one, and squares, for other reasons."""


class Rules(Protocol):
    """The rules for operations: implemented by the package ``rules``, which imports the tracer."""

    def is_whole(self, packet: OpOverloadPacket) -> bool:
        """Whether an operation has a rule, so that it must not be decomposed."""

    def apply(self, tracer: Tracer, call: Call) -> object:
        """Run an operation and label its result."""


class Tracer(OpInterpreter):
    """Runs a model on tensors without data and collects the equations between its units.

    A rule for each operation says what it does to the labels; an operation without a rule freezes
    what it touches. Values that do not depend on the input or the weights (index tables, masks,
    grids) are computed for real, so that rules can read them.
    """

    def __init__(self, leaves: Sequence[ModelTensor], rules: Rules, concrete: bool = False) -> None:
        super().__init__(rules.is_whole)
        self.rules = rules
        self.equations = Equations()
        self.contractions: list[Contraction] = []
        self.mixings: list[Mixing] = []
        self.operations: list[OpRecord] = []
        self.counts: dict[tuple[str, str], Ids] = {}
        self.multiples: list[tuple[Ids, int]] = []
        """Units whose number must be a multiple of the integer, as an operation requires."""
        self.reads_sizes = False
        """Whether an operation took a size as a plain number.

        That is the length of an axis that carries channels, or a factor that may be computed from
        one.
        """
        self.convolutions: set[str] = set()
        """Paths of PyTorch's own convolution layers, whose ``groups`` the cut updates."""
        self.spread: set[int] = set()
        """Units of axes along which a value is repeated: they become those they align with."""
        self._has_written_constants = False
        """Whether channels lie along a constant, or a constant was written into."""
        self.is_concrete = concrete
        """Whether the model runs on tensors with data."""
        self._fresh = FreshTensors(self.equations, concrete, self.where)
        self._stand_ins = StandIns(leaves, self._fresh, concrete)
        self.leaves = self._stand_ins.leaves

    # -- one operation

    def step(self, function: OpOverload, arguments: Arguments, keywords: Keywords) -> object:
        """Apply the rule of one operation and record it."""
        operation = OpRecord(name_of(function), self.layer)
        self.operations.append(operation)
        call = self._open_written(self._call(function, arguments, keywords))
        followed = [tensor for tensor in call.tensors() if is_followed(tensor)]
        if not followed or call.packet in MADE_NEW:
            output = self._run_unfollowed(call)
            operation.decision = output if isinstance(output, bool) else None
            return output
        self._note_operands(call, operation, followed)
        output = self.rules.apply(self, call)
        if operation.mixed:  # the rule may have given a bias its units only now
            operation.mixed = self._axes_of_operands(call)
        self._note_results(operation, output)
        if call.packet in EMPTY or self._has_written_constants:
            self._note_made(call, operation, output)
        return output

    def _note_operands(
        self, call: Call, operation: OpRecord, followed: Sequence[torch.Tensor]
    ) -> None:
        """Note what an operation is given, and freeze the channels that it numbers."""
        operation.numbers = numbers_of(call)
        operation.start = start_of(call)
        operation.operands = [labels_of(tensor) for tensor in followed]
        if _may_be_sizes(operation.numbers, call):
            self.reads_sizes = True
        for tensor, labels in zip(followed, operation.operands, strict=True):
            if labels.positions is not None:
                self.freeze_positions(
                    tensor, f"indices of these channels are read by {call.name} at {self.where()}"
                )

    def _note_results(self, operation: OpRecord, output: object) -> None:
        """Note what an operation gives: shapes, channels, and choices that code may read."""
        for place, tensor in enumerate(iterate_tensors(output)):
            axes = dict(self.labels(tensor).axes)
            operation.outputs.append((tuple(tensor.shape), axes))
            operation.types.append(tensor.dtype)
            if not axes and not tensor.is_meta and is_choice(tensor):
                operation.choices[place] = tensor.clone()
        if not operation.outputs:
            operation.value = output

    def _note_made(self, call: Call, operation: OpRecord, output: object) -> None:
        """Note operands that the user's code created, so that a dry run can compare their sizes."""
        operation.is_constant = all(self.is_constant(tensor) for tensor in call.tensors())
        operation.made = [
            (place, tuple(tensor.shape), dict(labels.axes))
            for place, tensor in enumerate(call.tensors())
            if (labels := self.labels(tensor)).is_made and labels.axes
        ]
        # Uninitialised memory holds anything: a proof must not compare it.
        seen = is_view(call) and any(self.labels(tensor).is_empty for tensor in call.tensors())
        if call.packet in EMPTY or seen:
            operation.is_empty = True
            for tensor in iterate_tensors(output):
                follow(tensor, replace(self.labels(tensor), is_empty=True))

    def pass_through(
        self, function: OpOverload, arguments: Arguments, keywords: Keywords
    ) -> object:
        call = self._call(function, arguments, keywords)
        if not any(is_followed(tensor) for tensor in call.tensors()):
            return self._run_unfollowed(call)
        return self.rules.apply(self, call)

    def _run_unfollowed(self, call: Call) -> object:
        """Run an operation on constants, or on integers of the input, which carry no channels."""
        made = run_on_constants(call)
        if any(is_data(tensor) for tensor in call.tensors()):
            for tensor in iterate_tensors(made):
                note_as_data(tensor)
        self._fresh.remember(call, made)
        return made

    def _open_written(self, call: Call) -> Call:
        """Start following a constant when an operation writes a followed tensor into it.

        That takes the constant's memory to be known from this pass. Otherwise all that is written
        there is frozen.
        """
        if not call.function._schema.is_mutable or all(map(self.is_constant, call.tensors())):
            return call
        changes = {}
        for target in arguments_written_to(call):
            if not self.is_constant(target):
                continue
            place = next(at for at, tensor in enumerate(call.tensors()) if tensor is target)
            opened = self._fresh.open(target)
            if opened is not None:
                changes[place] = opened
                self._has_written_constants = self.reads_sizes = True
            elif self._stand_ins.find_buffer(target) is None:
                for tensor in call.tensors():
                    self.freeze(tensor, f"written into a constant tensor at {self.where()}")
        return call.with_tensors(changes) if changes else call

    def freeze_positions(self, tensor: torch.Tensor, reason: str) -> None:
        """Freeze the channels whose indices a tensor's values are."""
        positions = self.labels(tensor).positions
        if positions is not None:
            self.equations.freeze(positions, reason)

    def stand_in(self, tensor: torch.Tensor) -> torch.Tensor:
        """The stand-in for a tensor that the model's code holds."""
        return self._stand_ins.find(tensor)

    def _call(self, function: OpOverload, arguments: Arguments, keywords: Keywords) -> Call:
        """The operation, with stand-ins for the model's tensors."""
        mutates = function._schema.is_mutable

        def stand_in(tensor: torch.Tensor) -> torch.Tensor:
            return self._stand_ins.find(tensor, mutates)

        arguments = [map_tensors(value, stand_in) for value in arguments]
        return Call(function, arguments, {k: map_tensors(v, stand_in) for k, v in keywords.items()})

    def start_pass(self) -> list[OpRecord]:
        """Begin another forward pass over the same units; return the list for its operations."""
        self.operations = []
        self._stand_ins.start_pass()
        return self.operations

    def follow_input(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor that the model runs on instead of this input.

        Integers and masks keep their values: tokens and positions carry no channels, and lookups by
        them may be read.
        """
        if not tensor.is_floating_point() and not tensor.is_complex():
            data = tensor.detach()  # a new tensor, so that no attribute is set on the user's
            note_as_data(data)
            return data
        stand_in = tensor.clone() if self.is_concrete else without_data(tensor)
        follow(stand_in, Labels(why=NETWORK_INPUT))
        return stand_in

    # -- labels

    def labels(self, tensor: torch.Tensor) -> Labels:
        """The labels of a tensor."""
        return labels_of(tensor)

    def axes(self, tensor: torch.Tensor) -> Axes:
        """The labelled axes of a tensor; a weight's unlabelled axes get new units."""
        labels = self.labels(tensor)
        if labels.leaf is not None:
            for axis, length in enumerate(tensor.shape):
                if length > 1:
                    self._units_of_weight(labels.leaf, axis)
        return labels.axes

    def put(self, tensor: torch.Tensor, axes: Mapping[int, Ids | None], why: str = "") -> None:
        """Label an operation's result; axes of length one or without units stay unlabelled."""
        kept = {
            axis: units
            for axis, units in axes.items()
            if units is not None and tensor.shape[axis] > 1
        }
        known = self.labels(tensor)
        if known.leaf is None:
            why = why or known.why
            follow(tensor, Labels(kept, origin=known.origin, why=why, is_made=known.is_made))

    def _units_of_weight(self, leaf: ModelTensor, axis: int) -> Ids:
        """The units of a weight's axis; new ones if it has none yet."""
        if axis not in leaf.axes:
            leaf.axes[axis] = self.equations.units(leaf.tensor.shape[axis])
            leaf.roles.setdefault(axis, Role.OTHER)
            if axis in leaf.fixed:
                self.equations.freeze(leaf.axes[axis], leaf.fixed[axis])
        return leaf.axes[axis]

    def fix(self, tensor: torch.Tensor, reason: str, axes: Iterable[int]) -> None:
        """Freeze these axes, whether or not units are known to lie along them yet."""
        leaf = self.labels(tensor).leaf
        known = [axis for axis in axes if leaf is None or axis in leaf.axes]
        self.freeze_known(tensor, reason, known)
        if leaf is not None:
            leaf.fixed |= dict.fromkeys(axes, reason)

    # -- equations

    def unify(self, places: Sequence[Place]) -> Ids | None:
        """Equate the units along aligned axes and return them; None if the axes carry no channels.

        Axes of length one are broadcast and do not count. An axis that carries no channels has a
        fixed length, so all axes aligned with it are frozen.
        """
        met = self._sort_by_kind(places)
        known = met.known
        if met.fixed is not None:
            if known or met.unbound:
                self._freeze_all(known, met.unbound, self.explain_meeting(met.fixed))
            return None
        if not known and met.unbound:
            known.append(self._units_of_weight(*met.unbound.pop(0)))
        for units in known[1:]:
            self.equations.equate(known[0], units)
        for leaf, axis in met.unbound:
            # The same leaf may occur twice: its first occurrence has bound it.
            self.equations.equate(known[0], leaf.axes.setdefault(axis, known[0]))
            if axis in leaf.fixed:
                self.equations.freeze(known[0], leaf.fixed[axis])
        for place in met.free if known else ():
            self._bind_constant(place, known[0])
        return known[0] if known else None

    def _sort_by_kind(self, places: Sequence[Place]) -> _AlignedAxes:
        """Sort aligned axes by what is known of the units along them."""
        met = _AlignedAxes()
        for tensor, axis in places:
            if tensor.shape[axis] == 1:
                continue
            labels = labels_of(tensor)
            buffer = self._stand_ins.find_buffer(tensor)
            units = (labels if buffer is None else buffer).axes.get(axis)
            if units is not None:
                met.known.append(units)
            elif labels.leaf is not None:
                met.unbound.append((labels.leaf, axis))
            elif buffer is not None or (self.is_constant(tensor) and is_uniform(tensor, axis)):
                met.free.append(Place(tensor, axis))
            elif tensor.numel():  # an empty tensor fixes nothing
                met.fixed = labels
        return met

    def is_constant(self, tensor: torch.Tensor) -> bool:
        """Whether its values are known: it depends on neither the input nor the weights."""
        return not is_followed(tensor) or self.labels(tensor).is_constant

    def _bind_constant(self, place: Place, units: Ids) -> None:
        """Let channels lie along an axis on which a constant is uniform.

        A buffer of integers or booleans then has one entry for each channel, and is sliced with
        them.
        """
        buffer = self._stand_ins.find_buffer(place.tensor)
        if buffer is not None:
            self.equations.equate(units, buffer.axes.setdefault(place.axis, units))
            buffer.roles.setdefault(place.axis, Role.OTHER)
            return
        # The dry run checks whether the length that the code gives it follows the channels.
        self._has_written_constants = self.reads_sizes = True
        labels = self.labels(place.tensor)
        axes = {**labels.axes, place.axis: units}
        follow(place.tensor, Labels(axes, is_constant=True, is_made=True))

    def spread_units(self, count: int) -> Ids:
        """Units for an axis along which a value is repeated: they become those they align with."""
        units = self.equations.units(count)
        self.spread.update(units.tolist())
        self.reads_sizes = True
        return units

    def free_units(self, tensor: torch.Tensor, axis: int) -> Ids | None:
        """The units along an axis; new ones for a constant that is uniform along it."""
        known = self.axes(tensor).get(axis)
        if known is not None or tensor.shape[axis] == 1 or not tensor.is_floating_point():
            return known
        if not self.is_constant(tensor) or not is_uniform(tensor, axis):
            return None
        known = self.equations.units(tensor.shape[axis])
        self._bind_constant(Place(tensor, axis), known)
        return known

    def explain_meeting(self, fixed: Labels) -> str:
        """Reason for freezing channels aligned with values that carry none, with the line of code.

        Values with a description, such as the network's input, need no line.
        """
        if fixed.why != NO_CHANNEL or not self.operations:
            return f"combined with {fixed.why}"
        name = self.operations[-1].name.removeprefix("aten.")
        return f"combined with {NO_CHANNEL} in {name} at {self.where()}"

    def _freeze_all(
        self, arrays: Iterable[Ids], unbound: Iterable[tuple[ModelTensor, int]], reason: str
    ) -> None:
        for units in [*arrays, *(self._units_of_weight(leaf, axis) for leaf, axis in unbound)]:
            self.equations.freeze(units, reason)

    def freeze_known(self, tensor: torch.Tensor, reason: str, axes: Iterable[int]) -> None:
        """Freeze those of these axes that carry channels; ``reason`` names the operation."""
        labels = self.labels(tensor)
        for axis in axes:
            if labels.leaf is not None and tensor.shape[axis] > 1:
                self._units_of_weight(labels.leaf, axis)
            if axis in labels.axes:
                self.equations.freeze(labels.axes[axis], f"{reason} at {self.where()}")

    def freeze(self, tensor: torch.Tensor, reason: str, axes: Iterable[int] | None = None) -> None:
        """Freeze these axes (default: all axes) of a tensor."""
        leaf = self.labels(tensor).leaf
        for axis in range(tensor.dim()) if axes is None else axes:
            if leaf is not None and tensor.shape[axis] > 1:
                self._units_of_weight(leaf, axis)
            if axis in (labelled := self.labels(tensor).axes):
                self.equations.freeze(labelled[axis], reason)

    def play(self, place: Place, role: Role) -> None:
        """Note the role of an axis of a weight, or of a view of one."""
        labels = labels_of(place.tensor)
        weight = labels.weight
        if weight is None:
            return
        axis = place.axis if labels.leaf is not None else self._axis_in_origin(labels, place.axis)
        if axis is None:
            return
        if weight.roles.get(axis, Role.OTHER) is Role.OTHER:
            weight.roles[axis] = role

    def _axis_in_origin(self, labels: Labels, axis: int) -> int | None:
        units = labels.axes.get(axis)
        if labels.origin is None or units is None:
            return None
        for place, own_units in labels.origin.axes.items():
            if own_units is units or units[0] in own_units:
                return place
        return None

    # -- notes for the masked twin and for costs

    def mask(self, operand: int, axis: int, units: Ids | None) -> None:
        """Note that the masked twin zeroes the removed channels of this operand."""
        if units is not None:
            self.operations[-1].masks.append(Mask(operand, axis, units))

    def mixes(self, call: Call, units: Iterable[Ids], layer: str = "") -> None:
        """Note that the result for each channel depends on the other channels along these axes."""
        arrays = list(units)
        if arrays:
            self.operations[-1].mixed = self._axes_of_operands(call)
            mixed = np.unique(np.concatenate(arrays))
            self.mixings.append(Mixing(call.name, layer or self.layer, mixed))

    def _axes_of_operands(self, call: Call) -> list[tuple[int, Axes]]:
        return [
            (number, dict(axes))
            for number, tensor in enumerate(call.tensors())
            if (axes := self._units_along(tensor))
        ]

    def _units_along(self, tensor: torch.Tensor) -> Axes:
        """The units along a tensor's axes, those of integer buffers included."""
        buffer = self._stand_ins.find_buffer(tensor)
        return self.labels(tensor).axes if buffer is None else buffer.axes

    def costs(self, layer: str, constant: int, axes: Iterable[Ids]) -> None:
        """Note a contraction of this many multiply-accumulates."""
        self.contractions.append(Contraction(layer or self.layer, Product(constant, tuple(axes))))

    def where(self) -> str:
        """The line of user code that is running, or the layer where only PyTorch's code is."""
        return users_line() or f"layer {self.layer!r}"
