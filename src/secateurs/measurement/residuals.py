"""What a sum of terms is off by at cuts that were timed, carried over to cuts like them.

A sum of terms that follow widths is a rough picture: caches, allocators and kernels that change
with size are not in it, and a plan that goes by it ends where it flatters. What it was off by at
the cuts that were timed is known, and what is like one of them is off by about as much: a Gaussian
process over the layers' multiply-accumulates says by how much, and how far that can be trusted.
Far from all that was timed it says nothing, and doubts the most.

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
"""How far a residual reaches, and how large residuals are: what was left out is foretold best."""

NOISE = 0.01
"""Of a time that was measured, relative to it, at the least."""

_NO_MACS = 1.0
"""What a layer that is gone is taken to multiply: its logarithm is far from any other's."""


@dataclass(frozen=True, eq=False)
class Residuals:
    """A Gaussian process over what terms were off by.

    Attributes:
        macs: of each layer, after each cut that was timed; shape (cuts, layers).
        shares: how much each layer counts; they sum to 1; shape (layers,).
        off: logarithm of what was measured over the sum of terms; shape (cuts,).
        noise: standard error of each measurement, relative to it; shape (cuts,).
        reach: distance within which cuts are off by about as much.
        size: of residuals, one standard deviation.
    """

    macs: Floats
    shares: Floats
    off: Floats
    noise: Floats
    reach: float
    size: float

    @classmethod
    def fit(cls, macs: Floats, shares: Floats, off: Floats, noise: Floats) -> Residuals:
        """Of the reach and the size by which each cut is foretold best by the others.

        Args:
            macs: of each layer, after each cut that was timed; shape (cuts, layers).
            shares: how much each layer counts; shape (layers,).
            off: logarithm of what was measured over the sum of terms; shape (cuts,).
            noise: standard error of each measurement, relative to it; shape (cuts,).
        """
        noise = np.maximum(noise, NOISE)
        tried = [
            cls(macs, shares, off, noise, reach, size)
            for reach, size in itertools.product(REACHES, SIZES)
        ]
        return max(tried, key=lambda one: one._likelihood)

    @property
    def _likelihood(self) -> float:
        """Logarithm of how likely each residual is by the others, summed, but for a constant."""
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
        """Covariance of choices (..., layers) with what was timed; (..., cuts)."""
        here, there = self._place(macs), self._places
        squares = (here**2).sum(axis=-1)[..., None] + (there**2).sum(axis=1) - 2 * here @ there.T
        found: Floats = self.size**2 * np.exp(-np.maximum(squares, 0) / (2 * self.reach**2))
        return found

    def factor(self, macs: Floats) -> Floats:
        """What a sum of terms is multiplied by; ``macs`` has shape (..., layers)."""
        if not self._applies(macs):
            return np.ones(macs.shape[:-1])
        found: Floats = np.exp(self._likeness(macs) @ self._weights)
        return found

    def doubt(self, macs: Floats) -> Floats:
        """One standard deviation of the corrected time, relative to it; shape (...)."""
        if not self._applies(macs):
            return np.full(macs.shape[:-1], self.size)
        likeness = self._likeness(macs)
        known = (likeness * np.linalg.solve(self._covariance, likeness.T).T).sum(axis=-1)
        found: Floats = np.sqrt(np.maximum(self.size**2 - known, 0) + NOISE**2)
        return found

    def _applies(self, macs: Floats) -> bool:
        """Whether anything was timed, and the layers are those that were."""
        return bool(len(self.off)) and macs.shape[-1] == self.macs.shape[1]

    def without(self, place: int) -> Residuals:
        """The same, had one of the cuts not been timed."""
        rest = np.arange(len(self.off)) != place
        return Residuals(
            self.macs[rest],
            self.shares,
            self.off[rest],
            self.noise[rest],
            self.reach,
            self.size,
        )
