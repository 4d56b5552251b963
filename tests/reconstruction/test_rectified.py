import numpy as np

from secateurs.calibration.least_squares import Moments
from secateurs.reconstruction.rectified import Rectified


def exact(moments):
    """Least squares by the products, without a ridge."""
    return lambda products: np.linalg.solve(moments.uu, products)


def draw_case(count=400):
    """A network that lacks an input: what is left can follow it above zero only."""
    random = np.random.default_rng(0)
    full = random.normal(size=(count, 4))
    y = full @ random.normal(size=(4, 2)) - 0.5
    return full[:, :3], y


def test_fitting_through_a_relu_loses_less_than_plain_least_squares():
    u, y = draw_case()
    moments = Moments.of(u[None], y[None])
    start = exact(moments)(moments.uy)
    scale, shift = np.array([1.5, -0.7]), np.array([0.2, 0.1])
    rows = Rectified(u, y, scale, shift)

    def mean_error(weights, intercept):
        ours = scale * (u @ weights[0] + intercept[0]) + shift
        theirs = scale * y + shift
        return np.square(np.maximum(ours, 0) - np.maximum(theirs, 0)).sum()

    plain = mean_error(start, moments.intercept(start))
    relaxed = mean_error(*rows.refine(moments, start, exact(moments)))
    assert relaxed < 0.97 * plain


def test_without_negative_values_it_is_plain_least_squares():
    u, y = draw_case()
    moments = Moments.of(u[None], y[None])
    start = exact(moments)(moments.uy)
    rows = Rectified(u, y, np.ones(2), np.full(2, 1e3))
    weights, intercept = rows.refine(moments, start, exact(moments))
    np.testing.assert_allclose(weights, start, atol=1e-9)
    np.testing.assert_allclose(intercept, moments.intercept(start), atol=1e-9)


def test_a_channel_without_scale_asks_for_nothing():
    u, y = draw_case()
    moments = Moments.of(u[None], y[None])
    start = exact(moments)(moments.uy)
    rows = Rectified(u, y, np.zeros(2), np.full(2, -1.0))
    weights, _ = rows.refine(moments, start, exact(moments))
    assert np.isfinite(weights).all()
