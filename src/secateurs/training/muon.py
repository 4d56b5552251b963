"""Muon: steps along orthogonalised momentum, for the weight matrices of either framework.

A gradient of a weight matrix has a few large singular values and many small ones, so a step along
it learns few directions well. Muon makes all singular values equal. Within the few hundred steps of
a distillation, this gets about as far as twice as many steps of Adam (``docs/accuracy.md``).
Parameters that are not matrices are left to Adam.

The implementations in PyTorch (from 2.9) and Keras (from 3.11) accept two-dimensional matrices
only, no kernels of convolutions; PyTorch's computes in bfloat16, and neither is in the oldest
versions that we support. So the shared part is implemented here with matrix products alone, which
work for NumPy arrays and tensors alike.
"""

from __future__ import annotations

import math
from typing import Any

MOMENTUM = 0.95
RATE = 3e-3
"""Peak learning rate: the largest singular value of a step, for weights of ``USUAL`` size."""

USUAL = 1.3
"""``size_of`` the weights for which ``RATE`` was found: a trained ResNet's, 1.0 to 1.4 in every
layer but the first (0.7)."""

_ROUNDS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic that moves singular values in (0, 1) to about 1 (0.7 to 1.2) within
``_ROUNDS`` rounds."""

AnyMatrix = Any
"""A NumPy array or a PyTorch tensor with two axes."""


def orthogonalize(matrix: AnyMatrix) -> AnyMatrix:
    """Set the singular values of a matrix to about 1: U V^T of its decomposition U S V^T.

    Args:
        matrix: shape (rows, columns); a new one is returned.

    Example:
        >>> import numpy as np
        >>> turned = orthogonalize(np.array([[3.0, 0.0], [0.0, 0.01], [0.0, 0.0]]))
        >>> bool((np.abs(np.linalg.svd(turned)[1] - 1) < 0.35).all())
        True
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    found = matrix if wide else matrix.T
    found = found / (float((found * found).sum()) ** 0.5 + 1e-30)
    first, third, fifth = _COEFFICIENTS
    for _ in range(_ROUNDS):
        gram = found @ found.T
        found = first * found + (third * gram + fifth * (gram @ gram)) @ found
    return found if wide else found.T


def size_of(matrix: AnyMatrix) -> float:
    """Root mean square of a matrix's singular values; unlike the largest, not set by an outlier.

    Args:
        matrix: shape (rows, columns).

    Example:
        >>> import numpy as np
        >>> size_of(np.array([[3.0, 0.0, 0.0], [0.0, 1.0, 0.0]])) == 5**0.5
        True
    """
    return math.sqrt(float((matrix * matrix).sum()) / min(matrix.shape))


class Muon:
    """Momentum of one matrix, shape (outputs, inputs), and the direction of its steps.

    Steps have the size of the weights that training begins with: the kernels of networks that
    normalise after the activation, or not at all, can be a hundred times as large as others'.
    """

    def __init__(self, weights: AnyMatrix) -> None:
        """Begin without momentum.

        Args:
            weights: the matrix before training, shape (outputs, inputs). Where it is zero, steps
                are as long as for weights of ``USUAL`` size.
        """
        self._momentum: AnyMatrix = 0.0
        self._size = size_of(weights) / USUAL or 1.0

    def direction(self, gradient: AnyMatrix) -> AnyMatrix:
        """Direction to subtract from the matrix, times the rate; with Nesterov momentum.

        Steps of tall matrices are longer, so that each output changes equally.
        """
        self._momentum = MOMENTUM * self._momentum + (1 - MOMENTUM) * gradient
        ahead = MOMENTUM * self._momentum + (1 - MOMENTUM) * gradient
        rows, columns = gradient.shape
        return orthogonalize(ahead) * (self._size * max(1.0, rows / columns) ** 0.5)
