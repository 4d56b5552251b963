"""Whether a function works element by element: known by name, followed, or tried on values.

A function of ``keras.ops`` is followed call by call, like a model. One of a backend's, or of
somebody else's, is tried: each element is changed alone and nothing else may change with it; the
result for a number must be the same wherever it stands, whatever is beside it, and however long
the axes are. What fails, or cannot be tried, is taken to mix everything.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import keras
import numpy as np
from numpy.typing import NDArray

SCALES = (0.0, 0.3, 3.0, 40.0)
"""Sizes of the numbers that a function is tried on."""

LENGTHS = (2, 3, 2, 3, 2, 2)


@cache
def passes_on_values(function: Callable[..., object], rank: int) -> bool:
    """Whether a function of one tensor of this rank works element by element, by trying it.

    Args:
        function: of a tensor; called many times on small ones.
        rank: number of axes, the batch's too.
    """
    shape = (*LENGTHS[: rank - 1], 5)
    random = np.random.default_rng(0)
    return all(
        _holds_at(function, (scale * random.standard_normal(shape)).astype(np.float32), random)
        for scale in SCALES
    )


def _holds_at(
    function: Callable[..., object], numbers: NDArray[np.float32], random: np.random.Generator
) -> bool:
    expected = _run(function, numbers)
    if expected is None or expected.shape != numbers.shape:
        return False
    return (
        _agree(_run(function, numbers), expected)  # nothing is drawn
        and _each_alone(function, numbers, expected, random)
        and _wherever_it_stands(function, numbers, expected)
        and _however_long(function, numbers, expected)
    )


def _each_alone(
    function: Callable[..., object],
    numbers: NDArray[np.float32],
    expected: NDArray[np.generic],
    random: np.random.Generator,
) -> bool:
    for place in np.ndindex(numbers.shape):
        changed = numbers.copy()
        changed[place] = 100 * random.standard_normal()
        received = _run(function, changed)
        if received is None:
            return False
        received[place] = expected[place]
        if not _agree(received, expected):
            return False
    return True


def _wherever_it_stands(
    function: Callable[..., object], numbers: NDArray[np.float32], expected: NDArray[np.generic]
) -> bool:
    flat = expected.ravel()
    turned = [np.roll(numbers.ravel(), shift).reshape(numbers.shape) for shift in (1, 2, 7)]
    return all(
        _agree(_run(function, other), np.roll(flat, shift).reshape(numbers.shape))
        for other, shift in zip(turned, (1, 2, 7), strict=True)
    )


def _however_long(
    function: Callable[..., object], numbers: NDArray[np.float32], expected: NDArray[np.generic]
) -> bool:
    for axis in range(numbers.ndim):
        for index in (np.arange(1), np.repeat(np.arange(numbers.shape[axis]), 3)):
            received = _run(function, np.take(numbers, index, axis))
            if not _agree(received, np.take(expected, index, axis)):
                return False
    return True


def _run(
    function: Callable[..., object], numbers: NDArray[np.float32]
) -> NDArray[np.generic] | None:
    try:
        given = function(keras.ops.convert_to_tensor(numbers))
        return np.array(keras.ops.convert_to_numpy(given))
    except Exception:  # noqa: BLE001 - a function of somebody else's may raise anything
        return None


def _agree(received: NDArray[np.generic] | None, expected: NDArray[np.generic]) -> bool:
    """Equal but for the rounding of vector instructions, which differs from place to place."""
    return (
        received is not None
        and received.shape == expected.shape
        and bool(np.allclose(received, expected, rtol=1e-5, atol=1e-6, equal_nan=True))
    )
