import numpy as np
import torch

from secateurs.calibration.least_squares import Moments
from secateurs.pytorch.reconstruction.sums import RunningMoments

RANDOM = np.random.default_rng(0)


def test_moments_of_pieces_are_those_of_all_rows():
    u, y = 50 + RANDOM.normal(size=(2, 90, 4)), RANDOM.normal(size=(2, 90, 3))
    running = RunningMoments()
    for part in (slice(0, 10), slice(10, 55), slice(55, 90)):
        running.add(*(torch.from_numpy(one[:, part]).float() for one in (u, y)))
    found = running.moments()
    a, b = u - u.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    assert found.rows == 90
    assert np.allclose(found.mean_u, u.mean(axis=1), rtol=1e-6)
    assert np.allclose(found.mean_y, y.mean(axis=1), atol=1e-6)
    assert np.allclose(found.uu, a.transpose(0, 2, 1) @ a, atol=1e-2)
    assert np.allclose(found.uy, a.transpose(0, 2, 1) @ b, atol=1e-2)
    assert np.allclose(found.yy, np.square(b).sum(axis=1), rtol=1e-4)


def test_a_row_of_weight_two_counts_as_two_rows():
    u, y = RANDOM.normal(size=(2, 20, 3)), RANDOM.normal(size=(2, 20, 4))
    weights = RANDOM.integers(1, 4, 20)
    running = RunningMoments()
    for part in (slice(0, 9), slice(9, 20)):
        rows = (torch.from_numpy(one[:, part]).float() for one in (u, y))
        running.add(*rows, torch.from_numpy(weights[part]).float())
    found = running.moments()
    expected = Moments.of(*(np.repeat(one, weights, axis=1) for one in (u, y)))
    assert found.rows == weights.sum()
    for name in ("mean_u", "mean_y", "uu", "uy", "yy"):
        assert np.allclose(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-4)
