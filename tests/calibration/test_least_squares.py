"""The solvers, against NumPy's least squares on stacked rows."""

import numpy as np
import pytest

from secateurs.calibration import least_squares
from secateurs.calibration.least_squares import Moments, Solver, choose_ridge, refit, solve
from secateurs.reconstruction.rectified import Rectified
from secateurs.reconstruction.wide import ContractionRows, refit_wide
from support.peers import run_with_peers

RNG = np.random.default_rng(0)


def rows(count, inputs=5, outputs=3, groups=1):
    u = RNG.standard_normal((groups, count, inputs)) + 1.0
    weights = RNG.standard_normal((groups, inputs, outputs))
    noise = 0.1 * RNG.standard_normal((groups, count, outputs))
    return u, u @ weights + 2.0 + noise, weights


def by_hand(u, y, present, ridge):
    """Ridge towards the present weights, as ordinary least squares of more rows."""
    centred, goal = u - u.mean(0), y - y.mean(0)
    pull = np.sqrt(ridge * np.square(centred).mean() * len(u))
    left = np.vstack([centred, pull * np.eye(u.shape[1])])
    return np.linalg.lstsq(left, np.vstack([goal, pull * present]), rcond=None)[0]


@pytest.mark.parametrize("ridge", [1e-6, 0.1, 10.0])
@pytest.mark.parametrize("groups", [1, 4])
def test_ridge_pulls_towards_the_present_weights(ridge, groups):
    u, y, _ = rows(50, groups=groups)
    present = RNG.standard_normal((groups, 5, 3))
    found = solve(Moments.of(u, y), present, ridge)
    for group in range(groups):
        np.testing.assert_allclose(
            found[group], by_hand(u[group], y[group], present[group], ridge), rtol=1e-8, atol=1e-10
        )


def test_moments_of_parts_are_those_of_the_whole():
    u, y, _ = rows(50, groups=2)
    whole = Moments.of(u, y)
    parts = Moments.of(u[:, :13], y[:, :13]).merge(Moments.of(u[:, 13:], y[:, 13:]))
    for name in ("mean_u", "mean_y", "uu", "uy", "yy"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-10)
    zero = whole.about_zero()
    np.testing.assert_allclose(zero.uu[1], u[1].T @ u[1], rtol=1e-10)
    np.testing.assert_allclose(zero.uy[1], u[1].T @ y[1], rtol=1e-10)


def test_the_error_is_that_of_the_rows():
    u, y, _ = rows(50)
    weights, intercept = RNG.standard_normal((1, 5, 3)), RNG.standard_normal((1, 3))
    expected = np.square(y[0] - u[0] @ weights[0] - intercept).mean(0)
    np.testing.assert_allclose(Moments.of(u, y).error(weights, intercept)[0], expected, rtol=1e-9)


def test_an_exact_layer_is_unchanged():
    u, _, weights = rows(50)
    moments = Moments.of(u, u @ weights + 2.0)
    found = refit(moments, moments, weights)
    np.testing.assert_allclose(found.weights, weights, atol=1e-9)
    np.testing.assert_allclose(found.intercept, 2.0, atol=1e-9)


def test_a_layer_is_never_made_worse_on_rows_held_out():
    """Ten rows for nine inputs, pure noise: what fits them does nothing for others."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        fit = Moments.of(rng.standard_normal((1, 10, 9)), rng.standard_normal((1, 10, 2)))
        held = Moments.of(rng.standard_normal((1, 200, 9)), rng.standard_normal((1, 200, 2)))
        found = refit(fit, held, np.zeros((1, 9, 2)))
        assert found.after <= found.before
        if np.isnan(found.ridge):
            np.testing.assert_array_equal(found.weights, 0)


def test_a_large_layer_is_fitted_alike(monkeypatch):
    """Where the ridge is chosen in single precision and by some outputs alone."""
    u, y, weights = rows(120, inputs=8, outputs=12)
    present = weights + 0.3 * RNG.standard_normal(weights.shape)
    fit, held = Moments.of(u[:, :40], y[:, :40]), Moments.of(u[:, 40:], y[:, 40:])
    plain = refit(fit, held, present)
    monkeypatch.setattr(least_squares, "LARGE", 1)
    monkeypatch.setattr(least_squares, "OUTPUTS_TO_CHOOSE_BY", 5)
    found = refit(fit, held, present)
    expected = by_hand(u[0], y[0], present[0], found.ridge)
    np.testing.assert_allclose(found.weights[0], expected, rtol=1e-8, atol=1e-10)
    assert plain.after <= found.after < 1.1 * plain.after
    assert found.before == plain.before


def test_a_singular_covariance_is_solved():
    u = np.repeat(RNG.standard_normal((1, 40, 1)), 3, axis=2)  # three inputs that are the same
    found = solve(Moments.of(u, u[:, :, :1] * 6), np.zeros((1, 3, 1)), 1e-9)
    np.testing.assert_allclose(found[0].sum(), 6, rtol=1e-4)
    constant = Moments.of(np.ones((1, 40, 3)), np.ones((1, 40, 2)))
    assert np.isfinite(solve(constant, np.zeros((1, 3, 2)), 1e-4)).all()


def test_the_ridge_is_where_the_error_is_least():
    wanted = {1e-9: 0, 1e-5: 2, 1e-3: 4, 1e-2: 5, 1e-1: 7, 10.0: 11}
    for ridge in wanted:
        found, error = choose_ridge(lambda r, to=ridge: abs(np.log(r) - np.log(to)))
        assert (found, error) == (ridge, 0)


@pytest.mark.parametrize("count", [30, 300])
def test_wide_layers_come_to_the_same(count):
    """By products of rows (fewer than inputs), and by conjugate gradients (more)."""
    rng = np.random.default_rng(1)
    u = rng.standard_normal((count, 60)).astype(np.float32)
    truth = rng.standard_normal((60, 4)).astype(np.float32)
    present = truth + 0.5 * rng.standard_normal((60, 4)).astype(np.float32)
    other = rng.standard_normal((100, 60)).astype(np.float32)
    fit, held = ContractionRows(u, u @ truth + 1), ContractionRows(other, other @ truth + 1)
    found = refit_wide(fit, held, present[None].astype(float), importance=None, has_intercept=True)
    assert found.after < found.before
    if count > 60:
        np.testing.assert_allclose(found.weights[0], truth, atol=1e-2)
        np.testing.assert_allclose(found.intercept[0], 1, atol=1e-2)
    else:
        moments = Moments.of(u[None].astype(float), fit.y[None].astype(float))
        same = solve(moments, present[None].astype(float), found.ridge)
        np.testing.assert_allclose(found.weights[0], same[0], atol=1e-3)


def test_conjugate_gradients_are_taken_beyond_what_products_hold(monkeypatch):
    monkeypatch.setattr("secateurs.reconstruction.wide.MOST_ROWS_IN_PRODUCTS", 10)
    rng = np.random.default_rng(2)
    u = rng.standard_normal((40, 60)).astype(np.float32)
    truth = rng.standard_normal((60, 2)).astype(np.float32)
    fit = ContractionRows(u, u @ truth)
    found = refit_wide(fit, fit, np.zeros((1, 60, 2)), importance=None, has_intercept=False)
    assert found.after < 1e-3 * found.before
    np.testing.assert_array_equal(found.intercept, 0)


def test_values_below_zero_in_both_are_ignored():
    """A target far below zero weighs nothing: the fit serves what comes through the ReLU."""
    rng = np.random.default_rng(0)
    u = rng.standard_normal((400, 4))
    y = u[:, :1] * 3
    y = np.where(y < 0, y * 50, y)  # wild where nobody sees it
    moments = Moments.of(u[None], y[None])
    solver = Solver(moments, np.zeros((1, 4, 1)), 1e-6)
    start = solver(moments.uy)
    rectified = Rectified(u, y, np.ones(1), np.zeros(1))
    weights, intercept = rectified.refine(moments, start, solver)

    def error_of(z, b):
        return np.square(np.maximum(u @ z[0] + b, 0) - np.maximum(y, 0)).mean()

    assert error_of(weights, intercept) < 0.5 * error_of(start, moments.intercept(start))


def test_moments_of_several_processes_are_those_of_all_rows():
    random = np.random.default_rng(0)
    u = (50 + random.normal(size=(2, 30, 4))).astype(np.float32)  # far from zero: sums would cancel
    y = random.normal(size=(2, 30, 3)).astype(np.float32)
    parts = [slice(0, 5), slice(5, 6), slice(6, 30)]
    each = [Moments.of(u[:, part], y[:, part]) for part in parts]
    whole = Moments.of(u, y)
    for found in run_with_peers(3, lambda peers: each[peers.rank].total_over(peers)):
        assert found.rows == 30
        for name in ("mean_u", "mean_y", "uu", "uy", "yy"):
            np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-9)
