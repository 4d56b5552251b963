"""Following channels through a forward pass: the state that the rules work on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch._ops import OpOverload

from secateurs.channels.cost import Contraction, Product
from secateurs.channels.labels import Equations, Ids
from secateurs.channels.network import Mixing, Role
from secateurs.pytorch.counted import Counted, users_line
from secateurs.pytorch.leaves import Leaf

NETWORK_INPUT = "the network's input"
NETWORK_OUTPUT = "it is the network's output"
NO_CHANNEL = "values that carry no channels"

Axes = dict[int, Ids]


class Place(NamedTuple):
    """One axis of one tensor."""

    tensor: torch.Tensor
    axis: int


@dataclass(slots=True)
class Labels:
    """What travels beside a tensor.

    Attributes:
        axes: axis -> the unit at each index; axes that are not listed carry no channels.
        leaf: the model's tensor this is, if it is one (then ``axes`` is the leaf's own).
        origin: the model's tensor it was made from without the help of the input, if there is one.
        why: what it is, where it carries no channels.
    """

    axes: Axes = field(default_factory=dict)
    leaf: Leaf | None = None
    origin: Leaf | None = None
    why: str = NO_CHANNEL

    @property
    def weight(self) -> Leaf | None:
        """The weight it is or was made from."""
        return self.leaf or self.origin


@dataclass(frozen=True, slots=True)
class Mask:
    """An operand whose removed channels the masked twin ignores.

    Attributes:
        operand: which tensor argument of the operation.
        axis: along which of its axes.
        units: the channels there.
    """

    operand: int
    axis: int
    units: Ids


@dataclass(slots=True)
class Operation:
    """One operation of the forward pass, as the rehearsal and the masked twin need it.

    Attributes:
        name: of the aten operation.
        layer: where it happened.
        outputs: for each tensor it gave, its shape and the units along its axes.
        masks: operands the masked twin changes.
        mixed: for an operation that mixes channels (a norm, a mean): (operand, its axes) of all
            operands; the masked twin runs it on the kept channels only.
        groups: the units that a group normalisation counts.
    """

    name: str
    layer: str
    outputs: list[tuple[tuple[int, ...], Axes]] = field(default_factory=list)
    masks: list[Mask] = field(default_factory=list)
    mixed: list[tuple[int, Axes]] = field(default_factory=list)
    groups: Ids | None = None


class Call:
    """An operation about to be run: its arguments by name."""

    __slots__ = ("arguments", "function", "keywords", "named")

    def __init__(
        self, function: OpOverload, arguments: Sequence[Any], keywords: dict[str, Any]
    ) -> None:
        self.function = function
        self.arguments = arguments
        self.keywords = keywords
        declared = function._schema.arguments
        self.named = dict(zip((a.name for a in declared), arguments, strict=False)) | keywords

    def __getitem__(self, name: str) -> Any:
        return self.named[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The argument of this name, or ``default`` where it was left out or is None."""
        value = self.named.get(name)
        return default if value is None else value

    @property
    def packet(self) -> Any:
        """The operation, whatever the types of its arguments."""
        return self.function.overloadpacket

    @property
    def name(self) -> str:
        """'layer_norm' for ``aten.layer_norm.default``."""
        return str(self.packet._qualified_op_name).partition("::")[2]

    def tensors(self) -> list[torch.Tensor]:
        """All tensors among the arguments, those in lists too, in order."""
        return list(tensors_in([*self.arguments, *self.keywords.values()]))

    def run(self) -> Any:
        """Run it; constants join the tensors without data."""
        if any(tensor.is_meta for tensor in self.tensors()):
            arguments = [_without_data(value) for value in self.arguments]
            keywords = {key: _without_data(value) for key, value in self.keywords.items()}
            return self.function(*arguments, **keywords)
        return self.function(*self.arguments, **self.keywords)

    def changed(self, **changes: Any) -> Call:
        """The same call with some arguments, by name, replaced."""
        return Call(self.function, (), self.named | changes)


def _without_data(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value if value.is_meta else value.to("meta")
    if isinstance(value, (list, tuple)):
        return type(value)([_without_data(item) for item in value])
    return value


def tensors_in(values: Any) -> Iterable[torch.Tensor]:
    """Every tensor in nested lists, tuples and dictionaries, in order."""
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from tensors_in(value)
    elif isinstance(values, dict):
        for value in values.values():
            yield from tensors_in(value)


class Tracer(Counted):
    """Runs a model on tensors without data and collects the equations between its units.

    A rule for each operation says what it does to the labels; an operation without a rule freezes
    what it touches. Values that do not depend on the input or the weights (index tables, masks,
    grids) are computed for real, so that rules can read them.
    """

    def __init__(self, leaves: Sequence[Leaf], rules: Any, concrete: bool = False) -> None:
        super().__init__(rules.is_whole)
        self.rules = rules
        self.equations = Equations()
        self.leaves = {id(leaf.tensor): leaf for leaf in leaves}
        self.contractions: list[Contraction] = []
        self.mixings: list[Mixing] = []
        self.operations: list[Operation] = []
        self.counts: dict[tuple[str, str], Ids] = {}
        self.reads_sizes = False
        """Whether an operation was given lengths of axes that carry channels as plain integers."""
        self._concrete = concrete
        self._labels: dict[int, Labels] = {}
        self._stand_ins: dict[int, torch.Tensor] = {}
        self._kept: list[torch.Tensor] = []

    # -- one operation

    def step(self, function: OpOverload, arguments: Sequence[Any], keywords: dict[str, Any]) -> Any:
        operation = Operation(str(function.overloadpacket), self.layer)
        self.operations.append(operation)
        mutates = function._schema.is_mutable
        arguments = [self._stand_in(value, mutates) for value in arguments]
        keywords = {key: self._stand_in(value, mutates) for key, value in keywords.items()}
        call = Call(function, arguments, keywords)
        if not any(is_followed(tensor) for tensor in call.tensors()):
            return made_for_real(call)
        output = self.rules.apply(self, call)
        for tensor in tensors_in(output):
            operation.outputs.append((tuple(tensor.shape), dict(self.labels(tensor).axes)))
        return output

    def _stand_in(self, value: Any, mutates: bool) -> Any:
        """The tensor without data that stands for a weight; a copy of what would be changed."""
        if isinstance(value, torch.Tensor):
            known = self._stand_ins.get(id(value))
            if known is not None:
                return known
            leaf = self.leaves.get(id(value))
            if leaf is not None:
                return self._stand_in_for(leaf, mutates)
            return value
        if isinstance(value, (list, tuple)):
            return type(value)([self._stand_in(item, mutates) for item in value])
        return value

    def _stand_in_for(self, leaf: Leaf, mutates: bool) -> torch.Tensor:
        with torch.inference_mode(
            mode=False
        ):  # PyTorch wants views of weights to be ordinary tensors
            tensor = leaf.tensor.detach()
            if leaf.can_carry_channels and not self._concrete:
                tensor = torch.empty_like(tensor, device="meta")
        if leaf.can_carry_channels:
            stand_in = tensor
            follow(stand_in, Labels(leaf.axes, leaf))
        elif mutates:
            stand_in = tensor.clone()
        else:
            return leaf.tensor
        self._stand_ins[id(leaf.tensor)] = stand_in
        return stand_in

    def follow_input(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor to run the model on instead of this input."""
        stand_in = tensor if self._concrete else torch.empty_like(tensor, device="meta")
        follow(stand_in, Labels(why=NETWORK_INPUT))
        return stand_in

    # -- labels

    def labels(self, tensor: torch.Tensor) -> Labels:
        """What is known of a tensor's axes."""
        known: Labels | None = getattr(tensor, "_secateurs_labels", None)
        return known if known is not None else Labels()

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

    def _own_units(self, leaf: Leaf, axis: int) -> Ids:
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
        unbound: list[tuple[Leaf, int]] = []
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
        self, arrays: Iterable[Ids], unbound: Iterable[tuple[Leaf, int]], reason: str
    ) -> None:
        for units in [*arrays, *(self._own_units(leaf, axis) for leaf, axis in unbound)]:
            self.equations.freeze(units, reason)

    def freeze_known(self, tensor: torch.Tensor, what: str, axes: Iterable[int]) -> None:
        """Nothing may go along those of these axes that carry channels; ``what`` reads them."""
        known = self.labels(tensor).axes
        for axis in axes:
            if axis in known:
                self.equations.freeze(known[axis], f"{what} at {self.where()}")

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


def follow(tensor: torch.Tensor, labels: Labels) -> None:
    """Let labels travel beside a tensor."""
    tensor._secateurs_labels = labels  # type: ignore[attr-defined]


def is_followed(tensor: torch.Tensor) -> bool:
    """Whether a tensor depends on the input or the weights."""
    return hasattr(tensor, "_secateurs_labels")


def _is_uniform(constant: torch.Tensor, axis: int) -> bool:
    """Whether a constant is the same all along an axis, so that any of it could go."""
    first = constant.narrow(axis, 0, 1)
    return not constant.is_meta and bool((constant == first).all())


def made_for_real(call: Call) -> Any:
    """Run an operation on constants; what is asked for on the meta device is made on the CPU."""
    device = call.keywords.get("device")
    if device is not None and torch.device(device).type == "meta":
        call.keywords["device"] = torch.device("cpu")
    if any(
        tensor.is_meta for tensor in call.tensors()
    ):  # new_zeros and the like: only the type counts
        like = torch.empty(0, dtype=call.tensors()[0].dtype)
        return call.function(like, *call.arguments[1:], **call.keywords)
    return call.run()
