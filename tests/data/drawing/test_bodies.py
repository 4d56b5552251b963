"""Vehicles are drawn where they are placed, with the requested paint."""

import numpy as np
import pytest

from secateurs.data.drawing.bodies import (
    Finish,
    Painter,
    Pose,
    draw_end,
    draw_side,
    reflections,
)
from secateurs.data.drawing.canvas import Canvas

RED, WHITE, SKY = np.array([0.8, 0.1, 0.1]), (1.0, 1.0, 1.0), np.array([0.5, 0.6, 0.9])


def painter(scale=0.8, x=0.1, paint=RED):
    finish = Finish(paint, WHITE, SKY, 0.3, (0.1, 0.1, 0.1), (0.7, 0.7, 0.7), paint)
    return Painter(Canvas(48), Pose(x, 0.2, scale), finish)


def picture(brush):
    return np.asarray(brush.canvas.image).astype(int)


def test_places_are_scaled_from_the_rear_and_turned_by_a_negative_scale():
    pose = Pose(0.2, 0.1, 0.5)
    np.testing.assert_allclose(pose.place([(0, 0), (1, 0.4)]), [(0.2, 0.1), (0.7, 0.3)])
    left = Pose(0.7, 0.1, -0.5)
    np.testing.assert_allclose(left.place([(0, 0), (1, 0.4)]), [(0.7, 0.1), (0.2, 0.3)])


def test_the_nearer_end_is_taller_and_a_slope_lifts_the_front():
    tall = Pose(0, 0, 1, nearer=0.2).place([(0, 1), (1, 1)])[:, 1]
    assert tall.tolist() == pytest.approx([0.9 + 0.03 * 0.1, 1.1 - 0.03 * 0.1])
    assert Pose(0, 0, 1, slope=0.1).place([(1, 0)])[0, 1] == pytest.approx(0.1)


def test_paint_is_light_above_dark_below_and_mirrors_as_it_shines():
    matt = reflections(RED, SKY, 0.0)
    np.testing.assert_allclose(matt[[0, 2, 7]], np.outer([1.12, 1.0, 0.6], RED))
    glossy = reflections(RED, SKY, 1.0)
    np.testing.assert_allclose(glossy[0], 1.12 * RED * 0.45 + 0.55 * SKY)
    np.testing.assert_allclose(glossy[-1], matt[-1])  # the lowest edge mirrors nothing


@pytest.mark.parametrize("kind", ["sedan", "truck"])
def test_a_side_lies_between_its_ends_in_its_paint(kind):
    found = {}
    for scale, x in ((0.8, 0.1), (-0.8, 0.9)):
        brush = painter(scale, x)
        draw_side(brush, kind, stripe=False, two_tone=False, panel_van=False)
        image = picture(brush)
        red = (image[..., 0] > 80) & (image[..., 1] < image[..., 0] / 2)
        assert red.mean() > 0.05
        assert not image[:, :3].any()
        assert not image[:, 45:].any()
        found[scale] = red
    # Facing left it is the same one mirrored, but for pixels on its edges.
    assert (found[0.8] != found[-0.8][:, ::-1]).mean() < 0.05


@pytest.mark.parametrize("rear", [True, False])
def test_an_end_is_as_wide_on_both_sides_and_has_lamps_of_its_own(rear):
    brush = painter(0.5, 0.25)
    draw_end(brush, 0.8, rear, WHITE)
    image = picture(brush)
    columns = np.flatnonzero(image.any((0, 2)))
    assert abs((columns[0] + columns[-1]) / 2 - 23.5) <= 1.5
    assert 0.3 < len(columns) / 48 < 0.8
