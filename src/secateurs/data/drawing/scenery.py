"""Streets, fields and yards for vehicles to stand in, with other colours about."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from secateurs.data.drawing.canvas import Canvas, ellipse, hsv, mix, round_corners

_SKIES = (
    ((0.35, 0.58, 0.9), (0.78, 0.87, 0.96)),  # blue
    ((0.62, 0.65, 0.7), (0.84, 0.85, 0.87)),  # overcast
    ((0.36, 0.4, 0.6), (0.96, 0.7, 0.45)),  # evening
    ((0.45, 0.5, 0.58), (0.7, 0.72, 0.75)),  # dull
)
_GROUNDS = (
    (0.33, 0.33, 0.35),  # asphalt
    (0.25, 0.25, 0.27),
    (0.52, 0.51, 0.49),  # concrete
    (0.32, 0.46, 0.2),  # grass
    (0.66, 0.58, 0.43),  # sand
    (0.88, 0.89, 0.92),  # snow
    (0.5, 0.32, 0.26),  # brick
)


def draw_scenery(canvas: Canvas, random: Generator, horizon: float) -> NDArray[np.float64]:
    """Draw sky, ground and what stands between them; returns the colour the sky reflects."""
    above, below = (np.array(colour) for colour in _SKIES[random.integers(len(_SKIES))])
    sky = np.stack([above, mix(above, below, 0.5), below])
    canvas.shade([(0, horizon - 0.02), (1, horizon - 0.02), (1, 1.0), (0, 1.0)], sky)
    ground = np.array(_GROUNDS[random.choice(len(_GROUNDS), p=_GROUND_SHARES)])
    ground = ground * random.uniform(0.8, 1.2)
    canvas.shade(
        [(0, 0), (1, 0), (1, horizon), (0, horizon)],
        np.stack([0.88 * ground, ground, 1.1 * ground]),
    )
    scene = _SCENES[random.integers(len(_SCENES))]
    scene(canvas, random, horizon)
    if random.random() < 0.5:
        _road_markings(canvas, random, horizon)
    return mix(above, (1, 1, 1), 0.45)


def draw_foreground(canvas: Canvas, random: Generator) -> None:
    """Draw something in front of the vehicle."""
    x, kind = random.uniform(0.05, 0.95), random.integers(3)
    colour = _any_colour(random)
    if kind == 0:
        width = random.uniform(0.01, 0.025)
        canvas.box(x, 0, x + width, 1, mix(colour, (0.4, 0.4, 0.4), 0.7))
    elif kind == 1:
        green = hsv(random.uniform(80, 130), 0.5, random.uniform(0.2, 0.4))
        for _ in range(4):
            at = x + random.uniform(-0.1, 0.1)
            canvas.polygon(ellipse(at, 0.02, 0.09, random.uniform(0.08, 0.18)), green)
    else:
        base, height = random.uniform(0.05, 0.2), random.uniform(0.25, 0.4)
        canvas.polygon(
            round_corners(
                [
                    (x, base),
                    (x + 0.09, base),
                    (x + 0.07, base + 0.7 * height),
                    (x + 0.02, base + 0.7 * height),
                ]
            ),
            colour,
        )
        canvas.polygon(ellipse(x + 0.045, base + 0.85 * height, 0.026, 0.035), (0.75, 0.58, 0.47))


_GROUND_SHARES = (0.3, 0.15, 0.17, 0.15, 0.08, 0.06, 0.09)


def _any_colour(random: Generator) -> NDArray[np.float64]:
    return hsv(random.uniform(0, 360), random.uniform(0.1, 0.9), random.uniform(0.25, 0.95))


def _trees(canvas: Canvas, random: Generator, horizon: float) -> None:
    hedge = hsv(random.uniform(80, 130), random.uniform(0.25, 0.6), random.uniform(0.2, 0.45))
    canvas.box(0, horizon - 0.01, 1, horizon + random.uniform(0.02, 0.12), hedge)
    for x in random.uniform(-0.1, 1.1, random.integers(3, 8)):
        size, lift = random.uniform(0.07, 0.17), random.uniform(0.05, 0.25)
        canvas.box(x - 0.012, horizon - 0.02, x + 0.012, horizon + lift, (0.3, 0.22, 0.15))
        leaves = hedge * random.uniform(0.7, 1.3)
        canvas.polygon(ellipse(x, horizon + lift + 0.5 * size, size, 0.9 * size), leaves)


def _city(canvas: Canvas, random: Generator, horizon: float) -> None:
    x = random.uniform(-0.2, 0)
    while x < 1:
        width, height = random.uniform(0.15, 0.4), random.uniform(0.15, 0.6)
        wall = mix(_any_colour(random), (0.6, 0.57, 0.53), random.uniform(0.2, 0.9))
        canvas.box(x, horizon - 0.01, x + width, horizon + height, wall)
        window = mix(wall, random.choice([(0.1, 0.12, 0.16), (0.95, 0.9, 0.7)]), 0.7)
        for row in np.arange(horizon + 0.06, horizon + height - 0.05, 0.11):
            for column in np.arange(x + 0.03, x + width - 0.05, 0.09):
                canvas.box(column, row, column + 0.045, row + 0.06, window)
        x += width


def _wall(canvas: Canvas, random: Generator, horizon: float) -> None:
    wall = mix(_any_colour(random), (0.6, 0.6, 0.6), random.uniform(0.0, 0.9))
    top = horizon + random.uniform(0.2, 0.8)
    canvas.box(0, horizon - 0.01, 1, top, wall)
    for row in np.arange(horizon + 0.08, top, 0.08):
        canvas.box(0, row, 1, row + 0.006, mix(wall, (0, 0, 0), 0.2))
    if random.random() < 0.4:
        left = random.uniform(-0.1, 0.7)
        canvas.box(
            left, horizon - 0.01, left + 0.35, horizon + 0.5 * (top - horizon), _any_colour(random)
        )


def _hills(canvas: Canvas, random: Generator, horizon: float) -> None:
    for haze in (0.45, 0.25):
        hill = mix(hsv(random.uniform(70, 220), 0.4, 0.4), (0.7, 0.75, 0.8), haze)
        for x in random.uniform(0, 1, 3):
            width, height = random.uniform(0.25, 0.6), random.uniform(0.05, 0.2)
            outline = ellipse(x, horizon, width, height)
            canvas.polygon(np.maximum(outline, (-1, horizon - 0.01)), hill)


def _draw_parked(canvas: Canvas, random: Generator, horizon: float) -> None:
    """Draw other vehicles, whose colours do not determine the class."""
    behind = _SCENES[random.integers(3)]
    behind(canvas, random, horizon)
    for x in random.uniform(-0.15, 0.9, random.integers(1, 4)):
        length = random.uniform(0.25, 0.4)
        height, paint = 0.3 * length, _any_colour(random) * random.uniform(0.5, 1)
        y = horizon - 0.03
        cabin = np.array([(0.12, 0.55), (0.28, 1.05), (0.62, 1.05), (0.78, 0.55)])
        canvas.polygon(
            round_corners(cabin * (length, height) + (x, y)), mix(paint, (0.1, 0.12, 0.15), 0.65)
        )
        body = np.array([(0, 0.15), (0, 0.62), (1, 0.58), (1, 0.15)])
        canvas.polygon(round_corners(body * (length, height) + (x, y)), paint)
        for axle in (0.2, 0.8):
            canvas.polygon(
                ellipse(x + axle * length, y + 0.08 * length, 0.08 * length, 0.08 * length),
                (0.05, 0.05, 0.05),
            )


def _road_markings(canvas: Canvas, random: Generator, horizon: float) -> None:
    paint = random.choice([(0.9, 0.9, 0.88), (0.85, 0.7, 0.2)]) * random.uniform(0.7, 1)
    y, shift = random.uniform(0.02, max(0.06, horizon - 0.2)), random.uniform(0, 0.3)
    for x in np.arange(-0.3, 1.1, 0.3) + shift:
        canvas.polygon([(x, y), (x + 0.16, y), (x + 0.18, y + 0.02), (x + 0.02, y + 0.02)], paint)
    if random.random() < 0.5:
        canvas.box(0, horizon - 0.035, 1, horizon - 0.005, (0.62, 0.61, 0.6))


_SCENES = (
    _trees,
    _city,
    _wall,
    _hills,
    _draw_parked,
)  # the first three also behind parked vehicles
