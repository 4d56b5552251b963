"""Means and covariances of activations without images, from batch normalisation's parameters.

Before an activation, batch normalisation gives each channel values ``shift + scale * g`` with ``g``
of mean 0 and variance 1. If ``g`` is taken as normal, and as correlated between two channels as
their filters are (true if the filters' inputs are white), the moments after the activation follow
from these numbers alone.
Source: Nagel et al., *Data-Free Quantization Through Weight Equalization and Bias Correction*, ICCV
2019 (means of rectified normal values); the covariances are their expansion in Hermite polynomials.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.polynomial.hermite_e import hermegauss, hermevander
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from secateurs.channels.arrays import Floats

ActivationFunction = Callable[[Floats], Floats]

_NODES = 64
_DEGREE = 12
RIDGE = 1e-1
"""Relative to the mean variance; strong, because covariances are assumed and not measured."""


def moments_behind(
    shift: Floats, scale: Floats, correlation: Floats, activation: ActivationFunction
) -> tuple[Floats, Floats]:
    """(means, covariances) of ``activation(shift + scale * g)`` for correlated normal ``g``.

    Args:
        shift: shift of each channel, shape (channels,).
        scale: scale of each channel, shape (channels,).
        correlation: correlation of the channels' ``g``, shape (channels, channels).
        activation: elementwise function.

    Example:
        >>> zero, one = np.zeros(1), np.ones(1)
        >>> mean, covariance = moments_behind(zero, one, np.eye(1), lambda x: np.maximum(x, 0))
        >>> mean.round(2), covariance.round(2)  # 1 / sqrt(2 pi), and 1/2 less its square
        (array([0.4]), array([[0.34]]))
    """
    nodes, weights = hermegauss(_NODES)
    weights = weights / weights.sum()
    values = activation(shift[:, None] + scale[:, None] * nodes)
    sizes = np.sqrt(np.cumprod(np.maximum(np.arange(_DEGREE + 1), 1)))
    terms = values @ (weights[:, None] * hermevander(nodes, _DEGREE) / sizes)
    mean = terms[:, 0]
    covariance = np.zeros_like(correlation)
    power = np.ones_like(correlation)
    for degree in range(1, _DEGREE + 1):
        power = power * correlation
        covariance += np.outer(terms[:, degree], terms[:, degree]) * power
    # The remainder of the expansion belongs to each channel's own variance.
    rest = (np.square(values) @ weights) - np.square(terms).sum(axis=1)
    covariance[np.diag_indices_from(covariance)] += np.maximum(rest, 0)
    return mean, covariance


def correlation_of(filters: Floats) -> Floats:
    """Cosine similarity of filters; shape (filters, inputs) -> (filters, filters)."""
    lengths = np.linalg.norm(filters, axis=1, keepdims=True)
    directions = filters / np.maximum(lengths, 1e-30)
    cosines: Floats = np.clip(directions @ directions.T, -1, 1)
    np.fill_diagonal(cosines, 1)
    return cosines


def stand_ins(
    mean: Floats, covariance: Floats, kept: NDArray[np.int64], gone: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Predict removed channels from kept ones: ``gone ~ mixing @ kept + constant``.

    Returns:
        (mixing, constant) of shapes (gone, kept) and (gone,).
    """
    among = covariance[np.ix_(kept, kept)].copy()
    pull = RIDGE * max(float(among.trace()) / len(kept), 1e-12)
    among[np.diag_indices_from(among)] += pull
    mixing = cho_solve(cho_factor(among), covariance[np.ix_(kept, gone)]).T
    return mixing, mean[gone] - mixing @ mean[kept]
