"""Least squares before a ReLU: values below zero in both networks count as correct.

After a ReLU, a negative value of the dense network is zero, whatever it was. So where the small
network's value is negative too, there is no error to reduce; where it is positive, the target is
zero and not the dense value. With targets relaxed in this way, the least squares are solved again,
a few times.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from secateurs.calibration.least_squares import Moments, Solver
from secateurs.channels.arrays import Array, Sums

ROUNDS = 3


@dataclass(frozen=True, eq=False, slots=True)
class Rectified:
    """Rows of one contraction whose output goes through ``relu(scale * y + shift)``.

    Attributes:
        u: patches, shape (rows, inputs).
        y: targets, shape (rows, outputs).
        scale: scale of a batch normalisation in between, else ones; shape (outputs,).
        shift: shape (outputs,), or (rows, outputs) where something is added in between.
    """

    u: Array
    y: Array
    scale: Array
    shift: Array

    def refine(self, moments: Moments, start: Sums, solver: Solver) -> tuple[Sums, Sums]:
        """(weights, intercept) for relaxed targets.

        Args:
            moments: moments of these rows.
            start: solution of plain least squares, shape (1, inputs, outputs).
            solver: solver that computed it.
        """
        kind = self.u.dtype
        weights, intercept = start, moments.intercept(start)
        quiet = np.abs(self.scale) < 1e-3
        zero = -self.shift / np.where(quiet, np.inf, self.scale)
        is_on = self.scale * self.y + self.shift > 0
        for _ in range(ROUNDS):
            given = self.u @ weights[0].astype(kind) + intercept[0].astype(kind)
            is_off = self.scale * given + self.shift < 0
            target = np.where(is_on, self.y, np.where(is_off, given, zero))
            weights, intercept = self._solve(moments, self.u, target, solver)
        return weights, intercept

    @staticmethod
    def _solve(moments: Moments, u: Array, target: Array, solver: Solver) -> tuple[Sums, Sums]:
        mean: NDArray[np.float64] = target.mean(axis=0, dtype=np.float64)
        # Deviations of the targets sum to zero, so the patches need not be centred as well.
        products = (u.T @ (target - mean.astype(target.dtype))).astype(np.float64)
        scaled = products * (moments.rows / len(u))
        weights = solver(scaled[None])
        relaxed = replace(moments, mean_y=mean[None])
        return weights, relaxed.intercept(weights)
