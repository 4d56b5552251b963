"""Sums of products of patches and targets in NumPy, over pieces of the images."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secateurs.calibration.least_squares import Moments
from secateurs.channels.arrays import Array, Sums


@dataclass(eq=False, slots=True)
class RunningSums:
    """Moments of rows that are added in pieces.

    Products are computed in single precision, of deviations from the first piece's means (to avoid
    cancellation; with weights, those of the rows that count), and accumulated in double.

    Attributes:
        rows: number of rows so far, or the sum of their weights.
    """

    rows: float = 0
    _u: Array = field(default_factory=lambda: np.zeros(()))
    _y: Array = field(default_factory=lambda: np.zeros(()))
    _sums: list[Sums] = field(default_factory=list)

    def add(
        self,
        u: NDArray[np.float32],
        y: NDArray[np.float32],
        weights: NDArray[np.float32] | None = None,
    ) -> None:
        """Add patches (groups, rows, inputs) and targets (groups, rows, outputs).

        ``weights``: weight of each row, shape (rows,); None for 1.
        """
        if not u.shape[1]:
            return
        if not self.rows:
            self._u, self._y = _mean(u, weights), _mean(y, weights)
        du, dy = u - self._u, y - self._y
        sums = [du.sum(1), dy.sum(1)]
        if weights is not None:
            roots = np.sqrt(weights)[:, None]
            du, dy = du * roots, dy * roots
            sums = [(du * roots).sum(1), (dy * roots).sum(1)]
        turned = du.transpose(0, 2, 1)
        new = [*sums, turned @ du, turned @ dy, np.square(dy).sum(1)]
        doubles = [one.astype(np.float64) for one in new]
        if self._sums:
            doubles = [a + b for a, b in zip(self._sums, doubles, strict=True)]
        self._sums = doubles
        self.rows += u.shape[1] if weights is None else float(weights.sum(dtype=np.float64))

    def moments(self) -> Moments:
        """Moments of all rows so far."""
        n = self.rows
        su, sy, uu, uy, yy = self._sums
        mean_u, mean_y = su / n, sy / n
        return Moments(
            n,
            mean_u + self._u[:, 0],
            mean_y + self._y[:, 0],
            uu - n * mean_u[:, :, None] * mean_u[:, None],
            uy - n * mean_u[:, :, None] * mean_y[:, None],
            np.maximum(yy - n * np.square(mean_y), 0),
        )


def _mean(rows: NDArray[np.float32], weights: NDArray[np.float32] | None) -> Array:
    """The (weighted) mean of rows, shape (groups, 1, columns)."""
    found: Array
    if weights is None:
        found = rows.mean(axis=1, keepdims=True)
    else:
        found = (rows * (weights / weights.sum())[:, None]).sum(axis=1, keepdims=True)
    return found
