"""Bindings of module attributes to channel counts, and ties between channels counted by one number.

All of them are inferred from equal numbers, and equal numbers are weak evidence: a width may happen
to equal the size of a head. So no binding is final. Each is stored under the place in the forward
pass that it was made for, and is undone

- when that place has the wrong length again in the next dry run;
- when it freezes channels that were free before: it contradicts the rest of what is known;
- and an attribute that is bound already gets a second meaning only after a *probe*: the dense model
  is run with another number there, and the place has to change its length.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
from torch import nn

from secateurs.channels.cost import Product
from secateurs.channels.equations import Equations, Ids, Solution
from secateurs.channels.network import Size
from secateurs.pytorch.model.attributes import Attribute, identity, numbers_in, read
from secateurs.pytorch.sizes.dry_run import START, WrongSize
from secateurs.pytorch.tracing.op_record import ForwardPass

Key = tuple[int, ...]
"""A place in the forward pass: see ``WrongSize.key``."""

Tie = tuple[Ids, Ids]
"""Two arrays of channels of equal length that are removed together, index by index."""

ProbeFunction = Callable[[Collection[Attribute], bool], Collection[Key] | None]
"""The places whose length changes with the number in these attributes; None if unknown.

The number is increased by one, or doubled for one that others divide.
"""

Asked = tuple[type, str, object, bool]
"""A class, an attribute of it, the item in there, and whether the whole of a quotient is wanted."""

SLICES = {"aten.slice", "aten.narrow"}

WHOLE = -1
"""Last element of a place's key: the wanted number is not the length itself but its dividend."""


class Bindings:
    """The current bindings and ties.

    Args:
        model: model whose attributes are bound.
        passes: traced forward passes of the model.
        equations: equations of the trace.
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
        self._paths = {id(module): path for path, module in self._modules.items()}
        self._passes = passes
        self._equations = equations
        self._probe = probe
        self._affected: dict[Asked, Collection[Key] | None] = {}
        self._links: dict[Attribute, Size] = {}
        self._linked_for: dict[Key, Attribute] = {}
        self._first_of: dict[tuple[int, str, object], Attribute] = {}
        self._ties: dict[Key, Tie] = {}
        self._refused: dict[Key, set[bytes]] = {}
        self._unsettled: set[Key] = set()
        self._candidates: dict[Key, Iterator[Attribute]] = {}
        self._places: dict[int, dict[tuple[str, str], list[int]]] = {}
        self._atoms: Ids = np.zeros((0, 1), np.int64)

    # -- current bindings and ties

    def sizes(self) -> list[Size]:
        """The attributes bound to channels."""
        return list(self._links.values())

    def ties(self) -> list[Tie]:
        """The channels removed together because one number counts both."""
        return list(self._ties.values())

    def is_linked(self, attribute: Attribute) -> bool:
        """Whether an attribute is bound to channels."""
        return attribute in self._links

    def list_counted(self, key: Key) -> Iterator[Ids]:
        """Channels counted by the attributes that this place has its length from."""
        for attribute, size in self._links.items():
            if self._surely_has_effect(attribute, key):
                yield from size.value.axes

    def must_stay(self, units: Ids) -> bool:
        """Whether all of these channels are frozen at present."""
        return int(units.max(initial=0)) < len(self._atoms) and not self._atoms[units].any()

    def is_guessed(self, key: Key) -> bool:
        """Whether there is a binding or tie for this place."""
        return key in self._linked_for or key in self._ties

    # -- undoing

    def let_go(self, key: Key) -> None:
        """Undo the binding or tie of a place that is still wrong."""
        failed = self._linked_for.pop(key, None)
        if failed is not None:
            self._links.pop(failed, None)
        self._refuse(key)

    def undo_misplaced(self, wrong: WrongSize) -> bool:
        """Undo bindings of attributes that change this place, and not the one they were made for.

        Of several attributes with one number, the wrong one was taken, and another that was bound
        as well gave the place its length.
        """
        found = False
        for key, attribute in list(self._linked_for.items()):
            if attribute.owner not in wrong.layers or not self._has_equal(attribute):
                continue
            changes = self._surely_has_effect(attribute, wrong.key)
            if changes and not self._has_effect(attribute, key):
                self.let_go(key)
                found = True
        return found

    def _has_equal(self, attribute: Attribute) -> bool:
        """Whether its module holds the same number in another attribute too."""
        numbers = list(numbers_in(attribute.owner, self._modules[attribute.owner]))
        number = dict(numbers).get(attribute)
        return sum(value == number for _, value in numbers) > 1

    def _refuse(self, key: Key) -> None:
        tie = self._ties.pop(key, None)
        if tie is not None:
            self._refused.setdefault(key, set()).update(units.tobytes() for units in tie)

    def look_at(self, before: Solution, after: Solution) -> bool:
        """Undo the new ties that froze free channels. True if there were any."""
        wrong = [key for key in self._unsettled if key in self._ties]
        wrong = [key for key in wrong if _freezes_more(self._ties[key], before, after)]
        for key in wrong:
            self._refuse(key)
        self._unsettled.clear()
        self._atoms = after.atoms[: self._equations.count]
        return bool(wrong)

    # -- binding and tying

    def follow(self, wrong: WrongSize) -> bool:
        """Bind the next candidate attribute of the running modules; False if none is left."""
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
        """Tie two arrays of channels; False where that was refuted before."""
        if {units.tobytes(), others.tobytes()} & self._refused.get(key, set()):
            return False
        self._ties[key] = (units, others)
        self._unsettled.add(key)
        return True

    def link(self, attribute: Attribute, units: Ids) -> None:
        """Bind an attribute to channels unconditionally."""
        self._links[attribute] = Size(*attribute, Product(1, (units,)))

    def _link(self, attribute: Attribute, key: Key, units: Ids, layers: Collection[str]) -> bool:
        """Bind an attribute to these channels; False if it is bound to something else."""
        holder = self._model.get_submodule(attribute.owner)
        attribute = self._first_of.setdefault(identity(holder, attribute), attribute)
        known = self._links.get(attribute)
        if known is None:
            if self._is_far(attribute, layers) and not self._has_effect(attribute, key):
                return False
            if self._is_sliced(key) and not self._surely_has_effect(attribute, key):
                return False
            self.link(attribute, units)
            self._linked_for[key] = attribute
            return True
        counted = known.value.axes[0]
        if len(counted) != len(units):
            return False
        if self.are_one(counted, units):
            return True
        if not self._has_effect(attribute, key):
            return False
        return self.tie(key, units, counted)  # one number counts both: tie them

    def _has_effect(self, attribute: Attribute, key: Key) -> bool:
        """Whether a place's length depends on the attribute's number; True if unknown.

        All modules of a class are probed at once, since the answer for one is needed for the next.
        """
        _, name, item = attribute
        asked = self._kind_of(attribute, key)
        if asked not in self._affected:
            alike = [
                Attribute(path, name, item)
                for path, module in self._modules.items()
                if type(module) is asked[0]
            ]
            self._affected[asked] = self._probe(alike, asked[-1])
        affected = self._affected[asked]
        return affected is None or key in affected or key[:4] in affected

    def _kind_of(self, attribute: Attribute, key: Key) -> Asked:
        """Key of a probe, which is shared by all modules of a class."""
        owner, name, item = attribute
        return type(self._modules[owner]), name, item, key[-1] == WHOLE

    def _surely_has_effect(self, attribute: Attribute, key: Key) -> bool:
        return (
            self._has_effect(attribute, key)
            and self._affected[self._kind_of(attribute, key)] is not None
        )

    def _is_sliced(self, key: Key) -> bool:
        """Whether a place is the length or start of a slice, maybe a fraction (``d // 2``).

        Such a length follows by itself once that number does, and only a probe tells the number
        from another one that happens to be equal.
        """
        operation = self._passes[key[0]].operations[key[1]]
        return key[2] >= START and operation.name in SLICES

    # -- candidates

    def _attributes(self, wrong: WrongSize) -> Iterator[Attribute]:
        """Candidates in the running modules, then in their children, which their code may read."""
        held = [  # a child that several modules hold has one path
            self._paths[id(child)]
            for layer in wrong.layers
            for child in self._modules[layer].children()
        ]
        for layer in dict.fromkeys((*wrong.layers, *held)):
            for attribute, value in numbers_in(layer, self._modules[layer]):
                if value == wrong.dense:
                    yield attribute

    def _is_far(self, attribute: Attribute, layers: Collection[str]) -> bool:
        """Whether it is stored elsewhere than in a running module itself."""
        return attribute.is_far or attribute.owner not in layers

    def _distance(self, attribute: Attribute, wrong: WrongSize) -> int:
        """Rank of a candidate for a wrong length; lower is more plausible.

        0: bound to these channels already. 1: bound for the same axis of a like operation in the
        layer (keys after queries, where there are as many heads as positions). 2: not bound. 3:
        bound to other channels. 4: stored in another object.
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
        """Whether these channels go together at present."""
        if others is None or len(units) != len(others):
            return False
        known = max(units.max(initial=0), others.max(initial=0)) < len(self._atoms)
        return known and np.array_equal(self._atoms[units], self._atoms[others])

    def _kind(self, key: Key) -> tuple[object, ...]:
        number, at, *where = key
        operation = self._passes[number].operations[at]
        return (operation.layer, operation.name, *where)

    # -- modules of one class

    def _link_alike(self, attribute: Attribute, wrong: WrongSize) -> None:
        """Bind the same attribute in other modules of the class, which a dry run may not reach.

        The corresponding operation is the one with the same index in its layer; the next dry run
        checks the binding, as for any other attribute.
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
        """(layer, operation) -> indices of its runs in a pass."""
        if number not in self._places:
            found: dict[tuple[str, str], list[int]] = {}
            for at, operation in enumerate(self._passes[number].operations):
                found.setdefault((operation.layer, operation.name), []).append(at)
            self._places[number] = found
        return self._places[number]


def _freezes_more(tie: Tie, before: Solution, after: Solution) -> bool:
    """Whether channels of a tie that were free before are frozen now."""
    for units in tie:
        free = units[units < len(before.atoms)]
        free = free[before.atoms[free].any(axis=1)]
        if len(free) and not after.atoms[free].any(axis=1).all():
            return True
    return False
