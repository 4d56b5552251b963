"""Where a proof looks inside two models: at the same places of their operations' results.

A result may hold millions of values; a few of each are compared. Which, depends on the small
model's shape alone, so the small model and the masked twin are looked at in the same places,
whatever their own shapes are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from secateurs.channels.equations import Ids

SAMPLES_EACH = 64
"""Values of each result."""

_FRACTIONS = np.random.default_rng(0).random(1024)


@lru_cache(maxsize=1024)
def places_in(shape: tuple[int, ...], count: int) -> Sequence[Ids]:
    """Indices along each axis of ``count`` places in a tensor of this shape, always the same.

    Of a tensor of no more values, all of them.
    """
    if not shape:
        return ()
    total = math.prod(shape)
    if total <= count:
        return np.unravel_index(np.arange(total), shape)
    return np.unravel_index((_FRACTIONS[:count] * total).astype(np.int64), shape)
