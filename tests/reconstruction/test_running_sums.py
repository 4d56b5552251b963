import numpy as np

from secateurs.calibration.least_squares import Moments
from secateurs.reconstruction.running_sums import RunningSums


def test_pieces_sum_up_to_the_moments_of_all_rows():
    random = np.random.default_rng(0)
    u = (random.normal(size=(2, 50, 3)) + 100).astype(np.float32)  # far from zero: much cancels
    y = (random.normal(size=(2, 50, 4)) - 50).astype(np.float32)
    sums = RunningSums()
    for part in (slice(0, 7), slice(7, 8), slice(8, 50)):
        sums.add(u[:, part], y[:, part])
    found, expected = sums.moments(), Moments.of(u, y)
    assert found.rows == sums.rows == 50
    for name in ("mean_u", "mean_y", "uu", "uy", "yy"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-3, err_msg=name
        )


def test_a_row_of_weight_two_counts_as_two_rows():
    random = np.random.default_rng(1)
    u = random.normal(size=(2, 20, 3)).astype(np.float32)
    y = random.normal(size=(2, 20, 4)).astype(np.float32)
    weights = random.integers(1, 4, 20)
    sums = RunningSums()
    for part in (slice(0, 9), slice(9, 20)):
        sums.add(u[:, part], y[:, part], weights[part].astype(np.float32))
    found = sums.moments()
    expected = Moments.of(*(np.repeat(one, weights, axis=1) for one in (u, y)))
    assert found.rows == weights.sum()
    for name in ("mean_u", "mean_y", "uu", "uy", "yy"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-4, err_msg=name
        )
