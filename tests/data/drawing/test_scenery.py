import numpy as np

from secateurs.data.drawing.canvas import Canvas
from secateurs.data.drawing.scenery import draw_foreground, draw_scenery


def draw_on_canvas(seed, draw=draw_scenery, **options):
    canvas = Canvas(24)
    found = draw(canvas, np.random.default_rng(seed), **options)
    return np.asarray(canvas.image), found


def test_the_same_seed_draws_the_same_and_another_something_else():
    (one, sky), (again, _), (other, _) = (draw_on_canvas(s, horizon=0.4) for s in (3, 3, 4))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert ((sky >= 0) & (sky <= 1)).all()


def test_sky_and_ground_fill_the_picture():
    """Of many seeds: no pixel stays black as the empty canvas was."""
    for seed in range(12):
        picture, _ = draw_on_canvas(seed, horizon=0.4)
        assert picture.any(2).all(), seed


def test_the_reflected_colour_is_the_skys_lightened():
    skies = np.array([(0.35, 0.58, 0.9), (0.62, 0.65, 0.7), (0.36, 0.4, 0.6), (0.45, 0.5, 0.58)])
    for seed in range(4):
        _, sky = draw_on_canvas(seed, horizon=0.4)
        assert np.abs(skies * 0.55 + 0.45 - sky).max(1).min() < 1e-9


def test_what_stands_in_the_way_covers_part_of_it():
    for seed in range(8):
        picture, _ = draw_on_canvas(seed, draw_foreground)
        assert 0 < picture.any(2).mean() < 0.5, seed
