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
