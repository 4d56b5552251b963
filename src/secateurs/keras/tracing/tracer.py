"""The tracer: follows channels through a graph, and holds the state that rules work on."""

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
from secateurs.keras.internals import (
    NOT_PLAIN,
    Operation,
    Variable,
    accepts_training,
    has_plain_options,
    infer,
    infer_plainly,
    is_tensor,
)
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
    """Walks through a model's graph and collects the equations between its units.

    A rule for each layer class propagates the labels; a layer without a rule freezes its operands.
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
        """Weights whose removed channels the masked twin sets to zero, by (name, axis)."""
        self._by_weight: set[tuple[str, int]] = set()
        """Those that can be masked in the weight only, not in an operand of a call."""
        self.sizes: dict[tuple[str, str, int | None], tuple[Ids, ...]] = {}
        self.layer_channels: dict[str, Ids] = {}
        """Layer -> units in the order of its channels, for layers whose weights do not show it."""
        self.index_ranges: dict[int, int] = {}
        """Position of a network input -> number of rows of the table that it indexes."""
        self._apply_rule = apply_rule
        self._remembered: dict[Hashable, object] = {}
        self._inside = 0
        self.assumed: list[Assumed] = []
        """Sizes in the code of layers that are assumed to follow the lengths of axes."""
        self.closed = ""
        """Why the code of the current call's layer is not traced; '' if it is, or need not be."""
        self._written_in: tuple[str, int] | None = None
        """(Class whose code makes the current call, index of the call); None outside such code."""
        self._written_by: object = None
        """The layer whose code makes the current call."""

    # -- one call

    def step(
        self, site: CallSite, arguments: Sequence[object], keywords: dict[str, object]
    ) -> object:
        """Run the rule of one call of the graph and return its labelled outputs."""
        self.operations.append(OpRecord(type(site.operation).__name__, site.path, site.operation))
        operation = self.operations[-1]
        self._written_in, self._written_by, self.closed = None, site.inside, site.closed
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
        """Replace weights that a layer's code uses directly by values.

        A call on constants alone (the positions of an embedding, say) has its constants replaced.
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
                    self._units_of_weight(leaf, axis)
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
        """Return a layer's outputs for these values, labelled by its rule."""
        specs = _with_specs((list(arguments), dict(keywords)))
        if not accepts_training(layer):  # the caller may pass it to any layer
            specs[1].pop("training", None)
        is_plain = len(specs[0]) == 1 and has_plain_options(specs[1])
        made = infer_plainly(layer, specs[0][0]) if is_plain else NOT_PLAIN
        if made is NOT_PLAIN:
            made = layer.compute_output_spec(*specs[0], **specs[1])
        if any(None in spec.shape for spec in flatten(made)):
            # Some layers infer it from their configuration alone; running their code is exact.
            made = infer(layer, *specs[0], **specs[1])
        outputs: object = map_structure(Value, made)
        call = Call(path, layer, arguments, keywords, values_in(outputs))
        self._apply_rule(self, call)
        self._pass_on_description(call)
        return outputs

    def inside(
        self,
        path: str,
        layer: Operation,
        arguments: Sequence[object],
        keywords: Mapping[str, object],
    ) -> list[Value]:
        """Return the outputs of a layer inside another; the masked twin sees only the outer one."""
        self._inside += 1
        try:
            return values_in(self.call(path, layer, arguments, keywords))
        finally:
            self._inside -= 1

    def _pass_on_description(self, call: Call) -> None:
        """Pass the first input's description, and its source, on to outputs without channels."""
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
        """Return the model's tensor for a layer's variable; None if there is none."""
        return None if variable is None else self.leaves.get(id(variable))

    def put(self, value: Value, axes: Mapping[int, Ids | None], why: str = "") -> None:
        """Label an operation's result; axes of length one or without units stay unlabelled."""
        value.axes = {
            axis % value.rank: units
            for axis, units in axes.items()
            if units is not None and value.shape[axis] > 1
        }
        value.why = why or value.why

    def carry(self, call: Call, axes: Mapping[int, int] | None = None) -> None:
        """Give every output the first input's labels; ``axes`` maps input axis -> output axis."""
        known = call.input.axes
        moved = {axis: axis for axis in known} if axes is None else axes
        for output in call.outputs:
            self.put(output, {new: known[old] for old, new in moved.items() if old in known})

    def _units_of_weight(self, leaf: ModelTensor, axis: int) -> Ids:
        """Return the units of a weight's axis, created if it has none yet."""
        if axis not in leaf.axes:
            leaf.axes[axis] = self.equations.units(leaf.shape[axis])
            leaf.roles.setdefault(axis, Role.OTHER)
        return leaf.axes[axis]

    def remember(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the value cached under this key, or make it: for layers that are called twice."""
        if key not in self._remembered:
            self._remembered[key] = make()
        return cast("T", self._remembered[key])

    # -- equations

    def unify(self, places: Iterable[Place | None]) -> Ids | None:
        """Equate the units along aligned axes and return them; None if the axes carry no channels.

        Axes of length one are broadcast and ignored. A value's axis without units has a fixed
        length, so it freezes the units of all the others.
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
            for units in [*known, *(self._units_of_weight(leaf, axis) for leaf, axis in unbound)]:
                self.equations.freeze(units, f"combined with {fixed.why}")
            return None
        if not known and unbound:
            known.append(self._units_of_weight(*unbound.pop(0)))
        for units in known[1:]:
            self.equations.equate(known[0], units)
        for leaf, axis in unbound:
            # The same tensor may occur twice; its first occurrence has bound the axis.
            self.equations.equate(known[0], leaf.axes.setdefault(axis, known[0]))
        return known[0] if known else None

    def join(
        self, leaf: ModelTensor | None, axis: int, units: Ids, role: Role = Role.FILTER
    ) -> None:
        """Label a weight's axis with these units, or equate them with the units it has."""
        if leaf is None:
            return
        place = Place(leaf, axis)
        if place.length != len(units):
            raise ValueError(f"{leaf.name}: expected {len(units)} along axis {axis}")
        self.equations.equate(leaf.axes.setdefault(place.at, units), units)
        self.play(place, role)

    def freeze_known(self, thing: Value | ModelTensor, reason: str, axes: Iterable[int]) -> None:
        """Freeze those of these axes that carry channels; ``reason`` names the call."""
        for axis in axes:
            if (units := thing.axes.get(axis % len(thing.shape))) is not None:
                self.equations.freeze(units, reason)

    def freeze(
        self, thing: Value | ModelTensor | None, reason: str, axes: Iterable[int] | None = None
    ) -> None:
        """Freeze these axes (default: all axes) of a tensor."""
        if thing is None:
            return
        chosen = range(len(thing.shape)) if axes is None else axes
        if isinstance(thing, ModelTensor):
            for axis in chosen:
                if Place(thing, axis).length > 1:
                    self._units_of_weight(thing, Place(thing, axis).at)
        self.freeze_known(thing, reason, chosen)

    def play(self, place: Place, role: Role) -> None:
        """Note the role of an axis of a weight; the first role other than OTHER is kept."""
        thing = place.thing
        leaf = thing.leaf if isinstance(thing, Value) else thing
        if leaf is not None and leaf.roles.get(place.at, Role.OTHER) is Role.OTHER:
            leaf.roles[place.at] = role

    # -- records for the proof and the surgery

    def reads(
        self, leaf: ModelTensor, axis: int, call: Call | None = None, of: Place | None = None
    ) -> None:
        """Record that a weight reads channels along this axis; the twin ignores removed ones.

        Args:
            leaf: weight that reads.
            axis: axis of the weight.
            call: current call.
            of: axis of an operand, if the weight's axis reads exactly that axis and nothing else;
                the masked twin may then mask the operand instead of the weight. None otherwise.
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
        """Map (name, axis) of a weight to all operands it reads, as (index of the call, mask).

        Weights that also read something else are left out.
        """
        operands_of: dict[tuple[str, int], list[tuple[int, Mask]]] = {}
        for number, operation in enumerate(self.operations):
            for key, mask in operation.reading.items():
                if key not in self._by_weight:
                    operands_of.setdefault(key, []).append((number, mask))
        return operands_of

    def silences(self, leaf: ModelTensor | None, axis: int) -> None:
        """Record that zeroing a weight along this axis makes the removed channels zero."""
        if leaf is not None:
            key = leaf.name, Place(leaf, axis).at
            self.read[key] = leaf
            self._by_weight.add(key)

    def mask(self, call: Call, value: Value, axis: int) -> None:
        """Note that the masked twin zeroes the removed channels of this operand."""
        units = value.axes.get(axis % value.rank)
        if units is None:
            return
        if self._inside:
            self.equations.freeze(
                units, f"summed over inside the layer {self.operations[-1].layer}"
            )
            return
        numbers = [number for number, known in enumerate(call.inputs) if known is value]
        self.operations[-1].masks += [Mask(n, axis % value.rank, units) for n in numbers]

    def mixes(self, call: Call, units: Iterable[Ids | None]) -> None:
        """Note that the result for each channel depends on the other channels along these axes."""
        arrays = [array for array in units if array is not None and len(array)]
        if not arrays:
            return
        if self._inside:
            for array in arrays:
                self.equations.freeze(array, f"{call} mixes these channels inside another layer")
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
        """Record that a layer's configuration stores the number of these units.

        Inside the code of a layer, the size is assumed instead; ``wholes`` as in ``Assumed``.
        """
        if units is None:
            return
        if self._written_in is not None:
            operation = self.operations[-1].name
            why = (
                f"a number in {operation} in the code of {self._written_in[0]}.call does not follow"
            )
            step = len(self.operations) - 1
            self.assumed.append(
                Assumed(step, units, why, self._written_in, tuple(wholes), self._written_by)
            )
        else:
            self.sizes.setdefault((owner, attribute, position), (units,))

    def numbers(self, layer: str, units: Ids | None) -> None:
        """Record that these units, in this order, are channels 0, 1, ... of a layer."""
        if units is not None:
            self.layer_channels.setdefault(layer, units)

    def costs(self, layer: str, total: int, axes: Iterable[Ids | None]) -> None:
        """Note a contraction of this many multiply-accumulates."""
        followed = tuple(units for units in axes if units is not None)
        constant = total // math.prod(len(units) for units in followed)
        self.contractions.append(Contraction(layer, Product(constant, followed)))


def _mask_of(call: Call, of: Place) -> Mask | None:
    """Return the mask for an operand's channels; None if it has none or occurs more than once."""
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
