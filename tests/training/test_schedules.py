import math

import numpy as np
import pytest

from secateurs.training.schedules import learning_rates


def test_cosine_by_hand():
    found = learning_rates("cosine", 0.8, 6, 0.34)  # two of six rise
    expected = [1 / 3, 2 / 3, 1, *((1 + math.cos(math.pi * k / 4)) / 2 for k in (1, 2, 3))]
    np.testing.assert_allclose(found, 0.8 * np.array(expected))


def test_one_cycle_rises_as_half_a_cosine():
    found = learning_rates("one-cycle", 1.0, 4, 0.5)
    rise = [(1 - math.cos(math.pi * k / 3)) / 2 for k in (1, 2)]
    np.testing.assert_allclose(found, [*rise, 1.0, 0.5])


def test_constant_stays_once_it_has_risen():
    np.testing.assert_allclose(learning_rates("constant", 0.3, 4, 0.25), [0.15, 0.3, 0.3, 0.3])


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle", "constant"])
def test_no_batch_has_a_learning_rate_of_zero(schedule):
    for batches in (0, 1, 2, 7):
        for warm_up in (0.0, 0.5, 1.0):
            rates = learning_rates(schedule, 0.1, batches, warm_up)
            assert len(rates) == batches
            assert (rates > 0).all()
            assert rates.max(initial=0.1) == pytest.approx(0.1)
