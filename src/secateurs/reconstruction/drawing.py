"""Random samples of patch rows for least squares; padding is excluded.

Rows of padding would fit the network to positions whose outputs are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

ROWS_AT_LEAST = 20_000
ROWS_AN_INPUT = 8
"""Number of sampled rows for each input; more add little information."""

Present = Mapping[int, NDArray[np.bool_]]
"""Rows per example -> mask of the rows that are not padding, shape (examples, rows)."""

EVERYWHERE: Present = MappingProxyType({})


def rows_per_image(inputs: int, images: int) -> int:
    """Number of rows to sample from each image for a contraction with this many inputs."""
    return max(1, math.ceil(max(ROWS_AT_LEAST, ROWS_AN_INPUT * inputs) / images))


def draw_rows(
    images: int, each: int, per_image: int, seed: int, present: Present = EVERYWHERE
) -> NDArray[np.intp] | None:
    """Indices of a random sample of rows, ``each`` per image in sequence; None for all rows.

    Args:
        images: number of images.
        each: number of rows per image.
        per_image: largest number of rows to sample from an image.
        seed: seed of the random generator.
        present: masks of the rows that are not padding, used if ``each`` is one of the keys.

    Example:
        >>> texts = {3: np.array([[True, True, False], [True, False, False]])}
        >>> draw_rows(2, 3, 3, 0, texts)
        array([0, 1, 3])
    """
    marks = present.get(each)
    if per_image >= each:
        return None if marks is None else np.flatnonzero(marks)
    draws = np.random.default_rng(seed).random((images, each))
    if marks is not None:
        draws = np.where(marks, draws, 1.0)  # padding is sampled last
    drawn = draws.argsort(1)[:, :per_image]
    numbers = drawn + np.arange(images)[:, None] * each
    if marks is None:
        return numbers.ravel()
    return numbers[np.take_along_axis(marks, drawn, 1)]


def present_part(present: Present, part: slice) -> Present:
    """Restrict masks to some of the examples."""
    return {each: marks[part] for each, marks in present.items()}
