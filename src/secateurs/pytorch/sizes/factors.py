"""Numbers that a forward pass computes from a size: an attention's scale, the length of a mean.

A number that changes with a cut is explained by a size and a power: it is what it was, times (how
many stay / how many there were) to that power. One cut fits many explanations by chance, so each is
held against all cuts that were tried, of different shares, and given up for another where one of
them contradicts it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from secateurs.channels.arrays import Stays
from secateurs.channels.cost import Product
from secateurs.channels.equations import Ids
from secateurs.channels.network import Scaling
from secateurs.pytorch.sizes.dry_run import WrongNumber
from secateurs.pytorch.sizes.rescaling import parts_before
from secateurs.pytorch.tracing.op_record import OpRecord

Key = tuple[int, ...]

POWERS = (-0.5, 0.5, -1.0, 1.0, -0.25, 0.25, -2.0, 2.0, -1.5, 1.5, -0.75, 0.75)
"""The powers of a size that code is written with, the likeliest first: square roots are what
attention divides by, and a whole power may fit by chance."""


class Factors:
    """What is known of the numbers that were found to change, and how each is put right."""

    def __init__(self) -> None:
        self._powers: dict[Key, tuple[Ids, float]] = {}
        self._scalings: dict[Key, list[Scaling]] = {}
        self._seen: dict[Key, list[tuple[Stays, float]]] = {}

    def scalings(self) -> list[Scaling]:
        """The factors on weights, once each: a pass in train mode meets the same number again."""
        found = (scaling for scalings in self._scalings.values() for scaling in scalings)
        return list({(s.tensor, s.axis, s.indices.tobytes()): s for s in found}.values())

    def is_put_right(self, wrong: WrongNumber, stays: Stays) -> bool:
        """Whether a changed number is what its explanation foretells, so that weights make up."""
        if wrong.key not in self._powers or not wrong.dense:
            return False
        units, power = self._powers[wrong.key]
        share = float(stays[units].sum()) / len(units)
        return math.isclose(share**power, wrong.got / wrong.dense, rel_tol=1e-6)

    def note(self, wrong: WrongNumber, stays: Stays) -> None:
        """Remember what a number was under a cut."""
        ratio = wrong.got / wrong.dense if wrong.dense else math.nan
        self._seen.setdefault(wrong.key, []).append((stays, ratio))

    def explain(self, wrong: WrongNumber, arrays: Iterable[Ids]) -> tuple[Ids, float] | None:
        """(the size it was computed from, the power), by all that was noted of this number."""
        seen = self._seen.get(wrong.key, [])
        candidates = [units for units in arrays if not _all_stay(seen[-1][0], units)]
        return next(_explanations(seen, candidates), None)

    def put_right(
        self, wrong: WrongNumber, operation: OpRecord, size: Ids, power: float
    ) -> str | None:
        """Let the weights before a factor make up for its change; else why that can't be."""
        scales = operation.name in ("aten.mul", "aten.mul_", "aten.scaled_dot_product_attention")
        divides = operation.name in ("aten.div", "aten.div_")
        parts = parts_before(operation.operands[0]) if scales or divides else None
        self._powers.pop(wrong.key, None)
        self._scalings.pop(wrong.key, None)
        if parts is None:
            return f"a factor computed from their number at {wrong.line}"
        sign = 1 if divides else -1
        self._powers[wrong.key] = (size, power)
        self._scalings[wrong.key] = [
            Scaling(leaf.name, axis, indices, Product(1, (size,)), sign * power)
            for leaf, axis, indices in parts
        ]
        return None


def _all_stay(stays: Stays, units: Ids) -> bool:
    return len(stays) <= units.max(initial=0) or bool(stays[units].all())


def _explanations(
    seen: Sequence[tuple[Stays, float]], arrays: Sequence[Ids]
) -> Iterator[tuple[Ids, float]]:
    """Usual powers first; any other where two cuts of different shares agree on it.

    A cut that was tried before these channels were numbered says nothing of them.
    """
    known = [
        (units, [(float(s[units].mean()), r) for s, r in seen if len(s) > units.max(initial=0)])
        for units in arrays
    ]
    for power in POWERS:
        for units, pairs in known:
            if all(math.isclose(share**power, r, rel_tol=1e-6) for share, r in pairs if share):
                yield units, power
    for units, pairs in known:
        usable = [(share, r) for share, r in pairs if 0 < share < 1 and r > 0]
        powers = [math.log(ratio) / math.log(share) for share, ratio in usable]
        is_held_against_another = len({share for share, _ in usable}) > 1
        if not is_held_against_another or len(usable) < len(pairs):
            continue
        if all(math.isclose(power, powers[0], rel_tol=1e-5) for power in powers):
            yield units, powers[0]
