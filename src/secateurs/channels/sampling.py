"""Sampling for the proof: which values of an operation's result are compared.

A result may hold millions of values; a few of each are compared. The sampled positions depend on
the small model's shape alone, so that the small model and the masked twin are sampled at the same
positions, whatever their own shapes are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from secateurs.channels.equations import Ids

SAMPLES_EACH = 64
"""Number of values sampled from each result."""

_FRACTIONS = np.random.default_rng(0).random(1024)


@lru_cache(maxsize=1024)
def places_in(shape: tuple[int, ...], count: int) -> Sequence[Ids]:
    """Indices along each axis of ``count`` positions in a tensor of this shape, always the same.

    For a tensor with no more than ``count`` values, all positions.
    """
    return np.unravel_index(flat_places_in(shape, count), shape) if shape else ()


@lru_cache(maxsize=1024)
def flat_places_in(shape: tuple[int, ...], count: int) -> Ids:
    """The positions of ``places_in`` as indices into the flat tensor."""
    total = math.prod(shape)
    if total <= count:
        return np.arange(total)
    return (_FRACTIONS[:count] * total).astype(np.int64)
