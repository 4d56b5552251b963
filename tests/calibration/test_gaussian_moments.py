"""Moments after an activation, against samples; stand-ins, where they are exact."""

import numpy as np
import pytest

from secateurs.calibration.gaussian_moments import correlation_of, moments_behind, stand_ins


def relu(x):
    return np.maximum(x, 0)


@pytest.mark.parametrize("activation", [relu, np.tanh, lambda x: np.clip(x, 0, 6)])
def test_moments_are_those_of_samples(activation):
    rng = np.random.default_rng(0)
    correlation = correlation_of(rng.standard_normal((4, 6)))
    shift, scale = np.array([0.5, -1.0, 0.0, 2.0]), np.array([1.0, 0.7, -1.5, 2.0])
    draws = rng.multivariate_normal(np.zeros(4), correlation, 200_000, method="eigh")
    values = activation(shift + scale * draws)
    mean, covariance = moments_behind(shift, scale, correlation, activation)
    np.testing.assert_allclose(mean, values.mean(0), atol=0.02)
    np.testing.assert_allclose(covariance, np.cov(values.T), atol=0.04)


def test_a_duplicate_compensates_for_a_removed_channel():
    filters = np.array([[1.0, 2.0], [-2.0, 1.0], [1.0, 2.0]])
    correlation = correlation_of(filters)
    np.testing.assert_allclose(correlation, [[1, 0, 1], [0, 1, 0], [1, 0, 1]], atol=1e-12)
    mean, covariance = moments_behind(np.ones(3), np.ones(3), correlation, relu)
    mixing, constant = stand_ins(mean, covariance, np.array([0, 1]), np.array([2]))
    assert mixing[0, 0] > 0.9
    assert abs(mixing[0, 1]) < 1e-9
    # Whatever stands in, the mean is right.
    np.testing.assert_allclose(mixing @ mean[:2] + constant, mean[2])
