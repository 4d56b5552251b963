import numpy as np
import torch

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
