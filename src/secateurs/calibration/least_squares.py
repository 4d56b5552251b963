"""Ridge least squares for the weights that a cut leaves, from sums that either framework gives.

A contraction (a convolution, a linear layer) is a linear map of *patches*: ``y = u Z + b``, with
``u`` of shape (rows, inputs) and ``y`` of shape (rows, outputs), once for each convolution group.
What it should give is known: what the dense network gave. So the weights of the small one solve

    minimise  mean |y - u Z - b|^2  +  ridge * d * |Z - W|^2,     d = mean of diag(cov u),

where ``W`` is what the weights are now: the ridge pulls towards them and not towards zero, so that
where the images say little, little changes. How strong it is, images that were not fitted decide.
With the covariances ``G = cov(u)`` and ``R = cov(u, y)``,

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

from secateurs.channels.arrays import Array, Sums

RIDGES = (1e-9, 1e-7, 1e-5, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0)
"""Tried from the sixth on, in the direction in which the held-out error falls."""

_FIRST_RIDGE = 5

LARGE = 2**18
"""Weights from which on the ridge is chosen in single precision and by some outputs alone; what is
chosen is then fitted in double, for all."""

OUTPUTS_TO_CHOOSE_BY = 64


@dataclass(frozen=True, eq=False, slots=True)
class Moments:
    """What rows of patches ``u`` and targets ``y`` sum up to, for each of ``g`` groups.

    Attributes:
        rows: how many were seen.
        mean_u: shape (g, inputs).
        mean_y: shape (g, outputs).
        uu: sums of products of deviations from the means, shape (g, inputs, inputs).
        uy: likewise, shape (g, inputs, outputs).
        yy: sums of squared deviations, shape (g, outputs).
    """

    rows: int
    mean_u: Sums
    mean_y: Sums
    uu: Sums
    uy: Sums
    yy: Sums

    @classmethod
    def of(cls, u: Array, y: Array) -> Moments:
        """Of rows at hand; ``u`` has shape (g, rows, inputs), ``y`` (g, rows, outputs)."""
        u, y = u.astype(np.float64), y.astype(np.float64)
        mean_u, mean_y = u.mean(axis=1), y.mean(axis=1)
        u, y = u - mean_u[:, None], y - mean_y[:, None]
        transposed = u.transpose(0, 2, 1)
        return cls(
            u.shape[1], mean_u, mean_y, transposed @ u, transposed @ y, np.square(y).sum(axis=1)
        )

    def merge(self, other: Moments) -> Moments:
        """Of the rows of both."""
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

    def about_zero(self) -> Moments:
        """With products about zero in place of the means: for maps that have no intercept."""
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
        """Of these inputs alone."""
        return Moments(
            self.rows,
            self.mean_u[:, kept],
            self.mean_y,
            self.uu[:, kept[:, None], kept],
            self.uy[:, kept],
            self.yy,
        )

    def of_outputs(self, chosen: NDArray[np.int64]) -> Moments:
        """Of these outputs alone."""
        return Moments(
            self.rows,
            self.mean_u,
            self.mean_y[:, chosen],
            self.uu,
            self.uy[:, :, chosen],
            self.yy[:, chosen],
        )

    def in_single_precision(self) -> Moments:
        """The same in 32 bits a number."""
        parts = (self.mean_u, self.mean_y, self.uu, self.uy, self.yy)
        numbers: list[Any] = [part.astype(np.float32) for part in parts]
        return Moments(self.rows, *numbers)

    @property
    def scale(self) -> Sums:
        """The mean variance of an input, for each group; never zero."""
        variances = np.diagonal(self.uu, axis1=1, axis2=2).mean(axis=1) / self.rows
        floored: Sums = np.maximum(variances, 1e-12)
        return floored

    def intercept(self, weights: Sums) -> Sums:
        """The best one with these weights; shape (g, outputs)."""
        found: Sums = self.mean_y - np.einsum("gi,gio->go", self.mean_u, weights)
        return found

    def error(self, weights: Sums, intercept: Sums) -> Sums:
        """The mean squared error of each output; shape (g, outputs)."""
        cross = np.einsum("gio,gio->go", weights, self.uy)
        square = np.einsum("gio,gio->go", weights, self.uu @ weights)
        spread = np.maximum(self.yy - 2 * cross + square, 0) / self.rows
        found: Sums = spread + np.square(self.intercept(weights) - intercept)
        return found


def solve(moments: Moments, weights: Sums, ridge: float) -> Sums:
    """The weights of least error, pulled towards what they are.

    Args:
        moments: of patches and targets.
        weights: what the weights are now, shape (g, inputs, outputs).
        ridge: how strong the pull is, relative to the mean variance of an input.

    Returns:
        New weights, of the same shape. Where the sums are singular even so, the pull is made ten
        times stronger until they are not; the present weights, where that never happens.

    Example:
        >>> u = np.array([[[1.0], [-1.0]]])
        >>> solve(Moments.of(u, 3 * u), np.zeros((1, 1, 1)), 1e-9).round(6)
        array([[[3.]]])
    """
    return Solver(moments, weights, ridge)(moments.uy)


class Solver:
    """``solve`` for any number of targets of the same patches: their matrix is factored once.

    Args:
        moments: of the patches; in their precision it is solved.
        weights: what the weights are now.
        ridge: how strong the pull is.
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
        """The weights of least error for these sums of products with the targets."""
        if self._solve is None:
            return self._weights
        change = self._solve(uy / np.asarray(self._rows, uy.dtype) - self._present)
        if not np.isfinite(change).all():
            return self._weights
        found: Sums = self._weights + change
        return found


def _factor(matrices: Sums) -> Callable[[Sums], Sums] | None:
    """What solves each group's equations; None where a matrix is not positive definite."""
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
        intercept: shape (g, outputs); zeros where there is no place for one.
        ridge: what the held-out rows chose; NaN where the weights are as they were.
        before: the error on held-out rows with the old weights, relative to the spread of y.
        after: with the new ones; never above ``before``.
        solver: that found the weights from all rows; None where they are as they were.
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
    """Weights that give what the targets say, chosen on rows that were not fitted.

    Args:
        fit: sums over the rows to fit.
        held: sums over the rows to choose the ridge by, and to compare with the old weights.
        weights: what the weights are now.
        importance: of each output, shape (g, outputs); None takes them as equal.
        has_intercept: whether there is a place for one.

    Returns:
        The new weights, fitted to all rows with the ridge chosen; the old ones, with a new
        intercept alone, where no ridge does better on the rows held out.
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
    """(the ridge of least error on the rows held out, what it gives on the rows to fit)."""
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
    """Some outputs of every size, evenly drawn from the largest to the smallest."""
    order = np.argsort(-size, kind="stable")
    places = np.linspace(0, len(order) - 1, min(len(order), OUTPUTS_TO_CHOOSE_BY))
    found: NDArray[np.int64] = np.sort(order[places.round().astype(np.int64)])
    return found


def choose_ridge(error: Callable[[float], float]) -> tuple[float, float]:
    """(the ridge of least error, that error), going down hill from the middle of ``RIDGES``."""
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
