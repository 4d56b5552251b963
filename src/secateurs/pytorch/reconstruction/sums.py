"""Running sums of products of patches and targets, for least squares."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from secateurs.calibration.least_squares import Moments


@dataclass(eq=False, slots=True)
class RunningMoments:
    """Moments of rows that arrive in pieces.

    Products are computed in single precision, of deviations from the first piece's means (which
    avoids cancellation; with weights, those of the rows that count), and accumulated in double.

    Attributes:
        rows: number of rows so far, or the sum of their weights.
    """

    rows: float = 0
    _u: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    _y: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    _sums: list[torch.Tensor] = field(default_factory=list)

    def add(self, u: torch.Tensor, y: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        """Add rows of patches (groups, rows, inputs) and of targets (groups, rows, outputs).

        ``weights``: weight of each row, shape (rows,); None for 1.
        """
        if not u.shape[1]:
            return
        if not self.rows:
            self._u, self._y = _mean(u, weights), _mean(y, weights)
        u, y = u - self._u, y - self._y
        sums = [u.sum(1), y.sum(1)]
        if weights is not None:
            roots = weights.sqrt()[:, None]
            u, y = u * roots, y * roots
            sums = [(u * roots).sum(1), (y * roots).sum(1)]
        products = u.transpose(1, 2) @ y
        new = [*sums, _square(u), products, y.square().sum(1)]
        if not self.rows:
            self._sums = [one.double() for one in new]
        else:
            self._sums = [total + one for total, one in zip(self._sums, new, strict=True)]
        self.rows += u.shape[1] if weights is None else float(weights.double().sum())

    def moments(self) -> Moments:
        """Moments of all rows so far."""
        n = self.rows
        su, sy, uu, uy, yy = self._sums
        mean_u, mean_y = su / n, sy / n
        return Moments(
            n,
            _numbers(mean_u + self._u[:, 0]),
            _numbers(mean_y + self._y[:, 0]),
            _numbers(uu - n * mean_u[:, :, None] * mean_u[:, None]),
            _numbers(uy - n * mean_u[:, :, None] * mean_y[:, None]),
            _numbers((yy - n * mean_y.square()).clamp_min(0)),
        )


def _mean(rows: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """The (weighted) mean of rows, shape (groups, 1, columns)."""
    if weights is None:
        return rows.mean(1, keepdim=True)
    return (rows * (weights / weights.sum())[:, None]).sum(1, keepdim=True)


def _square(u: torch.Tensor) -> torch.Tensor:
    """``u' u`` of each group. NumPy uses the symmetry and does half of the work."""
    if u.device.type != "cpu" or len(u) > 1 or u.dtype != torch.float32:
        return u.transpose(1, 2) @ u
    rows = u[0].contiguous().numpy()
    return torch.from_numpy(rows.T @ rows)[None]


def _numbers(tensor: torch.Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = tensor.double().cpu().numpy()
    return found
