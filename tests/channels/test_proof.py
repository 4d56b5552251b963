"""Where two models differ first, on numbers small enough to check by hand."""

import numpy as np
import pytest

from secateurs.channels.proof import largest_mismatch

LAYERS = ["first", "second", "third"]


def apart(received, expected, tolerance=1e-3, factors=(1.0,)):
    arrays = [[np.array(row, float) for row in rows] for rows in (received, expected)]
    return largest_mismatch(LAYERS[: len(received)], *arrays, tolerance, factors)


def test_a_difference_is_held_against_the_largest_sample_of_its_own_operation():
    # 1 of 100 is less than 0.5 of 2.
    assert apart([[99, 1], [2.5]], [[100, 1], [2]]) == (0.25, "first")
    assert apart([[99, 1], [2.5]], [[100, 1], [2]], tolerance=0.1) == (0.25, "second")


def test_within_the_tolerance_the_furthest_is_named():
    assert apart([[1], [2.02], [3.01]], [[1], [2], [3]], tolerance=0.1) == (
        pytest.approx(0.01),
        "second",
    )


def test_equal_samples_name_no_layer():
    assert apart([[1, 2], [0]], [[1, 2], [0]]) == (0.0, "")
    assert largest_mismatch([], [], [], 1.0) == (0.0, "")


def test_where_the_twin_is_zero_the_difference_counts_as_it_is():
    assert apart([[0.5]], [[0.0]]) == (0.5, "first")


def test_one_sided_nan_is_infinitely_far_whatever_follows():
    assert apart([[np.nan], [1]], [[1], [1]]) == (np.inf, "first")
    assert apart([[1], [np.inf]], [[1], [5]]) == (np.inf, "second")
    assert apart([[np.nan, np.inf], [1]], [[np.nan, np.inf], [1]]) == (0.0, "")


def test_a_factor_that_was_folded_into_weights_is_no_difference():
    assert apart([[2, 4]], [[1, 2]], factors=(1.0, 2.0)) == (0.0, "")
    assert apart([[2, 4]], [[1, 2]]) == (1.0, "first")
