"""Smaller images for a proof, since a forward pass takes time proportional to its pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

STEP = 32
"""Sides are multiples of this, because most networks halve their images five times (2 ** 5)."""

SHARE = 0.4
"""Least share of a side that is kept."""

SMALLEST_MAP = 3
"""Least side of a feature map in the smaller pass; smaller ones are mostly padding."""

WORTH_IT = 0.6
"""Images with more than this share of the pixels are not worth a separate attempt."""


def smaller_sides(full: Sequence[int], maps: Iterable[Sequence[int]]) -> tuple[int, ...] | None:
    """The sides of smaller images that suffice to prove a cut; None if the full ones are needed.

    Args:
        full: sides of the images.
        maps: sides of the feature maps of the network's operations for these images.

    >>> smaller_sides((224, 224), [(112, 112), (7, 7)])
    (96, 96)
    """
    small = tuple(min(side, STEP * math.ceil(SHARE * side / STEP)) for side in full)
    if min(small) < STEP or math.prod(small) > WORTH_IT * math.prod(full):
        return None
    shares = [new / old for new, old in zip(small, full, strict=True)]
    for sides in maps:  # a map of one pixel cannot shrink
        least = min(side * share for side, share in zip(sides, shares, strict=True))
        if min(sides) > 1 and least < SMALLEST_MAP - 0.5:
            return None
    return small
