"""Least squares for contractions with more inputs than a matrix of their products can hold.

A linear layer after a flatten, or a convolution over hundreds of channels and taps, has tens of
thousands of inputs, whose products would take gigabytes. Two methods need the rows alone:

- with fewer rows than inputs, the same ridge solution from the products of *rows*
  (``u (u'u + r)^-1 = (u u' + r)^-1 u``), exactly;
- else conjugate gradients on the normal equations, starting from the present weights and stopped
  when the error on held-out rows no longer falls: early stopping acts as a ridge would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from secateurs.calibration.least_squares import Refit, choose_ridge
from secateurs.channels.arrays import Array, Sums

MOST_INPUTS = 6144
"""Most inputs for which products are stored: 300 MB."""

MOST_ROWS_IN_PRODUCTS = 4096
MOST_STEPS = 60
_PATIENCE = 3


@dataclass(frozen=True, eq=False, slots=True)
class ContractionRows:
    """Rows of one contraction, unreduced.

    Attributes:
        u: patches, shape (rows, inputs).
        y: targets, shape (rows, outputs).
    """

    u: Array
    y: Array

    def subtract_means(self, mean_u: Array, mean_y: Array) -> ContractionRows:
        """Subtract these means."""
        return ContractionRows(self.u - mean_u, self.y - mean_y)


def refit_wide(
    fit: ContractionRows,
    held: ContractionRows,
    weights: Sums,
    *,
    importance: Sums | None,
    has_intercept: bool,
) -> Refit:
    """``least_squares.refit`` from rows instead of sums, for one group.

    Args:
        fit: rows to fit.
        held: held-out rows.
        weights: present weights, shape (1, inputs, outputs).
        importance: weight of each output, shape (1, outputs); None for equal weights.
        has_intercept: whether there is a bias.
    """
    mean_u, mean_y = fit.u.mean(axis=0), fit.y.mean(axis=0)
    if not has_intercept:
        mean_u, mean_y = np.zeros_like(mean_u), np.zeros_like(mean_y)
    fit, held = fit.subtract_means(mean_u, mean_y), held.subtract_means(mean_u, mean_y)
    share = np.ones(fit.y.shape[1]) if importance is None else importance[0]
    present = weights[0].astype(fit.u.dtype)
    size = max(float((np.square(held.y).mean(axis=0) * share).sum()), 1e-300)

    def error(candidate: Array) -> float:
        return float((np.square(held.y - held.u @ candidate).mean(axis=0) * share).sum())

    before = error(present)
    if len(fit.u) <= min(fit.u.shape[1], MOST_ROWS_IN_PRODUCTS):
        ridge, after, solved = _by_products_of_rows(fit, present, error)
    else:
        ridge, after, solved = _by_conjugate_gradients(fit, present, error)
    if not after < before:
        ridge, after, solved = float("nan"), before, present
    intercept = (mean_y - mean_u @ solved)[None].astype(np.float64)
    return Refit(solved[None].astype(np.float64), intercept, ridge, before / size, after / size)


SolvedWeights = tuple[float, float, Array]
"""Ridge, held-out error, weights of shape (inputs, outputs)."""


def _by_products_of_rows(
    fit: ContractionRows, present: Array, error: Callable[[Array], float]
) -> SolvedWeights:
    products = (fit.u @ fit.u.T).astype(np.float64)
    residual = (fit.y - fit.u @ present).astype(np.float64)
    scale = max(float(np.square(fit.u).mean()) * len(fit.u), 1e-12)
    kept: dict[float, Array] = {}

    def try_ridge(ridge: float) -> float:
        pulled = products + ridge * scale * np.eye(len(products))
        change = fit.u.T @ cho_solve(cho_factor(pulled), residual).astype(fit.u.dtype)
        kept[ridge] = present + change
        return float(error(kept[ridge]))

    ridge, after = choose_ridge(try_ridge)
    return ridge, after, kept[ridge]


def _by_conjugate_gradients(
    fit: ContractionRows, present: Array, error: Callable[[Array], float]
) -> SolvedWeights:
    weights, best = present.copy(), (error(present), 0, present)
    residual = fit.y - fit.u @ weights
    gradient = fit.u.T @ residual
    direction, size = gradient.copy(), np.square(gradient).sum(axis=0)
    for step in range(1, MOST_STEPS + 1):
        moved = fit.u @ direction
        length = size / np.maximum(np.square(moved).sum(axis=0), 1e-30)
        weights = weights + direction * length
        residual = residual - moved * length
        gradient = fit.u.T @ residual
        new_size = np.square(gradient).sum(axis=0)
        direction = gradient + direction * (new_size / np.maximum(size, 1e-30))
        size = new_size
        now = error(weights)
        if now < best[0]:
            best = (now, step, weights)
        elif step - best[1] >= _PATIENCE:
            break
    return float("nan") if best[1] == 0 else 0.0, best[0], best[2]
