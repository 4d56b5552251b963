"""Which attributes of a model's modules follow which channels, and which numbers are one.

All of it is guessed from numbers that are equal, and equal numbers prove little: a width may happen
to be what one head takes. So no guess is for good. Each is kept under the place in the forward pass
that it was made for, and is taken back

- when that place has the wrong length again in the next dry run;
- when it freezes channels that were free before: it contradicts the rest of what is known;
- and an attribute that counts something already is only said to count more after a *probe*: the
  dense model is run with another number there, and the place has to feel it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
from torch import nn

from secateurs.channels.cost import Product
from secateurs.channels.equations import Equations, Ids, Solution
from secateurs.channels.network import Size
from secateurs.pytorch.model.attributes import Attribute, identity, numbers_in, read
from secateurs.pytorch.sizes.dry_run import WrongSize
from secateurs.pytorch.tracing.op_record import ForwardPass

Key = tuple[int, ...]
"""A place in the forward pass: see ``WrongSize.key``."""

Tie = tuple[Ids, Ids]
"""Channels of the same number that go together, place by place."""

ProbeFunction = Callable[[Collection[Attribute], bool], Collection[Key] | None]
"""The places that feel another number in these attributes; None where that cannot be told.

The number is one more, or twice as much for one that others are said to divide.
"""

Asked = tuple[type, str, object, bool]
"""A class, an attribute of it, the item in there, and whether it is a whole that is sought."""

SLICES = {"aten.slice", "aten.narrow"}

WHOLE = -1
"""At the end of a place's key: not the length itself is sought, but what it is a share of."""


class Bindings:
    """The guesses so far.

    Args:
        model: whose attributes they are.
        passes: its forward passes, as traced.
        equations: of the trace.
        probe: runs the dense model with other numbers.
    """

    def __init__(
        self,
        model: nn.Module,
        passes: Sequence[ForwardPass],
        equations: Equations,
        probe: ProbeFunction,
    ) -> None:
        self._model = model
        self._modules = dict(model.named_modules())
        self._passes = passes
        self._equations = equations
        self._probe = probe
        self._felt: dict[Asked, Collection[Key] | None] = {}
        self._links: dict[Attribute, Size] = {}
        self._linked_for: dict[Key, Attribute] = {}
        self._first_of: dict[tuple[int, str, object], Attribute] = {}
        self._ties: dict[Key, Tie] = {}
        self._refused: dict[Key, set[bytes]] = {}
        self._unsettled: set[Key] = set()
        self._candidates: dict[Key, Iterator[Attribute]] = {}
        self._places: dict[int, dict[tuple[str, str], list[int]]] = {}
        self._atoms: Ids = np.zeros((0, 1), np.int64)

    # -- what is guessed

    def sizes(self) -> list[Size]:
        """The attributes that follow channels."""
        return list(self._links.values())

    def ties(self) -> list[Tie]:
        """The channels that go together because one number counts both."""
        return list(self._ties.values())

    def is_linked(self, attribute: Attribute) -> bool:
        """Whether an attribute follows some channels."""
        return attribute in self._links

    def list_counted(self, key: Key) -> Iterator[Ids]:
        """What those attributes count that this place has its length from."""
        for attribute, size in self._links.items():
            if self._is_surely_felt(attribute, key):
                yield from size.value.axes

    def must_stay(self, units: Ids) -> bool:
        """Whether none of these channels can go as things are."""
        return int(units.max(initial=0)) < len(self._atoms) and not self._atoms[units].any()

    def is_guessed(self, key: Key) -> bool:
        """Whether something was guessed for this place."""
        return key in self._linked_for or key in self._ties

    # -- guesses taken back

    def let_go(self, key: Key) -> None:
        """Take back what was guessed for a place, which is wrong all the same."""
        failed = self._linked_for.pop(key, None)
        if failed is not None:
            self._links.pop(failed, None)
        self._refuse(key)

    def _refuse(self, key: Key) -> None:
        tie = self._ties.pop(key, None)
        if tie is not None:
            self._refused.setdefault(key, set()).update(units.tobytes() for units in tie)

    def look_at(self, before: Solution, after: Solution) -> bool:
        """Take back the new ties that froze what was free. True if there were any."""
        wrong = [key for key in self._unsettled if key in self._ties]
        wrong = [key for key in wrong if _froze(self._ties[key], before, after)]
        for key in wrong:
            self._refuse(key)
        self._unsettled.clear()
        self._atoms = after.atoms[: self._equations.count]
        return bool(wrong)

    # -- guesses made

    def follow(self, wrong: WrongSize) -> bool:
        """Let an attribute of the running modules follow the channels; if one was, the next."""
        if wrong.units is None:
            return False
        if wrong.key not in self._candidates:
            order = sorted(self._attributes(wrong), key=lambda one: self._distance(one, wrong))
            self._candidates[wrong.key] = iter(order)
        for attribute in self._candidates[wrong.key]:
            if self._link(attribute, wrong.key, wrong.units, wrong.layers):
                self._link_alike(attribute, wrong)
                return True
        return False

    def tie(self, key: Key, units: Ids, others: Ids) -> bool:
        """Let two arrays of channels go together; False where that was refuted before."""
        if {units.tobytes(), others.tobytes()} & self._refused.get(key, set()):
            return False
        self._ties[key] = (units, others)
        self._unsettled.add(key)
        return True

    def link(self, attribute: Attribute, units: Ids) -> None:
        """Let an attribute follow channels, come what may."""
        self._links[attribute] = Size(*attribute, Product(1, (units,)))

    def _link(self, attribute: Attribute, key: Key, units: Ids, layers: Collection[str]) -> bool:
        """Let an attribute follow these channels; False if it follows something else."""
        holder = self._model.get_submodule(attribute.owner)
        attribute = self._first_of.setdefault(identity(holder, attribute), attribute)
        known = self._links.get(attribute)
        if known is None:
            if self._is_far(attribute, layers) and not self._is_felt(attribute, key):
                return False
            if self._is_taken(key) and not self._is_surely_felt(attribute, key):
                return False
            self.link(attribute, units)
            self._linked_for[key] = attribute
            return True
        counted = known.value.axes[0]
        if len(counted) != len(units):
            return False
        if self.are_one(counted, units):
            return True
        if not self._is_felt(attribute, key):
            return False
        return self.tie(key, units, counted)  # one number counts both: they go together

    def _is_felt(self, attribute: Attribute, key: Key) -> bool:
        """Whether a place has another length where the attribute is another number.

        All modules of a class are probed at once: what is asked of one will be of the next.
        """
        _, name, item = attribute
        asked = self._kind_of(attribute, key)
        if asked not in self._felt:
            alike = [
                Attribute(path, name, item)
                for path, module in self._modules.items()
                if type(module) is asked[0]
            ]
            self._felt[asked] = self._probe(alike, asked[-1])
        felt = self._felt[asked]
        return felt is None or key in felt or key[:4] in felt

    def _kind_of(self, attribute: Attribute, key: Key) -> Asked:
        """What is asked of all modules of a class at once."""
        owner, name, item = attribute
        return type(self._modules[owner]), name, item, key[-1] == WHOLE

    def _is_surely_felt(self, attribute: Attribute, key: Key) -> bool:
        return (
            self._is_felt(attribute, key) and self._felt[self._kind_of(attribute, key)] is not None
        )

    def _is_taken(self, key: Key) -> bool:
        """Whether a place is the length of a slice: it may be a share of a number (``d // 2``).

        Such a length follows by itself when that number does, and is told apart only by a probe
        from any other that happens to be as large.
        """
        operation = self._passes[key[0]].operations[key[1]]
        return key[2] >= 0 and operation.name in SLICES

    # -- candidates

    def _attributes(self, wrong: WrongSize) -> Iterator[Attribute]:
        """Of the running modules, then of those that these hold: their code may ask for them."""
        held = [
            f"{layer}.{name}".lstrip(".")
            for layer in wrong.layers
            for name, _ in self._modules[layer].named_children()
        ]
        for layer in dict.fromkeys((*wrong.layers, *held)):
            for attribute, value in numbers_in(layer, self._modules[layer]):
                if value == wrong.dense:
                    yield attribute

    def _is_far(self, attribute: Attribute, layers: Collection[str]) -> bool:
        """Whether it is kept elsewhere than in a running module itself."""
        return attribute.is_far or attribute.owner not in layers

    def _distance(self, attribute: Attribute, wrong: WrongSize) -> int:
        """How far-fetched it is that a wrong length is this attribute.

        Nearest is what these channels follow already; then what the same axis of such an operation
        of the layer follows (keys after queries, where there are as many heads as positions); then
        what nothing follows yet, and what another object holds last.
        """
        if self._is_far(attribute, wrong.layers):
            return 4
        known = self._links.get(attribute)
        if known is None:
            return 2
        if self.are_one(known.value.axes[0], wrong.units):
            return 0
        kind = self._kind(wrong.key)
        linked = (key for key, link in self._linked_for.items() if link == attribute)
        return 1 if any(self._kind(key) == kind for key in linked) else 3

    def are_one(self, units: Ids, others: Ids | None) -> bool:
        """Whether these channels go together as things are."""
        if others is None or len(units) != len(others):
            return False
        known = max(units.max(initial=0), others.max(initial=0)) < len(self._atoms)
        return known and np.array_equal(self._atoms[units], self._atoms[others])

    def _kind(self, key: Key) -> tuple[object, ...]:
        number, at, *where = key
        operation = self._passes[number].operations[at]
        return (operation.layer, operation.name, *where)

    # -- modules of a kind

    def _link_alike(self, attribute: Attribute, wrong: WrongSize) -> None:
        """What one layer needed, others of its kind will: a dry run may not get as far as them.

        The same operation is the one that is as far on in its layer; the next dry run shows whether
        this was right, as for any other attribute.
        """
        owner, name, item = attribute
        number, at, place, axis, *factor = wrong.key
        operation = self._passes[number].operations[at]
        if factor or place < 0 or operation.layer != owner:
            return
        places = self._places_in(number)
        nth = places[owner, operation.name].index(at)
        for path, module in self._modules.items():
            same = places.get((path, operation.name), [])[nth : nth + 1]
            if path == owner or type(module) is not type(self._modules[owner]) or not same:
                continue
            shapes = self._passes[number].operations[same[0]].outputs
            shape, axes = shapes[place] if place < len(shapes) else ((), {})
            key = (number, same[0], place, axis)
            if key in self._candidates or axis not in axes or shape[axis] != wrong.dense:
                continue
            alike = Attribute(path, name, item)
            if read(self._model, alike) == wrong.dense:
                self._link(alike, key, axes[axis], (path,))

    def _places_in(self, number: int) -> dict[tuple[str, str], list[int]]:
        """(layer, operation) -> where that operation is done there in a pass."""
        if number not in self._places:
            found: dict[tuple[str, str], list[int]] = {}
            for at, operation in enumerate(self._passes[number].operations):
                found.setdefault((operation.layer, operation.name), []).append(at)
            self._places[number] = found
        return self._places[number]


def _froze(tie: Tie, before: Solution, after: Solution) -> bool:
    """Whether channels of a tie can go no more that could before."""
    for units in tie:
        free = units[units < len(before.atoms)]
        free = free[before.atoms[free].any(axis=1)]
        if len(free) and not after.atoms[free].any(axis=1).all():
            return True
    return False
