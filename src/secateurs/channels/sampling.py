"""Sampling for the proof: which values of an operation's result are compared.

A result may hold millions of values; some of each are compared, at least one at every index of
every axis, so that a slice of one wrong channel is seen where it is used. The sampled positions
depend on the small model's shape alone, so that the small model and the masked twin are sampled at
the same positions, whatever their own shapes are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from secateurs.channels.equations import Ids

SAMPLES_EACH = 64
"""Least number of values sampled from each result, if it has as many."""

MOST_SAMPLES = 2**14
"""Largest number: as many as the widest layers have channels; of a longer axis, so many indices."""

_FRACTIONS = np.random.default_rng(0).random(MOST_SAMPLES)
_STEPS = (0.6180, 0.7549, 0.5698, 0.8192, 0.6711, 0.5245)
"""Steps along the axes, relative to their lengths: unlike, so that axes are out of step."""

_APART = 331
"""Between the fractions of one axis and those of the next."""


@lru_cache(maxsize=256)
def places_in(shape: tuple[int, ...], least: int) -> Sequence[Ids]:
    """Indices along each axis of some positions in a tensor of this shape, always the same.

    Every index of every axis is among them, of axes up to ``MOST_SAMPLES`` long. For a tensor with
    no more values than there are positions, all positions, once.

    Args:
        shape: the tensor's shape.
        least: least number of positions.
    """
    if not shape:
        return ()
    count = max(least, min(max(shape), MOST_SAMPLES))
    if math.prod(shape) <= count:
        return np.unravel_index(np.arange(math.prod(shape)), shape)
    return tuple(_indices_along(axis, length, count) for axis, length in enumerate(shape))


@lru_cache(maxsize=256)
def _indices_along(axis: int, length: int, count: int) -> Ids:
    """All indices of an axis in a mixed order, again and again; evenly spaced ones of a longer."""
    cycle = min(length, count)
    step = max(1, round(cycle * _STEPS[axis % len(_STEPS)]))
    while math.gcd(step, cycle) > 1:
        step += 1
    turn = np.arange(count)
    # Axes of one length would return to the same pairs of indices if each did not move on.
    moves = _FRACTIONS[(turn // cycle + _APART * axis) % len(_FRACTIONS)]
    found: Ids = (turn * step + (moves * cycle).astype(np.int64)) % cycle
    return found * length // cycle


@lru_cache(maxsize=256)
def flat_places_in(shape: tuple[int, ...], least: int) -> Ids:
    """The positions of ``places_in`` as indices into the flat tensor."""
    if not shape:
        return np.zeros(1, np.int64)
    return np.ravel_multi_index(places_in(shape, least), shape)
