"""Factors that a forward pass computes from a size: an attention's scale, the length of a mean.

A factor that changes with a cut is explained by a size and a power: its dense value times (channels
kept / channels before) ** power. One cut fits many explanations by chance, so each is checked
against all cuts tried, which have different shares, and replaced by another once one of them
contradicts it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from secateurs.channels.arrays import Stays
from secateurs.channels.cost import Product
from secateurs.channels.equations import Ids
from secateurs.channels.network import Scaling
from secateurs.pytorch.sizes.dry_run import WrongNumber
from secateurs.pytorch.sizes.rescaling import PICKS, WeightPart, parts_before
from secateurs.pytorch.tracing.op_record import OpRecord

Key = tuple[int, ...]

SCALES = {"aten.mul", "aten.mul_", "aten.scaled_dot_product_attention"}
DIVIDES = {"aten.div", "aten.div_"}
ADDS = {"aten.addmm", "aten.baddbmm"}
"""Products added to a tensor; the factor is on the product."""

NAMES_OF_PICKS = {str(packet) for packet in PICKS}

POWERS = (-0.5, 0.5, -1.0, 1.0, -0.25, 0.25, -2.0, 2.0, -1.5, 1.5, -0.75, 0.75)
"""Powers of a size that code uses, the likeliest first.

Attention divides by square roots, and a whole power may fit by chance.
"""


class Factors:
    """Observations of factors that changed, and their compensation."""

    def __init__(self) -> None:
        self._powers: dict[Key, tuple[Ids, float]] = {}
        self._explained: dict[Key, WrongNumber] = {}
        self._scalings: dict[Key, list[Scaling]] = {}
        self._seen: dict[Key, list[tuple[Stays, float]]] = {}
        self._parts: dict[Key, list[WeightPart] | None] = {}
        self._readers: dict[int, Counter[str]] = {}

    def scalings(self) -> list[Scaling]:
        """Scalings of weights, each once: a pass in train mode runs into the same factor again."""
        found = (scaling for scalings in self._scalings.values() for scaling in scalings)
        return list({(s.tensor, s.axis, s.indices.tobytes()): s for s in found}.values())

    def is_put_right(self, wrong: WrongNumber, stays: Stays) -> bool:
        """Whether a changed factor has the value that its explanation predicts."""
        if wrong.key not in self._powers or not wrong.dense:
            return False
        units, power = self._powers[wrong.key]
        return math.isclose(_share(stays, units) ** power, wrong.got / wrong.dense, rel_tol=1e-6)

    def list_unchanged(self, found: Iterable[WrongNumber], stays: Stays) -> Iterator[WrongNumber]:
        """Explained factors that should have changed with a cut, and are not among those found.

        Heads were taken for the positions in each, say, where there are as many of both.
        """
        met = {wrong.key for wrong in found}
        for key, (units, power) in self._powers.items():
            if key not in met and not math.isclose(_share(stays, units) ** power, 1):
                yield replace(self._explained[key], got=self._explained[key].dense)

    def note(self, wrong: WrongNumber, stays: Stays, operation: OpRecord) -> None:
        """Record a factor's value under a cut, and the weights before its operation."""
        if wrong.key not in self._parts:
            is_factor = operation.name in SCALES | DIVIDES | ADDS
            factor = operation.operands[-2 if operation.name in ADDS else 0]
            self._parts[wrong.key] = parts_before(factor) if is_factor else None
        ratio = wrong.got / wrong.dense if wrong.dense else math.nan
        self._seen.setdefault(wrong.key, []).append((stays, ratio))

    def explain(self, wrong: WrongNumber, arrays: Iterable[Ids]) -> tuple[Ids, float] | None:
        """(the size it was computed from, the power), by all observations of this factor."""
        seen = self._seen.get(wrong.key, [])
        changed = [stays for stays, ratio in seen if ratio != 1]
        candidates = [u for u in arrays if not all(_all_stay(stays, u) for stays in changed)]
        return next(_explanations(seen, candidates), None)

    def forget(self, wrong: WrongNumber) -> None:
        """Forget all observations of a factor."""
        self._seen.pop(wrong.key, None)

    def explain_by_heads(
        self, wrong: WrongNumber, cells: Ids, sides: Sequence[Ids], widths: Iterable[Ids]
    ) -> Ids | None:
        """Find the width in a factor of ``width // heads``, where both sides lose channels.

        No single size explains such a factor; the width has to go with these channels of the heads.

        Args:
            wrong: the factor.
            cells: channels, as a grid of heads and positions.
            sides: heads, and positions in each; either may be first.
            widths: candidates: channels that the width may count.
        """
        seen = self._seen.get(wrong.key, [])
        ratios = [ratio for _, ratio in seen]
        for width in widths:
            if len(width) == len(cells) and not np.array_equal(width, cells):
                quotients = [[_quotient(stays, width, side) for stays, _ in seen] for side in sides]
                if any(_is_a_power_of(shares, ratios) for shares in quotients):
                    return width
        return None

    def put_right(
        self, wrong: WrongNumber, operations: Sequence[OpRecord], size: Ids, power: float
    ) -> str | None:
        """Compensate a factor in the preceding weights; return a reason if that is impossible."""
        parts = self._parts.get(wrong.key)
        self._powers.pop(wrong.key, None)
        self._scalings.pop(wrong.key, None)
        if parts is None:
            return f"a factor computed from the number of these channels at {wrong.line}"
        if self._are_read_elsewhere(parts, wrong.key[0], operations):
            return (
                "a factor computed from the number of these channels, on weights that are used "
                f"twice, at {wrong.line}"
            )
        sign = 1 if operations[wrong.key[1]].name in DIVIDES else -1
        self._explained[wrong.key] = wrong
        self._powers[wrong.key] = (size, power)
        self._scalings[wrong.key] = [
            Scaling(leaf.name, axis, indices, Product(1, (size,)), sign * power)
            for leaf, axis, indices in parts
        ]
        return None

    def _are_read_elsewhere(
        self, parts: Sequence[WeightPart], number: int, operations: Sequence[OpRecord]
    ) -> bool:
        """Whether weights are also read without a factor, as on both sides of a product."""
        if number not in self._readers:
            self._readers[number] = Counter(
                known.leaf.name
                for operation in operations
                if operation.name not in NAMES_OF_PICKS
                for known in operation.operands
                if known.leaf is not None
            )
        made = Counter(
            name
            for key, others in self._parts.items()
            if key[0] == number
            for name in {leaf.name for leaf, _, _ in others or ()}
        )
        return any(self._readers[number][leaf.name] > made[leaf.name] for leaf, _, _ in parts)


def _share(stays: Stays, units: Ids) -> float:
    return float(stays[units].sum()) / len(units)


def _quotient(stays: Stays, width: Ids, side: Ids) -> float:
    """The fraction of ``width // side`` that is left; 0 where that is unknown."""
    if max(width.max(), side.max()) >= len(stays) or not stays[side].any():
        return 0.0
    return float(stays[width].sum() // stays[side].sum()) / (len(width) // len(side))


def _is_a_power_of(shares: Sequence[float], ratios: Sequence[float]) -> bool:
    """Whether the ratios of all cuts are the same common power of these shares."""
    if not all(shares):
        return False
    pairs = list(zip(shares, ratios, strict=True))
    return any(all(math.isclose(s**power, r, rel_tol=1e-6) for s, r in pairs) for power in POWERS)


def _all_stay(stays: Stays, units: Ids) -> bool:
    return len(stays) <= units.max(initial=0) or bool(stays[units].all())


def _explanations(
    seen: Sequence[tuple[Stays, float]], arrays: Sequence[Ids]
) -> Iterator[tuple[Ids, float]]:
    """Common powers first; any other power where two cuts with different shares agree on it.

    A cut tried before these channels were numbered is no evidence about them.
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
        agreed = _agree_on_power(pairs)
        if agreed is not None:
            yield units, agreed


def _agree_on_power(pairs: Sequence[tuple[float, float]]) -> float | None:
    """The power of its share that the ratio is in every cut; None unless two shares agree on it."""
    usable = [(share, ratio) for share, ratio in pairs if 0 < share < 1 and ratio > 0]
    has_different_shares = len({share for share, _ in usable}) > 1
    if not has_different_shares or len(usable) < len(pairs):
        return None
    first, *others = [math.log(ratio) / math.log(share) for share, ratio in usable]
    return first if all(math.isclose(power, first, rel_tol=1e-5) for power in others) else None
