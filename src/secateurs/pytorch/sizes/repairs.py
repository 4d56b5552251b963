"""Repairs for wrong lengths and numbers that a dry run found, the mildest first.

A length that did not change is *stuck*: an integer kept it, so the attributes are searched for one
with that value. A length that changed to another than expected is that of some other channels: the
two are removed together, if a second cut with different shares agrees. What nothing explains is
frozen, and the reason names the line. Each kind of repair changes what the others see, so one kind
is applied at a time, followed by the next dry run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np
from torch import nn

from secateurs.channels.arrays import Stays
from secateurs.channels.equations import Ids
from secateurs.pytorch.model.attributes import Attribute, is_whole_number
from secateurs.pytorch.sizes.bindings import WHOLE, Bindings, Key
from secateurs.pytorch.sizes.dry_run import OPERAND, START, Findings, Raised, WrongNumber, WrongSize
from secateurs.pytorch.sizes.factors import Factors
from secateurs.pytorch.tracing.op_record import ForwardPass, OpRecord
from secateurs.pytorch.tracing.tracer import Tracer

SecondLook = Callable[[], tuple[Findings, Stays] | None]
"""A dry run of another cut of the same network, with different shares."""

Wrong = TypeVar("Wrong", WrongSize, WrongNumber)


class Repairs:
    """Repairs for the findings of a dry run.

    Args:
        model: the user's model.
        tracer: tracer, to whose equations the repairs are added.
        passes: forward passes of the model.
        bindings: bindings found so far.
        factors: factors computed from sizes that are known so far.
    """

    def __init__(
        self,
        model: nn.Module,
        tracer: Tracer,
        passes: Sequence[ForwardPass],
        bindings: Bindings,
        factors: Factors,
    ) -> None:
        self._modules = dict(model.named_modules())
        self._tracer = tracer
        self._passes = passes
        self._bindings = bindings
        self._factors = factors
        self._tried_after: set[tuple[type, str]] = set()
        self._guesses: list[Key] = []
        self._guessed_for: Stays = np.zeros(0, np.bool_)

    def answer(self, findings: Findings, stays: Stays, second_look: SecondLook) -> bool:
        """Repair some of the findings; False where no repair is left."""
        stuck = [wrong for wrong in findings.sizes if wrong.is_stuck]
        if self._follow(findings, stuck, stays) or self._follow_factors(findings, stays):
            return True
        if self._follow_wholes(findings, stays):
            return True
        if _any_of(self._bindings.undo_misplaced, findings.sizes):
            return True
        raised = findings.raised
        return (
            self._freeze(stuck, stays)
            or self._tie(findings.sizes, stays, second_look)
            or self._freeze(findings.sizes, stays)
            or (raised is None and self._explain(findings.numbers, stays, second_look))
            or (raised is not None and self._follow_after(raised))
            or _any_of(lambda wrong: self._keep_number(wrong, stays), findings.sizes)
        )

    # -- lengths held by an attribute

    def _follow(self, findings: Findings, stuck: Sequence[WrongSize], stays: Stays) -> bool:
        raised = findings.raised
        # A check in the code failed, perhaps on a length that the next operation was about to use.
        guesses = raised.next if raised is not None else ()
        sides = [side for guess in guesses for side in self._sides_that_changed(guess, stays)]
        if self._undo_guesses(findings, [guess.key for guess in (*guesses, *sides)], stays):
            return True  # what the failed guesses have made wrong must not be repaired
        if findings.sizes:
            guesses, sides = (), []
        # A binding that did not fix its length is undone. All of them are, before anything else is
        # tried, since two may have been bound to each other's number.
        again = [wrong for wrong in findings.sizes if self._bindings.is_guessed(wrong.key)]
        wanted = {wrong.key: wrong for wrong in (*stuck, *again, *guesses)}
        for key in wanted:
            self._bindings.let_go(key)
        found = self._follow_in_turn(list(wanted.values()), guesses, sides)
        self._guesses = [guess.key for guess in (*guesses, *sides)]
        self._guessed_for = stays
        return found

    def _follow_in_turn(
        self, wanted: Sequence[WrongSize], guesses: Sequence[WrongSize], sides: Sequence[WrongSize]
    ) -> bool:
        """Bind a number for each of them, or for the first kind of guesses that has one left.

        A check is of heads sooner than of all that they make together, and of what the code was
        given sooner than of what it makes of that.
        """
        given = [guess for guess in guesses if guess.key[2] <= OPERAND]
        others = [wrong for wrong in wanted if wrong not in given]
        return any(_any_of(self._bindings.follow, some) for some in (sides, given, others))

    def _undo_guesses(self, findings: Findings, keys: Sequence[Key], stays: Stays) -> bool:
        """Undo the guesses for a check that still fails; True if they have made more go wrong."""
        failed = [key for key in keys if self._bindings.is_guessed(key)]
        earlier = self._guesses_that_raise_earlier(findings.raised, stays)
        for key in (*failed, *earlier):
            self._bindings.let_go(key)
        return bool(earlier or (failed and findings.sizes))

    def _guesses_that_raise_earlier(self, raised: Raised | None, stays: Stays) -> list[Key]:
        """The last guesses, if the same cut got as far as to their check without them."""
        guesses, self._guesses = self._guesses, []
        if raised is None or not np.array_equal(stays, self._guessed_for):
            return []
        number, at = raised.place
        guesses = [key for key in guesses if self._bindings.is_guessed(key)]
        return [key for key in guesses if (number, at + 1) < key[:2]]

    def _sides_that_changed(self, wrong: WrongSize, stays: Stays) -> Iterator[WrongSize]:
        """The sides of a grid along an axis, each as a length that did not follow."""
        sides = None if wrong.units is None else self._tracer.equations.sides(wrong.units)
        for number, side in enumerate(sides or ()):
            if not stays[side].all():
                size = len(side)
                yield replace(wrong, key=(*wrong.key, number), units=side, dense=size, got=size)

    def _follow_factors(self, findings: Findings, stays: Stays) -> bool:
        return _any_of(lambda wrong: self._follow_factor(wrong, stays), findings.sizes)

    def _follow_factor(self, wrong: WrongSize, stays: Stays) -> bool:
        """Bind the side of a grid that did not follow, where a length is the sides' product."""
        factor = self._stuck_side(wrong, stays)
        if factor is None:
            return False
        self._bindings.let_go(factor.key)
        return self._bindings.follow(factor)

    def _stuck_side(self, wrong: WrongSize, stays: Stays) -> WrongSize | None:
        """The side of a grid that kept its dense length while the other side followed, or stays.

        Positions of a head follow, or a batch that each head is repeated for stays.
        """
        sides = None if wrong.units is None else self._tracer.equations.sides(wrong.units)
        if wrong.units is None or wrong.got is None or sides is None:
            return None
        if wrong.is_stuck and sum(not stays[side].all() for side in sides) != 1:
            return None
        expected = int(stays[wrong.units].sum())
        for number, side in enumerate(sides):
            kept, size = int(stays[side].sum()), len(side)
            if kept != size and wrong.got * kept == expected * size:
                key = (*wrong.key, number)
                return replace(wrong, key=key, units=side, dense=size, got=size)
        return None

    def _follow_wholes(self, findings: Findings, stays: Stays) -> bool:
        return _any_of(lambda wrong: self._follow_whole(wrong, stays), findings.sizes)

    def _follow_whole(self, wrong: WrongSize, stays: Stays) -> bool:
        """Bind the width in ``self.width // self.heads``, of which only the other side followed.

        The width is the product of both sides of the grid, and is bound to their number.
        """
        number, at, place, axis = wrong.key[:4]
        is_single = wrong.units is None and wrong.dense == 1  # one query head per head of the keys
        if (wrong.units is None and not is_single) or len(wrong.key) > 4 or place < 0:
            return False
        axes = self._passes[number].operations[at].outputs[place][1]
        for beside in (axis - 1, axis + 1):
            other = axes.get(beside)
            if other is None:
                continue
            whole = len(other) * wrong.dense
            kept = int(stays[other].sum())
            if not kept or wrong.got is None or wrong.got != whole // kept:
                continue
            units = other
            if wrong.units is not None:
                sides = (other, wrong.units) if beside < axis else (wrong.units, other)
                units = self._tracer.equations.compose(sides)
            key = (*wrong.key, WHOLE)
            wanted = replace(wrong, key=key, units=units, dense=whole, got=whole)
            self._bindings.let_go(key)
            if self._bindings.follow(wanted):
                return True
        return False

    # -- lengths that equal the number of other channels

    def _tie(self, sizes: Sequence[WrongSize], stays: Stays, second_look: SecondLook) -> bool:
        moved = [wrong for wrong in sizes if not wrong.is_stuck and wrong.got is not None]
        moved = [wrong for wrong in moved if wrong.key[2] != START]
        if not moved:
            return False
        second = second_look()
        views = [(stays, {wrong.key: wrong.got for wrong in moved})]
        if second is not None and second[0].raised is None:
            found, other = second
            views.append((other, {w.key: w.got for w in found.sizes if w.got is not None}))
        return _any_of(lambda wrong: self._tie_one(wrong, views), moved)

    def _tie_one(
        self, wrong: WrongSize, views: Sequence[tuple[Stays, Mapping[Key, int | None]]]
    ) -> bool:
        """Tie the channels to those whose number the wrong length is."""
        number, at, place, axis = wrong.key[:4]
        axes = self._passes[number].operations[at].outputs[place][1] if place >= 0 else {}
        rows = axes.get(axis - 1)  # heads come before positions in every common layout
        pairs = [(stays, got[wrong.key]) for stays, got in views if wrong.key in got]
        for units in self._arrays_before(number, at):
            counted = _count_dense_length(wrong, units, rows)
            if counted is None or pairs[0][0][units].all():
                continue
            agrees = all(counted.count(stays) == got for stays, got in pairs)
            if agrees and self._equate(wrong, units, counted.rows):
                return True
        return False

    def _keep_number(self, wrong: WrongSize, stays: Stays) -> bool:
        """Freeze channels counted by an attribute that also counts others, which are frozen.

        For example, positions in a head of the values, where those of the queries go through a
        softmax.
        """
        if wrong.units is not None and not self._bindings.must_stay(wrong.units):
            return False
        for units in self._bindings.list_counted(wrong.key):
            kept = int(stays[units].sum())
            if len(units) == wrong.dense != kept == wrong.got:
                reason = f"an attribute also counts other, frozen channels at {wrong.line}"
                self._tracer.equations.freeze(units, reason)
                return True
        return False

    def _equate(self, wrong: WrongSize, units: Ids, rows: Ids | None) -> bool:
        """Tie two axes that must keep the same length: the same channels of both are removed.

        Only the numbers matter, so heads and positions are paired in one order wherever they occur,
        although one reshape may have the heads outside and the next one inside.
        """
        equations, units_there = self._tracer.equations, wrong.units
        if units_there is None:
            equations.freeze(units, f"the number of these channels is fixed at {wrong.line}")
            return True
        sides = equations.sides(units_there) if rows is None else (rows, units_there)
        if sides is not None and len(sides) == 2:
            units_there = equations.compose(sorted(sides, key=len))
        if len(units) < len(units_there):  # a multiple: repeat the units
            units = np.tile(units, len(units_there) // len(units))
        return self._bindings.tie(wrong.key, units, units_there)

    def _arrays_before(self, number: int, at: int) -> Iterator[Ids]:
        """Channels along results of earlier operations, the latest first, each array once."""
        seen: set[bytes] = set()
        for operation in reversed(self._passes[number].operations[:at]):
            for _, axes in operation.outputs:
                for units in axes.values():
                    if (key := units.tobytes()) not in seen:
                        seen.add(key)
                        yield units

    # -- freezing

    def _freeze(self, sizes: Sequence[WrongSize], stays: Stays) -> bool:
        return _any_of(lambda wrong: self._freeze_one(wrong, stays), sizes)

    def _freeze_one(self, wrong: WrongSize, stays: Stays) -> bool:
        """Freeze the side of a grid that kept its length, else all of the axis."""
        at_fault = self._stuck_side(wrong, stays) or wrong
        if at_fault.units is None or stays[at_fault.units].all():
            return False
        culprit = f"the number {at_fault.dense}" if at_fault.is_stuck else "a size"
        self._tracer.equations.freeze(at_fault.units, f"{culprit} is hard-coded at {wrong.line}")
        return True

    # -- numbers computed from sizes

    def _explain(self, numbers: Sequence[WrongNumber], stays: Stays, look: SecondLook) -> bool:
        """Compensate factors computed from a size in the preceding weights, or freeze the size.

        Where one cut leaves the power of a factor open, a second one decides.
        """
        for wrong in numbers:
            self._factors.note(wrong, stays, self._operation_of(wrong))
        if _any_of(lambda wrong: self._explain_one(wrong, is_sure=False), numbers):
            return True
        second = look() if numbers else None
        if second is not None:
            found, others = second
            numbers = found.numbers
            for wrong in numbers:
                self._factors.note(wrong, others, self._operation_of(wrong))
        return _any_of(lambda wrong: self._explain_one(wrong, is_sure=True), numbers)

    def _explain_one(self, wrong: WrongNumber, is_sure: bool) -> bool:
        """Compensate one factor; one that cannot be is frozen, but never after a single cut.

        A single cut may fit by chance: half of two heads, and half of their width.
        """
        operation = self._operation_of(wrong)
        known = self._factors.explain(wrong, self._sizes_before(wrong, operation))
        if known is None:
            return is_sure and self._tie_heads(wrong, operation)
        size, power = known
        operations = self._passes[wrong.key[0]].operations
        why_not = self._factors.put_right(wrong, operations, size, power)
        if why_not is not None:
            if not is_sure:
                return False
            self._tracer.equations.freeze(size, why_not)
        return True

    def _tie_heads(self, wrong: WrongNumber, operation: OpRecord) -> bool:
        """A factor of ``width // heads``: the width goes with heads times positions."""
        widths = list(self._sizes_before(wrong, operation))
        met = [units for known in operation.operands for units in known.axes.values()]
        for cells in reversed(widths):  # queries first: values may have another width of a head
            sides = self._tracer.equations.sides(cells)
            if sides is None or len(sides) != 2:
                continue
            if not any(self._bindings.are_one(side, units) for side in sides for units in met):
                continue  # heads of another layer
            found = self._factors.explain_by_heads(wrong, cells, sides, widths)
            if found is not None and self._bindings.tie(wrong.key, found, cells):
                self._factors.forget(wrong)  # earlier observations were of untied channels
                return True
        return False

    def _operation_of(self, wrong: WrongNumber) -> OpRecord:
        return self._passes[wrong.key[0]].operations[wrong.key[1]]

    def _sizes_before(self, wrong: WrongNumber, operation: OpRecord) -> Iterator[Ids]:
        for labels in operation.operands:
            yield from labels.axes.values()
        yield from self._arrays_before(*wrong.key[:2])

    # -- checks in the code, which the dispatcher does not see

    def _follow_after(self, raised: Raised) -> bool:
        """After a failed check in the code, try integers of the running modules, class by class."""
        for layer in raised.layers:
            module = self._modules[layer]
            for name, value in vars(module).items():
                tried = (type(module), name)
                if not is_whole_number(value) or tried in self._tried_after:
                    continue
                if self._bindings.is_linked(Attribute(layer, name)):
                    continue
                self._tried_after.add(tried)
                if self._link_class(type(module), layer, name, value):
                    return True
        return False

    def _link_class(self, kind: type, layer: str, name: str, value: int) -> bool:
        """Bind an attribute of every module of a class to the same axis of its weights."""
        axis = next(self._own_axes(layer, value), None)
        if axis is None:
            return False
        for path, module in self._modules.items():
            attribute = Attribute(path, name)
            if type(module) is kind and not self._bindings.is_linked(attribute):
                units = self._units_of(f"{path}.{axis[0]}".lstrip("."), axis[1])
                present: object = getattr(module, name, None)
                if units is not None and present == len(units):
                    self._bindings.link(attribute, units)
        return True

    def _own_axes(self, layer: str, length: int) -> Iterator[tuple[str, int]]:
        prefix = f"{layer}." if layer else ""
        for leaf in self._tracer.leaves.values():
            if leaf.name.startswith(prefix):
                for axis, units in leaf.axes.items():
                    if len(units) == length:
                        yield leaf.name.removeprefix(prefix), axis

    def _units_of(self, name: str, axis: int) -> Ids | None:
        for leaf in self._tracer.leaves.values():
            if leaf.name == name:
                return leaf.axes.get(axis)
        return None


class _CountedLength(NamedTuple):
    """A length as the number of some channels, times a number or divided by that of others.

    Attributes:
        units: the channels.
        times: what their number is multiplied by.
        rows: channels by whose number it is divided; None for none.
    """

    units: Ids
    times: int = 1
    rows: Ids | None = None

    def count(self, stays: Stays) -> int:
        """The length where these channels stay."""
        kept = int(stays[self.units].sum()) * self.times
        return kept if self.rows is None else kept // int(stays[self.rows].sum())


def _count_dense_length(wrong: WrongSize, units: Ids, rows: Ids | None) -> _CountedLength | None:
    """How the dense length may be a number of these channels; None where it cannot."""
    if len(units) == wrong.dense:
        return _CountedLength(units)
    if _is_several(wrong, units):
        return _CountedLength(units, times=wrong.dense // len(units))
    if rows is not None and len(units) == wrong.dense * len(rows):
        return _CountedLength(units, rows=rows)
    return None


def _is_several(wrong: WrongSize, units: Ids) -> bool:
    """Whether a canvas that the code made holds several times these channels."""
    times, over = divmod(wrong.dense, len(units))
    is_made = wrong.key[2] <= OPERAND and wrong.units is not None
    return is_made and len(units) > 1 < times and not over


def _any_of(answer: Callable[[Wrong], bool], wrongs: Iterable[Wrong]) -> bool:
    """Apply a repair to all of them, not only the first that takes one. True if any did."""
    given = [answer(wrong) for wrong in wrongs]
    return any(given)
