"""Following channels through a forward pass: the state that the rules work on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch._ops import OpOverload

from secateurs.channels.cost import Contraction, Product
from secateurs.channels.equations import Equations, Ids
from secateurs.channels.network import Mixing, Role
from secateurs.channels.tensors import Mask
from secateurs.pytorch.model.tensors import ModelTensor
from secateurs.pytorch.tracing.interpreter import OpInterpreter, aten, users_line
from secateurs.pytorch.tracing.op_call import (
    SCALING,
    Call,
    iterate_tensors,
    map_tensors,
    numbers_of,
    run_on_constants,
    start_of,
    without_data,
)
from secateurs.pytorch.tracing.op_record import (
    Axes,
    Labels,
    OpRecord,
    Place,
    follow,
    is_followed,
    labels_of,
)

NETWORK_INPUT = "the network's input"
NETWORK_OUTPUT = "it is the network's output"


class Tracer(OpInterpreter):
    """Runs a model on tensors without data and collects the equations between its units.

    A rule for each operation says what it does to the labels; an operation without a rule freezes
    what it touches. Values that do not depend on the input or the weights (index tables, masks,
    grids) are computed for real, so that rules can read them.
    """

    def __init__(self, leaves: Sequence[ModelTensor], rules: Any, concrete: bool = False) -> None:
        super().__init__(rules.is_whole)
        self.rules = rules
        self.equations = Equations()
        self.leaves = {id(leaf.tensor): leaf for leaf in leaves}
        self.contractions: list[Contraction] = []
        self.mixings: list[Mixing] = []
        self.operations: list[OpRecord] = []
        self.counts: dict[tuple[str, str], Ids] = {}
        self.reads_sizes = False
        """Whether an operation was given lengths of axes that carry channels, or maybe a factor
        computed from one, as plain numbers."""
        self.convolutions: set[str] = set()
        """Paths of PyTorch's own convolution layers, whose groups follow."""
        self._concrete = concrete
        self._stand_ins: dict[int, torch.Tensor] = {}

    # -- one operation

    def step(self, function: OpOverload, arguments: Sequence[Any], keywords: dict[str, Any]) -> Any:
        operation = OpRecord(str(function.overloadpacket), self.layer)
        self.operations.append(operation)
        call = self._call(function, arguments, keywords)
        followed = [tensor for tensor in call.tensors() if is_followed(tensor)]
        if not followed:
            return run_on_constants(call)
        operation.numbers = numbers_of(call)
        operation.start = start_of(call)
        operation.operands = [labels_of(tensor) for tensor in followed]
        if operation.numbers and call.packet in SCALING | {aten.scaled_dot_product_attention}:
            self.reads_sizes = True  # a factor may be computed from one
        output = self.rules.apply(self, call)
        for tensor in iterate_tensors(output):
            operation.outputs.append((tuple(tensor.shape), dict(self.labels(tensor).axes)))
            operation.types.append(tensor.dtype)
        if not operation.outputs:
            operation.value = output
        return output

    def pass_through(
        self, function: OpOverload, arguments: Sequence[Any], keywords: dict[str, Any]
    ) -> Any:
        call = self._call(function, arguments, keywords)
        if not any(is_followed(tensor) for tensor in call.tensors()):
            return run_on_constants(call)
        return self.rules.apply(self, call)

    def _call(
        self, function: OpOverload, arguments: Sequence[Any], keywords: dict[str, Any]
    ) -> Call:
        """The operation with stand-ins for the model's tensors."""
        mutates = function._schema.is_mutable

        def stand_in(tensor: torch.Tensor) -> torch.Tensor:
            return self._stand_in(tensor, mutates)

        arguments = [map_tensors(value, stand_in) for value in arguments]
        return Call(function, arguments, {k: map_tensors(v, stand_in) for k, v in keywords.items()})

    def _stand_in(self, tensor: torch.Tensor, mutates: bool) -> torch.Tensor:
        """The tensor without data that stands for a weight; a copy of what would be changed."""
        known = self._stand_ins.get(id(tensor))
        if known is not None:
            return known
        leaf = self.leaves.get(id(tensor))
        return tensor if leaf is None else self._stand_in_for(leaf, mutates)

    def _stand_in_for(self, leaf: ModelTensor, mutates: bool) -> torch.Tensor:
        with torch.inference_mode(
            mode=False
        ):  # PyTorch wants views of weights to be ordinary tensors
            tensor = leaf.tensor.detach()
            if leaf.can_carry_channels:
                tensor = tensor.clone() if self._concrete else without_data(tensor)
        if leaf.can_carry_channels:
            stand_in = tensor
            follow(stand_in, Labels(leaf.axes, leaf))
        elif mutates:
            stand_in = tensor.clone()
        else:
            return leaf.tensor
        self._stand_ins[id(leaf.tensor)] = stand_in
        return stand_in

    def start_pass(self) -> list[OpRecord]:
        """Begin another forward pass over the same units; returns where its operations will be."""
        self.operations = []
        self._stand_ins = {}
        return self.operations

    def follow_input(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor to run the model on instead of this input.

        Whole numbers and masks stay what they are: tokens and positions carry no channels, and
        what is looked up by them may be read.
        """
        if not tensor.is_floating_point() and not tensor.is_complex():
            return tensor
        stand_in = tensor.clone() if self._concrete else without_data(tensor)
        follow(stand_in, Labels(why=NETWORK_INPUT))
        return stand_in

    # -- labels

    def labels(self, tensor: torch.Tensor) -> Labels:
        """What is known of a tensor's axes."""
        return labels_of(tensor)

    def axes(self, tensor: torch.Tensor) -> Axes:
        """The labelled axes of a tensor; a weight's get units of their own if they had none."""
        labels = self.labels(tensor)
        if labels.leaf is not None:
            for axis, length in enumerate(tensor.shape):
                if length > 1:
                    self._own_units(labels.leaf, axis)
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
            follow(tensor, Labels(kept, origin=known.origin, why=why or known.why))

    def _own_units(self, leaf: ModelTensor, axis: int) -> Ids:
        """The units of a weight's axis; new ones if it has none yet."""
        if axis not in leaf.axes:
            leaf.axes[axis] = self.equations.units(leaf.tensor.shape[axis])
            leaf.roles.setdefault(axis, Role.OTHER)
        return leaf.axes[axis]

    # -- equations

    def unify(self, places: Sequence[Place]) -> Ids | None:
        """These axes are one: the same units lie along all of them. Returns these; None if none do.

        Axes of length one are broadcast and do not count. An axis that carries no channels has a
        fixed length, so all that meet it are frozen.
        """
        known: list[Ids] = []
        unbound: list[tuple[ModelTensor, int]] = []
        fixed: Labels | None = None
        for tensor, axis in places:
            if tensor.shape[axis] == 1:
                continue
            labels = self.labels(tensor)
            if axis in labels.axes:
                known.append(labels.axes[axis])
            elif labels.leaf is not None:
                unbound.append((labels.leaf, axis))
            elif not is_followed(tensor) and _is_uniform(tensor, axis):
                self.reads_sizes = True  # zeros, ones, ...: the rehearsal sees whether they follow
            else:
                fixed = labels
        if fixed is not None:
            self._freeze_all(known, unbound, f"meets {fixed.why}")
            return None
        if not known and unbound:
            known.append(self._own_units(*unbound.pop(0)))
        for units in known[1:]:
            self.equations.equate(known[0], units)
        for leaf, axis in unbound:
            # Twice the same leaf: the first time has bound it.
            self.equations.equate(known[0], leaf.axes.setdefault(axis, known[0]))
        return known[0] if known else None

    def _freeze_all(
        self, arrays: Iterable[Ids], unbound: Iterable[tuple[ModelTensor, int]], reason: str
    ) -> None:
        for units in [*arrays, *(self._own_units(leaf, axis) for leaf, axis in unbound)]:
            self.equations.freeze(units, reason)

    def freeze_known(self, tensor: torch.Tensor, what: str, axes: Iterable[int]) -> None:
        """Nothing may go along those of these axes that carry channels; ``what`` reads them."""
        labels = self.labels(tensor)
        for axis in axes:
            if labels.leaf is not None and tensor.shape[axis] > 1:
                self._own_units(labels.leaf, axis)
            if axis in labels.axes:
                self.equations.freeze(labels.axes[axis], f"{what} at {self.where()}")

    def freeze(self, tensor: torch.Tensor, reason: str, axes: Iterable[int] | None = None) -> None:
        """Nothing along these axes (all, if not given) may go."""
        leaf = self.labels(tensor).leaf
        for axis in range(tensor.dim()) if axes is None else axes:
            if leaf is not None and tensor.shape[axis] > 1:
                self._own_units(leaf, axis)
            if axis in (labelled := self.labels(tensor).axes):
                self.equations.freeze(labelled[axis], reason)

    def play(self, place: Place, role: Role) -> None:
        """Note what an axis of a weight (or of a view of one) does."""
        labels = self.labels(place.tensor)
        weight = labels.weight
        axis = place.axis if labels.leaf is not None else self._axis_in_origin(labels, place.axis)
        if weight is None or axis is None:
            return
        if weight.roles.get(axis, Role.OTHER) is Role.OTHER:
            weight.roles[axis] = role

    def _axis_in_origin(self, labels: Labels, axis: int) -> int | None:
        units = labels.axes.get(axis)
        if labels.origin is None or units is None:
            return None
        for own, own_units in labels.origin.axes.items():
            if own_units is units or units[0] in own_units:
                return own
        return None

    # -- notes for what comes after

    def mask(self, operand: int, axis: int, units: Ids | None) -> None:
        """The masked twin ignores the removed channels of this operand here."""
        if units is not None:
            self.operations[-1].masks.append(Mask(operand, axis, units))

    def mixes(self, call: Call, units: Iterable[Ids], layer: str = "") -> None:
        """The operation's result for a channel depends on the others along these axes."""
        arrays = list(units)
        if arrays:
            self.operations[-1].mixed = [
                (number, dict(axes))
                for number, tensor in enumerate(call.tensors())
                if (axes := self.labels(tensor).axes)
            ]
            mixed = np.unique(np.concatenate(arrays))
            self.mixings.append(Mixing(call.name, layer or self.layer, mixed))

    def costs(self, layer: str, constant: int, axes: Iterable[Ids]) -> None:
        """A contraction of this many multiply-accumulates."""
        self.contractions.append(Contraction(layer or self.layer, Product(constant, tuple(axes))))

    def where(self) -> str:
        """The user's line that is running."""
        return users_line()


def _is_uniform(constant: torch.Tensor, axis: int) -> bool:
    """Whether a constant is the same all along an axis, so that any of it could go."""
    first = constant.narrow(axis, 0, 1)
    return not constant.is_meta and bool((constant == first).all())
