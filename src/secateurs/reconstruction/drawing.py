"""Which rows of patches least squares look at: drawn by lot, and none of what fills texts up.

Sums over padding would fit a network to what it does where nobody looks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

ROWS_AT_LEAST = 20_000
ROWS_AN_INPUT = 8
"""As many rows of patches are drawn as this times the inputs; more say little more."""

Present = Mapping[int, NDArray[np.bool_]]
"""Number of places -> (examples, places), which of them hold more than filling."""

EVERYWHERE: Present = MappingProxyType({})


def rows_per_image(inputs: int, images: int) -> int:
    """How many rows of each image are wanted for a contraction of so many inputs."""
    return max(1, math.ceil(max(ROWS_AT_LEAST, ROWS_AN_INPUT * inputs) / images))


def draw_rows(
    images: int, each: int, per_image: int, seed: int, present: Present = EVERYWHERE
) -> NDArray[np.intp] | None:
    """Numbers of the rows to take, of ``each`` an image one after the other; None takes all.

    Args:
        images: how many.
        each: rows of an image.
        per_image: how many of them to take at most, drawn by lot.
        seed: of the lots.
        present: which rows count, where an image has as many rows as one of its keys.

    Example:
        >>> texts = {3: np.array([[True, True, False], [True, False, False]])}
        >>> draw_rows(2, 3, 3, 0, texts)
        array([0, 1, 3])
    """
    marks = present.get(each)
    if per_image >= each:
        return None if marks is None else np.flatnonzero(marks)
    lots = np.random.default_rng(seed).random((images, each))
    if marks is not None:
        lots = np.where(marks, lots, 1.0)  # drawn last
    drawn = lots.argsort(1)[:, :per_image]
    numbers = drawn + np.arange(images)[:, None] * each
    if marks is None:
        return numbers.ravel()
    return numbers[np.take_along_axis(marks, drawn, 1)]


def present_part(present: Present, part: slice) -> Present:
    """Of some of the examples."""
    return {each: marks[part] for each, marks in present.items()}
