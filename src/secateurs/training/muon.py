"""Muon: steps along orthogonalised momentum, for the weight matrices of either framework.

A gradient of a weight matrix has a few large singular values and many small ones; a step along it
learns a few directions and hardly the rest. Muon gives all of them the same length. In the few
hundred steps of a distillation, that comes about as far as twice as many of Adam
(``docs/accuracy.md``). What is no matrix is left to Adam.

PyTorch's own (from 2.9) and Keras's own (from 3.11) take matrices of two axes alone, no kernels of
convolutions; the former computes in bfloat16, and neither is in the oldest versions that we
support. So what both need is here, in products alone: an array of NumPy serves as well as a tensor.

Source: Jordan et al., Muon: An Optimizer for Hidden Layers in Neural Networks, 2024.
"""

from __future__ import annotations

from typing import Any

MOMENTUM = 0.95
RATE = 3e-3
"""The highest rate: a step's largest singular value."""

_ROUNDS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic by which singular values between 0 and 1 rise to about 1 (0.7 to 1.2) in so few
rounds."""

AnyMatrix = Any
"""A NumPy array or a tensor of PyTorch's, of two axes."""


def orthogonalize(matrix: AnyMatrix) -> AnyMatrix:
    """The matrix with singular values of about 1: U V^T of its decomposition U S V^T.

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


class Muon:
    """The momentum of one matrix, shape (outputs, inputs), and the way that it says to go."""

    def __init__(self) -> None:
        self._momentum: AnyMatrix = 0.0

    def direction(self, gradient: AnyMatrix) -> AnyMatrix:
        """What to take from the matrix, times the rate; of Nesterov's momentum.

        Steps of tall matrices are longer, so that each output changes by as much.
        """
        self._momentum = MOMENTUM * self._momentum + (1 - MOMENTUM) * gradient
        ahead = MOMENTUM * self._momentum + (1 - MOMENTUM) * gradient
        rows, columns = gradient.shape
        return orthogonalize(ahead) * max(1.0, rows / columns) ** 0.5
