"""Weights of positions in least squares, where a normalisation divides each by its own size.

In a transformer every position of the residual stream is normalised before it is read, so an error
counts relative to the size of the stream there. Sizes differ: in SmolLM2 the first token of a text
is more than a hundred times as large as any other, and with equal weights a layer could be fitted
to such a token alone. In the models measured so far it is not: SmolLM2 and MiniLM come out alike
with these weights and without (docs/real-models.md, docs/accuracy.md).
"""

from __future__ import annotations

from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

FLOOR = 1e-6
"""Least size of a position relative to the mean, so that zeros have finite weights."""


class Division(Enum):
    """What a normalisation over the channels of each position divides by."""

    NONE = auto()
    DEVIATION = auto()
    ROOT_MEAN_SQUARE = auto()


def weigh_positions(total: NDArray[np.float32], division: Division) -> NDArray[np.float32]:
    """Weigh the squared error at each position by one over the squared size of the sum there.

    Args:
        total: the sum in the dense network, shape (..., channels).
        division: what the normalisation divides by.

    Returns:
        Shape (..., 1).

    Example:
        >>> weigh_positions(np.array([[1.0, 1.0], [3.0, 3.0]]), Division.ROOT_MEAN_SQUARE).round(2)
        array([[1.  ],
               [0.11]])
    """
    if division is Division.DEVIATION:
        total = total - total.mean(axis=-1, keepdims=True)
    sizes = np.square(total).mean(axis=-1, keepdims=True)
    weights: NDArray[np.float32] = 1 / np.maximum(sizes, max(FLOOR * sizes.mean(), 1e-30))
    return weights
