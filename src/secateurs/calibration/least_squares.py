"""Ridge least squares for the weights that a cut keeps, from sums that either framework provides.

A contraction (a convolution, a linear layer) is a linear map of *patches*: ``y = u Z + b``, with
``u`` of shape (rows, inputs) and ``y`` of shape (rows, outputs), once for each convolution group.
The targets are known: the dense network's outputs. So the weights of the small one solve

    minimise  mean |y - u Z - b|^2  +  ridge * d * |Z - W|^2,     d = mean of diag(cov u),

where ``W`` are the present weights: the ridge pulls towards them and not towards zero, so that
directions about which the images say little hardly change. Its strength is chosen on held-out
images. With the covariances ``G = cov(u)`` and ``R = cov(u, y)``,

    Z = W + (G + ridge * d * I)^-1 (R - G W),       b = mean y - mean u Z.

Source: He et al., *Channel Pruning for Accelerating Very Deep Neural Networks*, ICCV 2017 (least
squares with intercept, layer after layer); the pull towards the present weights is a proximal term.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from secateurs.calibration.peers import Peers
from secateurs.channels.arrays import Array, Sums

RIDGES = (1e-9, 1e-7, 1e-5, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0)
"""Candidate ridges: tried from the sixth on, in the direction of falling held-out error."""

_FIRST_RIDGE = 5

LARGE = 2**18
"""Number of weights from which the ridge is chosen in single precision and on some outputs only;
with the chosen ridge, all outputs are then fitted in double precision."""

OUTPUTS_TO_CHOOSE_BY = 64


@dataclass(frozen=True, eq=False, slots=True)
class Moments:
    """Moments of rows of patches ``u`` and targets ``y``, for each of ``g`` groups.

    Attributes:
        rows: number of rows, or the sum of their weights.
        mean_u: shape (g, inputs).
        mean_y: shape (g, outputs).
        uu: sums of products of deviations from the means, shape (g, inputs, inputs).
        uy: likewise, shape (g, inputs, outputs).
        yy: sums of squared deviations, shape (g, outputs).
    """

    rows: float
    mean_u: Sums
    mean_y: Sums
    uu: Sums
    uy: Sums
    yy: Sums

    @classmethod
    def of(cls, u: Array, y: Array) -> Moments:
        """Moments of ``u``, shape (g, rows, inputs), and ``y``, shape (g, rows, outputs)."""
        u, y = u.astype(np.float64), y.astype(np.float64)
        mean_u, mean_y = u.mean(axis=1), y.mean(axis=1)
        u, y = u - mean_u[:, None], y - mean_y[:, None]
        transposed = u.transpose(0, 2, 1)
        return cls(
            u.shape[1], mean_u, mean_y, transposed @ u, transposed @ y, np.square(y).sum(axis=1)
        )

    @classmethod
    def of_none(cls, groups: int, inputs: int, outputs: int) -> Moments:
        """Moments of no rows."""
        u, y = np.zeros((groups, inputs)), np.zeros((groups, outputs))
        uu, uy = (np.zeros((groups, inputs, columns)) for columns in (inputs, outputs))
        return cls(0.0, u, y, uu, uy, y.copy())

    def merge(self, other: Moments) -> Moments:
        """Moments of the rows of both."""
        rows = self.rows + other.rows
        part = self.rows * other.rows / rows
        du, dy = other.mean_u - self.mean_u, other.mean_y - self.mean_y
        share = other.rows / rows
        return Moments(
            rows,
            self.mean_u + share * du,
            self.mean_y + share * dy,
            self.uu + other.uu + part * du[:, :, None] * du[:, None],
            self.uy + other.uy + part * du[:, :, None] * dy[:, None],
            self.yy + other.yy + part * np.square(dy),
        )

    def total_over(self, peers: Peers) -> Moments:
        """Moments of the rows of all processes."""
        if peers.count == 1:
            return self
        rows, sum_u, sum_y = peers.total(
            [np.array(self.rows), self.rows * self.mean_u, self.rows * self.mean_y]
        )
        mean_u, mean_y = sum_u / rows, sum_y / rows
        du, dy = self.mean_u - mean_u, self.mean_y - mean_y
        products = peers.total(
            [
                self.uu + self.rows * du[:, :, None] * du[:, None],
                self.uy + self.rows * du[:, :, None] * dy[:, None],
                self.yy + self.rows * np.square(dy),
            ]
        )
        return Moments(float(rows), mean_u, mean_y, *products)

    def about_zero(self) -> Moments:
        """Products about zero instead of the means, for maps without an intercept."""
        mean_u, mean_y, rows = self.mean_u, self.mean_y, self.rows
        return Moments(
            rows,
            np.zeros_like(mean_u),
            np.zeros_like(mean_y),
            self.uu + rows * mean_u[:, :, None] * mean_u[:, None],
            self.uy + rows * mean_u[:, :, None] * mean_y[:, None],
            self.yy + rows * np.square(mean_y),
        )

    def of_inputs(self, kept: NDArray[np.int64]) -> Moments:
        """Moments of these inputs only."""
        return Moments(
            self.rows,
            self.mean_u[:, kept],
            self.mean_y,
            self.uu[:, kept[:, None], kept],
            self.uy[:, kept],
            self.yy,
        )

    def of_outputs(self, chosen: NDArray[np.int64]) -> Moments:
        """Moments of these outputs only."""
        return Moments(
            self.rows,
            self.mean_u,
            self.mean_y[:, chosen],
            self.uu,
            self.uy[:, :, chosen],
            self.yy[:, chosen],
        )

    def in_single_precision(self) -> Moments:
        """The same moments as 32-bit floats."""
        parts = (self.mean_u, self.mean_y, self.uu, self.uy, self.yy)
        numbers: list[Any] = [part.astype(np.float32) for part in parts]
        return Moments(self.rows, *numbers)

    @property
    def scale(self) -> Sums:
        """Mean variance of an input, shape (g,); never zero."""
        variances = np.diagonal(self.uu, axis1=1, axis2=2).mean(axis=1) / self.rows
        floored: Sums = np.maximum(variances, 1e-12)
        return floored

    def intercept(self, weights: Sums) -> Sums:
        """The best intercept for these weights, shape (g, outputs)."""
        found: Sums = self.mean_y - np.einsum("gi,gio->go", self.mean_u, weights)
        return found

    def error(self, weights: Sums, intercept: Sums) -> Sums:
        """Mean squared error of each output, shape (g, outputs)."""
        cross = np.einsum("gio,gio->go", weights, self.uy)
        square = np.einsum("gio,gio->go", weights, self.uu @ weights)
        spread = np.maximum(self.yy - 2 * cross + square, 0) / self.rows
        found: Sums = spread + np.square(self.intercept(weights) - intercept)
        return found


def solve(moments: Moments, weights: Sums, ridge: float) -> Sums:
    """Solve for the weights of least error, with a ridge towards the present weights.

    Args:
        moments: moments of patches and targets.
        weights: present weights, shape (g, inputs, outputs).
        ridge: strength of the ridge, relative to the mean variance of an input.

    Returns:
        New weights, of the same shape. If the system is singular even so, the ridge is multiplied
        by ten until it is not; the present weights are returned if that never happens.

    Example:
        >>> u = np.array([[[1.0], [-1.0]]])
        >>> solve(Moments.of(u, 3 * u), np.zeros((1, 1, 1)), 1e-9).round(6)
        array([[[3.]]])
    """
    return Solver(moments, weights, ridge)(moments.uy)


class Solver:
    """``solve`` for any number of targets of the same patches; their matrix is factored once.

    Args:
        moments: moments of the patches, whose precision is used.
        weights: present weights, shape (g, inputs, outputs).
        ridge: strength of the ridge.
    """

    def __init__(self, moments: Moments, weights: Sums, ridge: float) -> None:
        covariance = moments.uu / np.asarray(moments.rows, moments.uu.dtype)
        self._rows = moments.rows
        self._weights = weights
        self._present = covariance @ weights
        diagonal = np.arange(covariance.shape[1])
        added = 0.0
        self._solve: Callable[[Sums], Sums] | None = None
        for power in range(8):
            wanted = ridge * 10.0**power
            covariance[:, diagonal, diagonal] += ((wanted - added) * moments.scale)[:, None]
            added = wanted
            self._solve = _factor(covariance)
            if self._solve is not None:
                break

    def __call__(self, uy: Sums) -> Sums:
        """The weights of least error for sums of products with targets, (g, inputs, outputs)."""
        if self._solve is None:
            return self._weights
        change = self._solve(uy / np.asarray(self._rows, uy.dtype) - self._present)
        if not np.isfinite(change).all():
            return self._weights
        found: Sums = self._weights + change
        return found


def _factor(matrices: Sums) -> Callable[[Sums], Sums] | None:
    """Factor each group's matrix; None if one is not positive definite."""
    try:
        if len(matrices) > 1:
            np.linalg.cholesky(matrices)
            kept = matrices.copy()
            return lambda right: np.asarray(np.linalg.solve(kept, right))
        factor = cho_factor(matrices[0], lower=True, check_finite=False)
    except (LinAlgError, np.linalg.LinAlgError, ValueError):
        return None
    if not np.isfinite(factor[0].diagonal()).all():
        return None

    def solve(right: Sums) -> Sums:
        solution: Sums = cho_solve(factor, right[0], check_finite=False)[None]
        return solution

    return solve


@dataclass(frozen=True, eq=False, slots=True)
class Refit:
    """New weights for a contraction.

    Attributes:
        weights: shape (g, inputs, outputs).
        intercept: shape (g, outputs); zeros if there is no bias.
        ridge: ridge chosen on held-out rows; NaN if the weights are unchanged.
        before: error on held-out rows with the old weights, relative to the variance of y.
        after: the same with the new weights; never above ``before``.
        solver: solver that found the weights from all rows; None if they are unchanged.
    """

    weights: Sums
    intercept: Sums
    ridge: float
    before: float
    after: float
    solver: Solver | None = None


def refit(
    fit: Moments,
    held: Moments,
    weights: Sums,
    *,
    importance: Sums | None = None,
    has_intercept: bool = True,
) -> Refit:
    """Fit weights to targets, with the ridge chosen on held-out rows.

    Args:
        fit: moments of the rows to fit.
        held: moments of held-out rows, to choose the ridge and compare with the old weights.
        weights: present weights, shape (g, inputs, outputs).
        importance: weight of each output, shape (g, outputs); None for equal weights.
        has_intercept: whether there is a bias.

    Returns:
        New weights, fitted to all rows with the chosen ridge; or the old ones with a new intercept,
        if no ridge does better on held-out rows.
    """
    everything = fit.merge(held)
    if not has_intercept:
        fit, held, everything = fit.about_zero(), held.about_zero(), everything.about_zero()
    share = np.ones_like(fit.mean_y) if importance is None else importance

    def error(candidate: Sums) -> float:
        return float((held.error(candidate, fit.intercept(candidate)) * share).sum())

    size = max(float((held.yy / held.rows * share).sum()), 1e-300)
    before = error(weights)
    ridge, candidate = _best_on_held(fit, held, weights, share)
    after = error(candidate)
    if not after < before:
        as_it_is = everything.intercept(weights)
        return Refit(weights, as_it_is, float("nan"), before / size, before / size)
    solver = Solver(everything, weights, ridge)
    solved = solver(everything.uy)
    intercept = everything.intercept(solved)
    return Refit(solved, intercept, ridge, before / size, after / size, solver)


def _best_on_held(fit: Moments, held: Moments, weights: Sums, share: Sums) -> tuple[float, Sums]:
    """(ridge of least error on held-out rows, weights fitted with it to the rows to fit)."""
    some, judging, present = fit, held, weights
    if weights.size >= LARGE and len(weights) == 1:
        chosen = _outputs_to_choose_by(held.yy[0] * share[0])
        fit, weights = fit.in_single_precision(), weights.astype(np.float32)
        some, judging = fit.of_outputs(chosen), held.in_single_precision().of_outputs(chosen)
        present, share = weights[:, :, chosen], share[:, chosen]

    def error(ridge: float) -> float:
        candidate = solve(some, present, ridge)
        return float((judging.error(candidate, some.intercept(candidate)) * share).sum())

    ridge, _ = choose_ridge(error)
    return ridge, solve(fit, weights, ridge).astype(np.float64)


def _outputs_to_choose_by(size: Sums) -> NDArray[np.int64]:
    """A sample of outputs, evenly spaced from the largest to the smallest."""
    order = np.argsort(-size, kind="stable")
    places = np.linspace(0, len(order) - 1, min(len(order), OUTPUTS_TO_CHOOSE_BY))
    found: NDArray[np.int64] = np.sort(order[places.round().astype(np.int64)])
    return found


def choose_ridge(error: Callable[[float], float]) -> tuple[float, float]:
    """(ridge of least error, that error), descending from the middle of ``RIDGES``."""
    known: dict[int, float] = {}

    def at(place: int) -> float:
        if place not in known:
            inside = 0 <= place < len(RIDGES)
            known[place] = error(RIDGES[place]) if inside else float("inf")
        return known[place]

    place = _FIRST_RIDGE
    step = 1 if at(place + 1) < at(place) else -1
    while at(place + step) < at(place):
        place += step
    return RIDGES[place], at(place)
