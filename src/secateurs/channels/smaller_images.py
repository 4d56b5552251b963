"""How much smaller images may be for a proof: a pass takes as long as it has pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

STEP = 32
"""Sides are multiples of this: most networks halve their images five times."""

SHARE = 0.4
"""Of a side, at least this stays."""

SMALLEST_MAP = 3
"""No map gets smaller than this."""

WORTH_IT = 0.6
"""Images of more than this share of the pixels are not worth a try of their own."""


def smaller_sides(full: Sequence[int], maps: Iterable[Sequence[int]]) -> tuple[int, ...] | None:
    """The sides of images that are large enough to prove a cut on; None where the full ones are.

    Args:
        full: sides of the images.
        maps: sides of what a network's operations give for them.

    >>> smaller_sides((224, 224), [(112, 112), (7, 7)])
    (96, 96)
    """
    small = tuple(min(side, STEP * math.ceil(SHARE * side / STEP)) for side in full)
    if min(small) < STEP or math.prod(small) > WORTH_IT * math.prod(full):
        return None
    shares = [new / old for new, old in zip(small, full, strict=True)]
    for sides in maps:  # of one pixel there is nothing to lose
        least = min(side * share for side, share in zip(sides, shares, strict=True))
        if min(sides) > 1 and least < SMALLEST_MAP - 0.5:
            return None
    return small
