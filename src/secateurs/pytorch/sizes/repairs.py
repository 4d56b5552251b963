"""What can be done about a wrong length or number, the gentlest first.

A length that did not change (it is *stuck*) was kept somewhere: an attribute is sought that it came
from. A length that changed to another than foretold is that of some other channels: the two go
together, if a second cut of other shares agrees. What nothing explains stays, with the line that
says so. Each kind of answer changes what the others see, so one kind is given at a time, and then
the next dry run is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

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
"""Another cut of the same network, of other shares."""

Wrong = TypeVar("Wrong", WrongSize, WrongNumber)


class Repairs:
    """Answers to what a dry run found.

    Args:
        model: as the user gave it.
        tracer: whose equations are added to.
        passes: the model's forward passes.
        bindings: what follows what, so far.
        factors: what is known of numbers computed from sizes.
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

    def answer(self, findings: Findings, stays: Stays, second_look: SecondLook) -> bool:
        """Do something about what was found; False where nothing is left to do."""
        stuck = [wrong for wrong in findings.sizes if wrong.is_stuck]
        if self._follow(findings, stuck) or self._follow_factors(findings, stays):
            return True
        if self._follow_wholes(findings, stays):
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

    # -- lengths that an attribute keeps

    def _follow(self, findings: Findings, stuck: Sequence[WrongSize]) -> bool:
        raised = findings.raised
        # A check in the code that failed: perhaps of what it was about to ask for.
        guesses = raised.next if raised is not None and not findings.sizes else ()
        # What was guessed and is wrong all the same was not that. All of it is free again before
        # anything else is tried: two may have followed each other's number.
        again = [wrong for wrong in findings.sizes if self._bindings.is_guessed(wrong.key)]
        sought = {wrong.key: wrong for wrong in (*stuck, *again, *guesses)}
        for key in sought:
            self._bindings.let_go(key)
        return _any_of(self._bindings.follow, sought.values())

    def _follow_factors(self, findings: Findings, stays: Stays) -> bool:
        return _any_of(lambda wrong: self._follow_factor(wrong, stays), findings.sizes)

    def _follow_factor(self, wrong: WrongSize, stays: Stays) -> bool:
        """A product of two lengths, one of which did not follow: that one is to."""
        factor = self._stuck_side(wrong, stays)
        if factor is None:
            return False
        self._bindings.let_go(factor.key)
        return self._bindings.follow(factor)

    def _stuck_side(self, wrong: WrongSize, stays: Stays) -> WrongSize | None:
        """The side of a grid whose length is the old one, where the other's is the new one."""
        sides = None if wrong.units is None else self._tracer.equations.sides(wrong.units)
        if wrong.units is None or wrong.is_stuck or wrong.got is None or sides is None:
            return None
        foretold = int(stays[wrong.units].sum())
        for number, side in enumerate(sides):
            kept, size = int(stays[side].sum()), len(side)
            if kept != size and wrong.got * kept == foretold * size:
                key = (*wrong.key, number)
                return replace(wrong, key=key, units=side, dense=size, got=size)
        return None

    def _follow_wholes(self, findings: Findings, stays: Stays) -> bool:
        return _any_of(lambda wrong: self._follow_whole(wrong, stays), findings.sizes)

    def _follow_whole(self, wrong: WrongSize, stays: Stays) -> bool:
        """A share of a width (``self.width // self.heads``), of which only the other side follows.

        The width is what both sides of the grid make together: it is to follow their number.
        """
        number, at, place, axis = wrong.key[:4]
        is_single = wrong.units is None and wrong.dense == 1  # as many heads as there are of keys
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
            sought = replace(wrong, key=key, units=units, dense=whole, got=whole)
            self._bindings.let_go(key)
            if self._bindings.follow(sought):
                return True
        return False

    # -- lengths that are the number of other channels

    def _tie(self, sizes: Sequence[WrongSize], stays: Stays, second_look: SecondLook) -> bool:
        open_ = [wrong for wrong in sizes if not wrong.is_stuck and wrong.got is not None]
        open_ = [wrong for wrong in open_ if wrong.key[2] != START]
        if not open_:
            return False
        second = second_look()
        views = [(stays, {wrong.key: wrong.got for wrong in open_})]
        if second is not None and second[0].raised is None:
            found, other = second
            views.append((other, {w.key: w.got for w in found.sizes if w.got is not None}))
        return _any_of(lambda wrong: self._tie_one(wrong, views), open_)

    def _tie_one(
        self, wrong: WrongSize, views: Sequence[tuple[Stays, Mapping[Key, int | None]]]
    ) -> bool:
        """Make the channels go together with those whose number the wrong length is."""
        number, at, place, axis = wrong.key[:4]
        axes = self._passes[number].operations[at].outputs[place][1] if place >= 0 else {}
        rows = axes.get(axis - 1)  # heads before positions, in every layout there is
        pairs = [(stays, got[wrong.key]) for stays, got in views if wrong.key in got]
        for units in self._arrays_before(number, at):
            counts = [(int(stays[units].sum()), got) for stays, got in pairs]
            if counts[0][0] == len(units):
                continue
            if len(units) == wrong.dense:
                agrees, found = all(kept == got for kept, got in counts), None
            elif _is_several(wrong, units):
                times = wrong.dense // len(units)
                agrees, found = all(kept * times == got for kept, got in counts), None
            elif rows is not None and len(units) == wrong.dense * len(rows):
                each = zip(counts, (int(stays[rows].sum()) for stays, _ in pairs), strict=True)
                agrees, found = all(kept // many == got for (kept, got), many in each), rows
            else:
                continue
            if agrees and self._equate(wrong, units, found):
                return True
        return False

    def _keep_number(self, wrong: WrongSize, stays: Stays) -> bool:
        """Freeze channels whose number an attribute is that counts others too, which have to stay.

        Positions in a head of the values, say, where those of the queries meet a softmax.
        """
        if wrong.units is not None and not self._bindings.must_stay(wrong.units):
            return False
        for units in self._bindings.list_counted(wrong.key):
            kept = int(stays[units].sum())
            if len(units) == wrong.dense != kept == wrong.got:
                reason = f"their number is also that of others, which stay, at {wrong.line}"
                self._tracer.equations.freeze(units, reason)
                return True
        return False

    def _equate(self, wrong: WrongSize, units: Ids, rows: Ids | None) -> bool:
        """Two axes must keep the same number; so the same channels of both go.

        Only the numbers matter, so heads and positions are paired in one order wherever they meet,
        though one reshape may have the heads outside and the next one inside.
        """
        equations, units_there = self._tracer.equations, wrong.units
        if units_there is None:
            equations.freeze(units, f"their number must stay as it is at {wrong.line}")
            return True
        sides = equations.sides(units_there) if rows is None else (rows, units_there)
        if sides is not None and len(sides) == 2:
            units_there = equations.compose(sorted(sides, key=len))
        if len(units) < len(units_there):  # several times as many, one after the other
            units = np.tile(units, len(units_there) // len(units))
        return self._bindings.tie(wrong.key, units, units_there)

    def _arrays_before(self, number: int, at: int) -> Iterator[Ids]:
        """Channels met so far, the latest first, each array once."""
        seen: set[bytes] = set()
        for operation in reversed(self._passes[number].operations[:at]):
            for _, axes in operation.outputs:
                for units in axes.values():
                    if (key := units.tobytes()) not in seen:
                        seen.add(key)
                        yield units

    # -- what stays

    def _freeze(self, sizes: Sequence[WrongSize], stays: Stays) -> bool:
        return _any_of(lambda wrong: self._freeze_one(wrong, stays), sizes)

    def _freeze_one(self, wrong: WrongSize, stays: Stays) -> bool:
        """Freeze what is at fault: the side of a grid that kept its length, else all of it."""
        at_fault = self._stuck_side(wrong, stays) or wrong
        if at_fault.units is None or stays[at_fault.units].all():
            return False
        culprit = f"the number {at_fault.dense}" if at_fault.is_stuck else "a size"
        self._tracer.equations.freeze(at_fault.units, f"{culprit} is hard-coded at {wrong.line}")
        return True

    # -- numbers computed from sizes

    def _explain(self, numbers: Sequence[WrongNumber], stays: Stays, look: SecondLook) -> bool:
        """Put factors that follow a size right in the weights before them, or freeze the size.

        Where one cut does not say by which power a factor follows, a second one does.
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
        """Put one factor right; what cannot be is frozen, but not after a single cut.

        One may fit by chance: half of two heads, and half of their width.
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
        """A number of ``width // heads``: the width goes with what the heads make together."""
        widths = list(self._sizes_before(wrong, operation))
        met = [units for known in operation.operands for units in known.axes.values()]
        for cells in reversed(widths):  # queries come before values, whose positions are their own
            sides = self._tracer.equations.sides(cells)
            if sides is None or len(sides) != 2:
                continue
            if not any(self._bindings.are_one(side, units) for side in sides for units in met):
                continue  # another layer's
            found = self._factors.explain_by_heads(wrong, cells, sides, widths)
            if found is not None and self._bindings.tie(wrong.key, found, cells):
                self._factors.forget(wrong)  # what was seen of it was of other channels
                return True
        return False

    def _operation_of(self, wrong: WrongNumber) -> OpRecord:
        return self._passes[wrong.key[0]].operations[wrong.key[1]]

    def _sizes_before(self, wrong: WrongNumber, operation: OpRecord) -> Iterator[Ids]:
        for labels in operation.operands:
            yield from labels.axes.values()
        yield from self._arrays_before(*wrong.key[:2])

    # -- checks in the code, which no operation shows

    def _follow_after(self, raised: Raised) -> bool:
        """A check in the code failed: try the integers of the modules it was in, class by class."""
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
        """Let an attribute of every module of a class follow the same axis of its own weights."""
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


def _is_several(wrong: WrongSize, units: Ids) -> bool:
    """Whether a canvas that the code made has room for several times these channels."""
    times, over = divmod(wrong.dense, len(units))
    is_made = wrong.key[2] <= OPERAND and wrong.units is not None
    return is_made and len(units) > 1 < times and not over


def _any_of(answer: Callable[[Wrong], bool], wrongs: Iterable[Wrong]) -> bool:
    """Give an answer to all of them, not only to the first that takes one. True if any did."""
    given = [answer(wrong) for wrong in wrongs]
    return any(given)
