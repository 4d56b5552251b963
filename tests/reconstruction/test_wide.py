"""Least squares from rows: SciPy's ridge solution, and conjugate gradients."""

import numpy as np
import pytest
from scipy.linalg import lstsq

from secateurs.reconstruction import wide
from secateurs.reconstruction.wide import ContractionRows, refit_wide

RANDOM = np.random.default_rng(0)


def rows(count, inputs=12, outputs=3, noise=0.0):
    weights = np.random.default_rng(5).normal(size=(inputs, outputs))
    u = RANDOM.normal(size=(count, inputs)) + 2
    return ContractionRows(
        u, u @ weights + 7 + noise * RANDOM.normal(size=(count, outputs))
    ), weights


def refit(fit, held, **options):
    start = np.zeros((1, fit.u.shape[1], fit.y.shape[1]))
    return refit_wide(fit, held, start, **{"importance": None, "has_intercept": True} | options)


@pytest.mark.parametrize("most", [4096, 0], ids=["products of rows", "conjugate gradients"])
def test_with_enough_rows_it_is_what_scipy_finds(most, monkeypatch):
    monkeypatch.setattr(wide, "MOST_ROWS_IN_PRODUCTS", most)
    fit, weights = rows(60)
    held, _ = rows(30)
    found = refit(fit, held)
    np.testing.assert_allclose(found.weights[0], weights, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.intercept[0], [7, 7, 7], rtol=1e-2)
    assert found.after < 1e-6 < found.before


def test_with_fewer_rows_than_inputs_it_is_the_ridge_solution():
    fit, _ = rows(8)
    held, _ = rows(40)
    found = refit(fit, held)
    u, y = fit.u - fit.u.mean(0), fit.y - fit.y.mean(0)
    strength = np.sqrt(found.ridge * np.square(u).mean() * len(u))
    pulled = np.vstack([u, strength * np.eye(12)])
    expected = lstsq(pulled, np.vstack([y, np.zeros((12, 3))]))[0]
    np.testing.assert_allclose(found.weights[0], expected, rtol=1e-5, atol=1e-7)


def test_without_an_intercept_means_count():
    fit, _ = rows(60)
    held, _ = rows(30)
    found = refit(fit, held, has_intercept=False)
    assert np.abs(found.intercept).max() == 0
    assert found.after > 1e-6


def test_a_fit_that_helps_nowhere_leaves_the_weights():
    """Targets of noise: on held-out rows nothing fitted is better than nothing."""
    fit = ContractionRows(RANDOM.normal(size=(8, 12)), RANDOM.normal(size=(8, 3)))
    held = ContractionRows(RANDOM.normal(size=(500, 12)), np.zeros((500, 3)))
    found = refit(fit, held)
    assert np.isnan(found.ridge)
    assert np.abs(found.weights).max() == 0
    assert found.after == found.before
