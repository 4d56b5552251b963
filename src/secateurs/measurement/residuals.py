"""Residuals of the latency model at timed cuts, carried over to similar cuts.

A sum of terms in the widths is a rough model: caches, allocators and kernels that change with size
are not in it, and a plan that minimises it ends where it is too optimistic. Its residuals at timed
cuts are known, and similar cuts have similar residuals: a Gaussian process over the layers'
multiply-accumulates predicts them, and how far to trust that. Far from all timed cuts it predicts
no correction, with the largest uncertainty.

Source: kriging of a regression's residuals (Krige 1951; Rasmussen & Williams, *Gaussian Processes
for Machine Learning*, 2006, sections 2.2, 2.7 and 5.4.2).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

REACHES = (0.1, 0.2, 0.4, 0.8)
SIZES = (0.02, 0.04, 0.08, 0.16)
"""Candidate length scales and standard deviations; those that predict left-out cuts best are used.
"""

NOISE = 0.01
"""Least relative standard error of a measured time."""

_NO_MACS = 1.0
"""MACs assigned to a removed layer, whose logarithm is then far from any other's."""


@dataclass(frozen=True, eq=False)
class Residuals:
    """A Gaussian process over the residuals of the terms.

    Attributes:
        macs: multiply-accumulates of each layer after each timed cut, shape (cuts, layers).
        shares: weights of the layers, which sum to 1, shape (layers,).
        off: logarithm of measured time over the sum of terms, shape (cuts,).
        noise: relative standard error of each measurement, shape (cuts,).
        reach: length scale within which cuts have similar residuals.
        size: standard deviation of the residuals.
    """

    macs: Floats
    shares: Floats
    off: Floats
    noise: Floats
    reach: float
    size: float

    @classmethod
    def fit(cls, macs: Floats, shares: Floats, off: Floats, noise: Floats) -> Residuals:
        """Choose the reach and the size by which each cut is best predicted from the others.

        Args:
            macs: multiply-accumulates of each layer after each timed cut, shape (cuts, layers).
            shares: weights of the layers, shape (layers,).
            off: logarithm of measured time over the sum of terms, shape (cuts,).
            noise: relative standard error of each measurement, shape (cuts,).
        """
        noise = np.maximum(noise, NOISE)
        tried = [
            cls(macs, shares, off, noise, reach, size)
            for reach, size in itertools.product(REACHES, SIZES)
        ]
        return max(tried, key=lambda one: one._likelihood)

    @property
    def _likelihood(self) -> float:
        """Leave-one-out log likelihood of the residuals, up to a constant."""
        inverse = np.linalg.inv(self._covariance)
        spread: Floats = 1 / np.diag(inverse)
        missed = inverse @ self.off * spread
        return float(-0.5 * np.sum(np.log(spread) + missed**2 / spread))

    @cached_property
    def _covariance(self) -> Floats:
        found: Floats = self._likeness(self.macs) + np.diag(self.noise**2)
        return found

    @cached_property
    def _weights(self) -> Floats:
        return np.asarray(np.linalg.solve(self._covariance, self.off), np.float64)

    def _place(self, macs: Floats) -> Floats:
        logarithms: Floats = np.log(np.maximum(macs, _NO_MACS))
        place: Floats = logarithms * np.sqrt(self.shares)
        return place

    @cached_property
    def _places(self) -> Floats:
        return self._place(self.macs)

    def _likeness(self, macs: Floats) -> Floats:
        """Covariance of choices (..., layers) with the timed cuts, shape (..., cuts)."""
        here, there = self._place(macs), self._places
        squares = (here**2).sum(axis=-1)[..., None] + (there**2).sum(axis=1) - 2 * here @ there.T
        found: Floats = self.size**2 * np.exp(-np.maximum(squares, 0) / (2 * self.reach**2))
        return found

    def factor(self, macs: Floats) -> Floats:
        """Factor that corrects a sum of terms; ``macs`` has shape (..., layers)."""
        if not self._applies(macs):
            return np.ones(macs.shape[:-1])
        found: Floats = np.exp(self._likeness(macs) @ self._weights)
        return found

    def doubt(self, macs: Floats) -> Floats:
        """Relative standard deviation of the corrected time, shape (...)."""
        if not self._applies(macs):
            return np.full(macs.shape[:-1], self.size)
        likeness = self._likeness(macs)
        known = (likeness * np.linalg.solve(self._covariance, likeness.T).T).sum(axis=-1)
        found: Floats = np.sqrt(np.maximum(self.size**2 - known, 0) + NOISE**2)
        return found

    def _applies(self, macs: Floats) -> bool:
        """Whether anything was timed, and the layers are the same."""
        return bool(len(self.off)) and macs.shape[-1] == self.macs.shape[1]

    def without(self, place: int) -> Residuals:
        """The process without one of the timed cuts."""
        rest = np.arange(len(self.off)) != place
        return Residuals(
            self.macs[rest],
            self.shares,
            self.off[rest],
            self.noise[rest],
            self.reach,
            self.size,
        )
