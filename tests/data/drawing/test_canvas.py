import colorsys

import numpy as np
import pytest

from secateurs.data.drawing.canvas import Canvas, ellipse, hsv, mix, round_corners

RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def pixels(canvas):
    return np.asarray(canvas.image)


def test_a_box_fills_its_share_of_the_picture_from_the_lower_left():
    canvas = Canvas(20)
    canvas.box(0, 0, 0.5, 0.25, RED)
    red = pixels(canvas)[..., 0] == 255
    assert red[16:, :10].all()  # the lowest quarter, the left half
    assert not red[:14].any()
    assert not red[:, 12:].any()


def test_shades_run_from_top_to_bottom():
    canvas = Canvas(21)
    canvas.shade([(0, 0), (1, 0), (1, 1), (0, 1)], np.array([RED, BLUE]))
    column = pixels(canvas)[:, 10].astype(int)
    assert column[0].tolist() == [255, 0, 0]
    assert column[20, 2] == pytest.approx(255 * 20 / 21, abs=2)
    assert (np.diff(column[:, 0]) <= 0).all()
    assert (np.diff(column[:, 2]) >= 0).all()


def test_a_shade_of_no_height_draws_nothing():
    canvas = Canvas(8)
    canvas.shade([(0, 2), (1, 2), (1, 2)], np.array([RED, BLUE]))
    assert not pixels(canvas).any()


def test_an_ellipse_is_as_wide_and_high_as_asked_for():
    points = ellipse(0.5, 0.4, 0.2, 0.1)
    np.testing.assert_allclose(points.mean(0), [0.5, 0.4], atol=1e-12)
    np.testing.assert_allclose(((points - (0.5, 0.4)) ** 2 / (0.04, 0.01)).sum(1), 1, atol=1e-12)


def test_corners_are_cut_a_fifth_from_each_end():
    square = [(0, 0), (1, 0), (1, 1), (0, 1)]
    once = round_corners(square, 1)
    np.testing.assert_allclose(once[:4], [(0.2, 0), (0.8, 0), (1, 0.2), (1, 0.8)])
    assert len(round_corners(square, 2)) == 16


def test_colours():
    np.testing.assert_allclose(mix(RED, BLUE, 0.25), [0.75, 0, 0.25])
    np.testing.assert_allclose(hsv(360 + 120, 1, 0.5), [0, 0.5, 0])
    np.testing.assert_allclose(hsv(30, 0.5, 0.5), colorsys.hsv_to_rgb(30 / 360, 0.5, 0.5))
