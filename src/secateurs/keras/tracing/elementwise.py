"""Test whether a function is element-wise by running it on values.

A function written with ``keras.ops`` is traced call by call, like a model. Any other function is
tested on small arrays: changing one element may change only the same element of the result, and the
result for a number must not depend on its position, on its neighbours, or on the lengths of the
axes. A function that fails, or cannot be run, is assumed to mix everything.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache

import keras
import numpy as np
from numpy.typing import NDArray

SCALES = (0.0, 0.3, 3.0, 40.0)
"""Scales of the random values that a function is tested on."""

LENGTHS = (2, 3, 2, 3, 2, 2)


def passes_on_values(function: Callable[..., object], rank: int) -> bool:
    """Return whether a function of a tensor of this rank proves element-wise on test values.

    Args:
        function: function of one tensor; called many times on small ones.
        rank: number of axes, including the batch.
    """
    # A callable without a hash, such as a dataclass, is tested each time.
    return (_test_once if isinstance(function, Hashable) else _test)(function, rank)


@cache
def _test_once(function: Callable[..., object], rank: int) -> bool:
    return _test(function, rank)


def _test(function: Callable[..., object], rank: int) -> bool:
    shape = (*LENGTHS[: rank - 1], 5)
    random = np.random.default_rng(0)
    return all(
        _is_elementwise_on(
            function, (scale * random.standard_normal(shape)).astype(np.float32), random
        )
        for scale in SCALES
    )


def _is_elementwise_on(
    function: Callable[..., object], numbers: NDArray[np.float32], random: np.random.Generator
) -> bool:
    expected = _run(function, numbers)
    if expected is None or expected.shape != numbers.shape:
        return False
    return (
        _agree(_run(function, numbers), expected)  # deterministic
        and _ignores_neighbours(function, numbers, expected, random)
        and _ignores_position(function, numbers, expected)
        and _ignores_lengths(function, numbers, expected)
    )


def _ignores_neighbours(
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


def _ignores_position(
    function: Callable[..., object], numbers: NDArray[np.float32], expected: NDArray[np.generic]
) -> bool:
    flat = expected.ravel()
    rolled = [np.roll(numbers.ravel(), shift).reshape(numbers.shape) for shift in (1, 2, 7)]
    return all(
        _agree(_run(function, other), np.roll(flat, shift).reshape(numbers.shape))
        for other, shift in zip(rolled, (1, 2, 7), strict=True)
    )


def _ignores_lengths(
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
    except Exception:  # noqa: BLE001 - a user's function may raise anything
        return None


def _agree(received: NDArray[np.generic] | None, expected: NDArray[np.generic]) -> bool:
    """Return whether results are equal up to rounding, which varies with vector alignment."""
    return (
        received is not None
        and received.shape == expected.shape
        and bool(np.allclose(received, expected, rtol=1e-5, atol=1e-6, equal_nan=True))
    )
