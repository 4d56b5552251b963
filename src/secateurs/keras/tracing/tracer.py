"""Following channels through a model's graph: the state that the rules work on."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar, cast

import keras
import numpy as np

from secateurs.channels.cost import Contraction, Product
from secateurs.channels.equations import Equations, Ids
from secateurs.channels.network import Mixing, Role
from secateurs.channels.tensors import Mask
from secateurs.keras.internals import Operation, Variable, accepts_training, infer, is_tensor
from secateurs.keras.model.nested import flatten, map_structure
from secateurs.keras.model.tensors import ModelTensor
from secateurs.keras.tracing.interpreter import CallSite
from secateurs.keras.tracing.op_call import Call
from secateurs.keras.tracing.op_record import (
    NO_CHANNEL,
    Assumed,
    Axes,
    OpRecord,
    Place,
    Value,
    values_in,
)

NETWORK_INPUT = "the network's input"
NETWORK_OUTPUT = "it is the network's output"

T = TypeVar("T")


class Tracer:
    """Goes through a model's graph and collects the equations between its units.

    A rule for each kind of layer says what it does to the labels; a layer without a rule freezes
    what it touches.
    """

    def __init__(
        self, leaves: Sequence[ModelTensor], apply_rule: Callable[[Tracer, Call], None]
    ) -> None:
        self.equations = Equations()
        self.leaves = {id(leaf.variable): leaf for leaf in leaves}
        self.contractions: list[Contraction] = []
        self.mixings: list[Mixing] = []
        self.operations: list[OpRecord] = []
        self.read: dict[tuple[str, int], ModelTensor] = {}
        """Weights whose removed channels the masked twin takes as zero, by (name, axis)."""
        self._by_weight: set[tuple[str, int]] = set()
        """Of these, those that read something which is no operand as it is."""
        self.sizes: dict[tuple[str, str, int | None], tuple[Ids, ...]] = {}
        self.layer_channels: dict[str, Ids] = {}
        """Layer -> the units that its users number as its channels, where no weight says it."""
        self.index_ranges: dict[int, int] = {}
        """Network input -> how many rows the table has that its numbers are indices into."""
        self._apply_rule = apply_rule
        self._remembered: dict[Hashable, object] = {}
        self._inside = 0
        self.assumed: list[Assumed] = []
        """Numbers in the code of layers, which may follow the sizes around them or not."""
        self.closed = ""
        """Why the code of the layer of the present call is not gone through."""
        self._written_in: tuple[str, int] | None = None
        """The class whose code makes the present call, numbers and all; which call it is."""

    # -- one call

    def step(
        self, site: CallSite, arguments: Sequence[object], keywords: dict[str, object]
    ) -> object:
        """Label what one call of the graph gives."""
        self.operations.append(OpRecord(type(site.operation).__name__, site.path, site.operation))
        operation = self.operations[-1]
        self._written_in, self.closed = None, site.closed
        if site.written:
            self._written_in = type(site.inside).__name__, site.place
        if site.inside is not None:
            arguments, keywords = self._with_weights((list(arguments), keywords))
        outputs = self.call(site.path, site.operation, arguments, keywords)
        self._written_in = None
        flat = flatten([list(arguments), keywords])
        operation.slots = [at for at, item in enumerate(flat) if isinstance(item, Value)]
        operation.inputs = [_describe(flat[at]) for at in operation.slots]
        operation.outputs = [_describe(value) for value in values_in(outputs)]
        return outputs

    def _with_weights(self, structure: T) -> T:
        """Values in the places of weights that a layer's code uses itself.

        In those of constants where there is nothing else: all positions of an embedding.
        """
        flat = flatten(structure)
        is_constant = not any(isinstance(item, (Value, Variable)) for item in flat)

        def value(item: object) -> object:
            if is_constant and is_tensor(item):
                kind = keras.backend.standardize_dtype(item.dtype)
                return Value(keras.KerasTensor(tuple(item.shape), dtype=kind), why="a constant")
            leaf = self.leaves.get(id(item)) if isinstance(item, Variable) else None
            if leaf is None:
                return item
            for axis, length in enumerate(leaf.shape):
                if length > 1:
                    self._own_units(leaf, axis)
            spec = keras.KerasTensor(leaf.shape, dtype=leaf.variable.dtype)
            return Value(spec, dict(leaf.axes), f"the weight {leaf.name}", leaf=leaf)

        return cast("T", map_structure(value, structure))

    def call(
        self,
        path: str,
        layer: Operation,
        arguments: Sequence[object],
        keywords: Mapping[str, object],
    ) -> object:
        """What a layer gives for these values, labelled by its rule."""
        specs = _with_specs((list(arguments), dict(keywords)))
        if not accepts_training(layer):  # whoever calls it may say so all the same
            specs[1].pop("training", None)
        made = layer.compute_output_spec(*specs[0], **specs[1])
        if any(None in spec.shape for spec in flatten(made)):
            # Some layers tell their shape from their configuration alone; their code knows better.
            made = infer(layer, *specs[0], **specs[1])
        outputs: object = map_structure(Value, made)
        call = Call(path, layer, arguments, keywords, values_in(outputs))
        self._apply_rule(self, call)
        self._say_where_from(call)
        return outputs

    def inside(
        self,
        path: str,
        layer: Operation,
        arguments: Sequence[object],
        keywords: Mapping[str, object],
    ) -> list[Value]:
        """What a layer inside another gives. The masked twin sees the outer one only."""
        self._inside += 1
        try:
            return values_in(self.call(path, layer, arguments, keywords))
        finally:
            self._inside -= 1

    def _say_where_from(self, call: Call) -> None:
        """A result without channels says what it is, as what it was made from did."""
        if not call.inputs:
            return
        first = call.inputs[0]
        for output in call.outputs:
            if output.why == NO_CHANNEL:
                output.why = first.why
            if len(call.inputs) == 1 and not first.axes:
                output.source = first.source

    # -- labels

    def weight(self, variable: Variable | None) -> ModelTensor | None:
        """The model's tensor that a layer's variable is; None where there is none."""
        return None if variable is None else self.leaves.get(id(variable))

    def put(self, value: Value, axes: Mapping[int, Ids | None], why: str = "") -> None:
        """Label a result; axes of length one or without units stay unlabelled."""
        value.axes = {
            axis % value.rank: units
            for axis, units in axes.items()
            if units is not None and value.shape[axis] > 1
        }
        value.why = why or value.why

    def carry(self, call: Call, axes: Mapping[int, int] | None = None) -> None:
        """Every result has the labels of the first input: input axis -> axis of the result."""
        known = call.input.axes
        moved = {axis: axis for axis in known} if axes is None else axes
        for output in call.outputs:
            self.put(output, {new: known[old] for old, new in moved.items() if old in known})

    def _own_units(self, leaf: ModelTensor, axis: int) -> Ids:
        """The units of a weight's axis; new ones if it has none yet."""
        if axis not in leaf.axes:
            leaf.axes[axis] = self.equations.units(leaf.shape[axis])
            leaf.roles.setdefault(axis, Role.OTHER)
        return leaf.axes[axis]

    def remember(self, key: Hashable, make: Callable[[], T]) -> T:
        """What was made under this key before, or is made now: for layers that are called twice."""
        if key not in self._remembered:
            self._remembered[key] = make()
        return cast("T", self._remembered[key])

    # -- equations

    def unify(self, places: Iterable[Place | None]) -> Ids | None:
        """These axes are one: the same units lie along all of them. Returns these; None if none do.

        Axes of length one are broadcast and do not count. An axis that carries no channels has a
        fixed length, so all that meet it are frozen.
        """
        known: list[Ids] = []
        unbound: list[tuple[ModelTensor, int]] = []
        fixed: Value | None = None
        for place in places:
            if place is None or place.length == 1:
                continue
            thing, axis = place.thing, place.at
            if axis in thing.axes:
                known.append(thing.axes[axis])
            elif isinstance(thing, ModelTensor):
                unbound.append((thing, axis))
            else:
                fixed = thing
        if fixed is not None:
            for units in [*known, *(self._own_units(leaf, axis) for leaf, axis in unbound)]:
                self.equations.freeze(units, f"meets {fixed.why}")
            return None
        if not known and unbound:
            known.append(self._own_units(*unbound.pop(0)))
        for units in known[1:]:
            self.equations.equate(known[0], units)
        for leaf, axis in unbound:
            # Twice the same leaf: the first time has bound it.
            self.equations.equate(known[0], leaf.axes.setdefault(axis, known[0]))
        return known[0] if known else None

    def join(
        self, leaf: ModelTensor | None, axis: int, units: Ids, role: Role = Role.FILTER
    ) -> None:
        """A weight's axis carries these units: bound to them if it had none, else equal to them."""
        if leaf is None:
            return
        place = Place(leaf, axis)
        if place.length != len(units):
            raise ValueError(f"{leaf.name}: expected {len(units)} along axis {axis}")
        self.equations.equate(leaf.axes.setdefault(place.at, units), units)
        self.play(place, role)

    def freeze_known(self, thing: Value | ModelTensor, reason: str, axes: Iterable[int]) -> None:
        """Nothing may go along those of these axes that carry channels."""
        for axis in axes:
            if (units := thing.axes.get(axis % len(thing.shape))) is not None:
                self.equations.freeze(units, reason)

    def freeze(
        self, thing: Value | ModelTensor | None, reason: str, axes: Iterable[int] | None = None
    ) -> None:
        """Nothing along these axes (all, if not given) may go."""
        if thing is None:
            return
        chosen = range(len(thing.shape)) if axes is None else axes
        if isinstance(thing, ModelTensor):
            for axis in chosen:
                if Place(thing, axis).length > 1:
                    self._own_units(thing, Place(thing, axis).at)
        self.freeze_known(thing, reason, chosen)

    def play(self, place: Place, role: Role) -> None:
        """Note what an axis of a weight does."""
        thing = place.thing
        leaf = thing.leaf if isinstance(thing, Value) else thing
        if leaf is not None and leaf.roles.get(place.at, Role.OTHER) is Role.OTHER:
            leaf.roles[place.at] = role

    # -- notes for what comes after

    def reads(
        self, leaf: ModelTensor, axis: int, call: Call | None = None, of: Place | None = None
    ) -> None:
        """Along this axis a weight reads channels; the masked twin ignores removed ones.

        Args:
            leaf: the weight.
            axis: of the weight.
            call: the present one.
            of: the axis of one of its operands that is read, if it is read as it is and this is all
                that the weight's axis does; None where that is not so.
        """
        place = Place(leaf, axis)
        key = leaf.name, place.at
        self.read[key] = leaf
        self.play(place, Role.INPUT)
        mask = None if call is None or of is None or self._inside else _mask_of(call, of)
        if mask is None:
            self._by_weight.add(key)
        else:
            self.operations[-1].reading[key] = mask

    def reading(self) -> dict[tuple[str, int], list[tuple[int, Mask]]]:
        """Weights (by name and axis) -> the operands (call, which) that they read, all of them.

        Those that also read something else are left out.
        """
        find: dict[tuple[str, int], list[tuple[int, Mask]]] = {}
        for number, operation in enumerate(self.operations):
            for key, mask in operation.reading.items():
                if key not in self._by_weight:
                    find.setdefault(key, []).append((number, mask))
        return find

    def silences(self, leaf: ModelTensor | None, axis: int) -> None:
        """The masked twin takes the weight as zero at removed channels, which makes these zero."""
        if leaf is not None:
            key = leaf.name, Place(leaf, axis).at
            self.read[key] = leaf
            self._by_weight.add(key)

    def mask(self, call: Call, value: Value, axis: int) -> None:
        """The masked twin ignores the removed channels of this operand here."""
        units = value.axes.get(axis % value.rank)
        if units is None:
            return
        if self._inside:
            self.equations.freeze(units, f"summed over inside {self.operations[-1].layer}")
            return
        numbers = [number for number, known in enumerate(call.inputs) if known is value]
        self.operations[-1].masks += [Mask(n, axis % value.rank, units) for n in numbers]

    def mixes(self, call: Call, units: Iterable[Ids | None]) -> None:
        """The result for a channel depends on the others along these axes."""
        arrays = [array for array in units if array is not None and len(array)]
        if not arrays:
            return
        if self._inside:
            for array in arrays:
                self.equations.freeze(array, f"{call} mixes them inside another layer")
            return
        self.operations[-1].mixes = True
        self.mixings.append(Mixing(call.kind, call.path, np.unique(np.concatenate(arrays))))

    def counts(
        self,
        owner: str,
        attribute: str,
        units: Ids | None,
        position: int | None = None,
        wholes: Sequence[Ids] = (),
    ) -> None:
        """A layer's configuration keeps the number of these units; ``wholes`` as in ``Assumed``."""
        if units is None:
            return
        if self._written_in is not None:
            operation = self.operations[-1].name
            why = (
                f"a number in {operation} in the code of {self._written_in[0]}.call does not follow"
            )
            step = len(self.operations) - 1
            self.assumed.append(Assumed(step, units, why, self._written_in, tuple(wholes)))
        else:
            self.sizes.setdefault((owner, attribute, position), (units,))

    def numbers(self, layer: str, units: Ids | None) -> None:
        """These units, in this order, are what users call channel 0, 1, ... of a layer."""
        if units is not None:
            self.layer_channels.setdefault(layer, units)

    def costs(self, layer: str, total: int, axes: Iterable[Ids | None]) -> None:
        """A contraction of so many multiply-accumulates; they follow the lengths of these axes."""
        followed = tuple(units for units in axes if units is not None)
        constant = total // math.prod(len(units) for units in followed)
        self.contractions.append(Contraction(layer, Product(constant, followed)))


def _mask_of(call: Call, of: Place) -> Mask | None:
    """The channels of an operand as what a masked twin may change; None where it is not one."""
    operands = [number for number, known in enumerate(call.inputs) if known is of.thing]
    units = of.thing.axes.get(of.at)
    return None if len(operands) != 1 or units is None else Mask(operands[0], of.at, units)


def _describe(value: Value) -> tuple[tuple[int, ...], Axes]:
    return value.shape, dict(value.axes)


def _with_specs(structure: T) -> T:
    return cast(
        "T",
        map_structure(lambda item: item.spec if isinstance(item, Value) else item, structure),
    )
