"""Sampling rows of patches: padding is excluded, and the number of rows is limited."""

import numpy as np

from secateurs.reconstruction.drawing import draw_rows, present_part, rows_per_image

MARKS = np.array([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)


def test_all_positions_without_padding_are_taken_where_rows_are_few():
    assert draw_rows(3, 5, 5, 0) is None
    assert draw_rows(3, 5, 5, 0, {5: MARKS}).tolist() == [0, 1, 2, 5, 10, 11, 12, 13, 14]
    assert draw_rows(3, 7, 7, 0, {5: MARKS}) is None  # another number of places: not these texts


def test_rows_are_sampled_outside_the_padding_only():
    drawn = np.concatenate([draw_rows(3, 5, 2, seed, {5: MARKS}) for seed in range(200)])
    times = np.bincount(drawn, minlength=15).reshape(3, 5)
    assert (times[~MARKS] == 0).all()
    assert times[1, 0] == 200  # all that this one has
    assert times[0].sum() == times[2].sum() == 400
    # Two of three, two of five: each as often as chance would have it, within four deviations.
    np.testing.assert_allclose(times[0, :3], 400 / 3, atol=4 * np.sqrt(200 * 2 / 9))
    np.testing.assert_allclose(times[2], 80, atol=4 * np.sqrt(200 * 0.4 * 0.6))


def test_without_padding_each_image_gives_the_same_number_of_rows():
    drawn = draw_rows(4, 10, 3, 0)
    assert (np.bincount(drawn // 10) == 3).all()
    assert len(set(drawn.tolist())) == 12


def test_enough_rows_for_the_inputs():
    assert rows_per_image(10, 100) == 200
    assert rows_per_image(5000, 100) == 400
    assert rows_per_image(1, 10**6) == 1


def test_a_part_of_the_examples():
    assert present_part({5: MARKS}, slice(1, 2))[5].tolist() == [MARKS[1].tolist()]
