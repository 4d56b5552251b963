"""Vehicles drawn from the side, the front and the rear, in any paint."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateurs.data.drawing.canvas import Canvas, Colour, Points, ellipse, mix, round_corners

TYRE = (0.06, 0.06, 0.065)
PLASTIC = (0.13, 0.13, 0.14)
CHROME = (0.78, 0.79, 0.8)


@dataclass(frozen=True)
class Profile:
    """A vehicle's outline from the side, facing right; its length is 1.

    Attributes:
        roof, belt, deck, bonnet: Heights of the roof, the windows' lower edge, the tail, the nose.
        tail, roof_rear, roof_front, cowl: Where from the rear the rear window begins and ends, and
            the windscreen begins and ends.
        wheels: Where the axles are.
        wheel: Their radius.
        doors: Where the doors and the pillars between the windows are.
        size: Length of the vehicle in widths of the picture.
    """

    roof: float
    belt: float
    deck: float
    bonnet: float
    tail: float
    roof_rear: float
    roof_front: float
    cowl: float
    wheels: tuple[float, float] = (0.2, 0.8)
    wheel: float = 0.078
    doors: tuple[float, ...] = (0.3, 0.48)
    size: float = 0.8


SEDAN = Profile(0.315, 0.205, 0.21, 0.17, 0.12, 0.27, 0.54, 0.71, doors=(0.3, 0.47, 0.66))
PROFILES = {
    "sedan": SEDAN,
    "coupe": Profile(0.285, 0.19, 0.195, 0.155, 0.08, 0.32, 0.5, 0.69, doors=(0.36, 0.64)),
    "hatchback": Profile(0.375, 0.235, 0.25, 0.19, 0.02, 0.1, 0.53, 0.72, size=0.7),
    "estate": Profile(0.325, 0.21, 0.22, 0.175, 0.02, 0.08, 0.55, 0.71, doors=(0.27, 0.43, 0.64)),
    "suv": Profile(0.39, 0.255, 0.265, 0.225, 0.015, 0.06, 0.56, 0.71, wheel=0.09),
    "van": Profile(0.43, 0.27, 0.3, 0.21, 0.005, 0.02, 0.71, 0.89, doors=(0.64,)),
    "minibus": Profile(0.4, 0.25, 0.28, 0.2, 0.005, 0.02, 0.7, 0.88, doors=(0.26, 0.45, 0.64)),
    "pickup": Profile(0.345, 0.225, 0.225, 0.2, 0.42, 0.45, 0.62, 0.75, wheel=0.085, doors=(0.58,)),
    "bus": Profile(
        0.34, 0.17, 0.3, 0.2, 0.0, 0.01, 0.95, 0.995,
        wheels=(0.24, 0.8), wheel=0.05, doors=(0.14, 0.28, 0.42, 0.56, 0.7, 0.85), size=0.95,
    ),
    "truck": Profile(
        0.33, 0.23, 0.1, 0.2, 0.7, 0.72, 0.86, 0.97,
        wheels=(0.17, 0.84), wheel=0.068, doors=(), size=0.9,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Finish:
    """Appearance of a vehicle's surface.

    Attributes:
        paint: The colour of the body.
        second: The colour of a contrasting roof, stripe or cab.
        sky: What the paint reflects.
        gloss: How strongly, 0 to 1.
        glass: The colour of the windows.
        rims: The colour of the wheels.
        bumpers: The colour of the bumpers, often the paint.
    """

    paint: Colour
    second: Colour
    sky: Colour
    gloss: float
    glass: Colour
    rims: Colour
    bumpers: Colour


@dataclass(frozen=True)
class Pose:
    """Position of a vehicle.

    Attributes:
        x: Of its rear (from the side) or its left edge (from an end), in widths of the picture.
        y: Of the ground beneath it.
        scale: Its length or width, negative where it faces left.
        nearer: How much taller the front end looks than the rear.
        slope: How steep the ground is.
    """

    x: float
    y: float
    scale: float
    nearer: float = 0.0
    slope: float = 0.0

    def place(self, points: Points) -> Points:
        """Convert the vehicle's coordinates to the picture's."""
        along, up = np.asarray(points).T
        taller = 1 + self.nearer * (along - 0.5)
        x = self.x + self.scale * along
        y = self.y + abs(self.scale) * (up * taller + self.slope * along - 0.03 * (taller - 1))
        return np.stack([x, y], axis=1)


class Painter:
    """Draws in a vehicle's own coordinates."""

    def __init__(self, canvas: Canvas, pose: Pose, finish: Finish) -> None:
        self.canvas = canvas
        self.pose = pose
        self.finish = finish

    def fill(self, points: object, colour: Colour) -> None:
        """Fill a polygon with one colour."""
        self.canvas.polygon(self.pose.place(np.asarray(points, np.float64)), colour)

    def box(self, left: float, bottom: float, right: float, top: float, colour: Colour) -> None:
        """Fill a rectangle with one colour."""
        self.fill([(left, bottom), (right, bottom), (right, top), (left, top)], colour)

    def panel(self, points: object, paint: Colour) -> None:
        """Fill a polygon with paint: light above, a reflection at the shoulder, dark below."""
        placed = self.pose.place(np.asarray(points, np.float64))
        self.canvas.shade(placed, reflections(paint, self.finish.sky, self.finish.gloss))


def reflections(paint: Colour, sky: Colour, gloss: float) -> NDArray[np.float64]:
    """Colours of a painted side from its top to its bottom, shape (8, 3)."""
    light = np.array([1.12, 1.06, 1.0, 1.04, 0.92, 0.82, 0.72, 0.6])[:, None]
    mirror = np.array([0.55, 0.3, 0.08, 0.4, 0.12, 0.03, 0.0, 0.0])[:, None] * gloss
    colours: NDArray[np.float64] = light * paint * (1 - mirror) + mirror * np.asarray(sky)
    return colours


def draw_side(painter: Painter, kind: str, stripe: bool, two_tone: bool, panel_van: bool) -> None:
    """A vehicle from the side."""
    profile = PROFILES[kind]
    finish = painter.finish
    sill = 0.62 * profile.wheel
    blind = panel_van and kind == "van"
    # Above its belt a van without windows is nearly all wall: a second colour there would be the
    # predominant one.
    two_tone = two_tone and not blind
    _shadow(painter, 0.03, 0.97)
    if kind == "truck":
        _load(painter, profile)
    cab_paint = finish.second if kind == "truck" and two_tone else finish.paint
    painter.panel(_outline(profile, sill), cab_paint)
    if kind == "truck":
        painter.box(0.01, sill, 0.7, 0.11, PLASTIC)
    elif two_tone:
        painter.panel(_greenhouse(profile, 0.0), finish.second)
    if stripe:
        height = 0.5 * (sill + profile.belt)
        painter.box(0.02, height, 0.985, height + 0.022, finish.second)
    _windows(painter, profile, blind)
    _doors(painter, profile, sill)
    if kind == "pickup":
        painter.box(0.015, profile.deck - 0.012, 0.43, profile.deck, PLASTIC)
    _ends(painter, profile, sill)
    for axle in profile.wheels:
        _wheel(painter, axle, profile.wheel)


def draw_end(painter: Painter, tall: float, rear: bool, plate: Colour) -> None:
    """A vehicle from the front or the rear, ``tall`` times as high as wide."""
    finish = painter.finish
    _shadow(painter, 0.02, 0.98)
    waist = 0.5 * tall + 0.05
    for left in (0.07, 0.77):
        painter.box(left, 0.0, left + 0.16, 0.2, TYRE)
    roof = [(0.08, waist - 0.05), (0.16, tall), (0.84, tall), (0.92, waist - 0.05)]
    painter.panel(round_corners(roof), finish.paint)
    body = [(0.04, 0.12), (0.02, waist - 0.1), (0.08, waist), (0.92, waist), (0.98, waist - 0.1)]
    painter.panel(round_corners([*body, (0.96, 0.12)]), finish.paint)
    glass = [(0.15, waist), (0.21, tall - 0.06), (0.79, tall - 0.06), (0.85, waist)]
    _glass(painter, round_corners(glass, 1))
    for left in (-0.04, 0.94):
        painter.fill(ellipse(left + 0.05, waist + 0.03, 0.05, 0.035), finish.paint)
    painter.box(0.07, 0.1, 0.93, 0.2, finish.bumpers)
    lamp = (0.75, 0.06, 0.05) if rear else (0.95, 0.95, 0.86)
    for middle in (0.15, 0.85):
        painter.fill(ellipse(middle, waist - 0.14, 0.09, 0.05), lamp)
    if rear:
        painter.box(0.08, waist - 0.055, 0.92, waist - 0.045, mix(finish.paint, (0, 0, 0), 0.5))
    else:
        painter.fill(
            round_corners([(0.3, 0.22), (0.27, waist - 0.1), (0.73, waist - 0.1), (0.7, 0.22)], 1),
            PLASTIC,
        )
        painter.box(0.3, waist - 0.16, 0.7, waist - 0.145, CHROME)
    painter.box(0.37, 0.16, 0.63, 0.235, plate)


def _outline(profile: Profile, sill: float) -> Points:
    p = profile
    rear = p.tail if p.tail > 0.6 else 0.0  # of a truck only the cab is drawn here
    corners = [
        (rear, sill),
        (rear, 0.6 * p.deck),
        (rear + 0.005, p.deck),
        (p.tail, max(p.deck, p.belt - 0.01)),
        (p.roof_rear, p.roof - 0.006),
        (0.5 * (p.roof_rear + p.roof_front), p.roof + 0.004),
        (p.roof_front, p.roof - 0.006),
        (p.cowl, p.belt),
        (min(p.cowl + 0.2, 0.97), p.bonnet + 0.012),
        (0.995, 0.85 * p.bonnet),
        (1.0, 0.5 * p.bonnet),
        (0.985, sill),
    ]
    return round_corners(corners)


def _greenhouse(profile: Profile, inset: float) -> Points:
    """The part of the outline above the belt, ``inset`` from its edge."""
    p = profile
    rear = p.tail + 0.015 + inset
    corners = [
        (rear, p.belt + 0.4 * inset),
        (p.roof_rear + inset, p.roof - 0.8 * inset),
        (p.roof_front - 0.3 * inset, p.roof - 0.8 * inset),
        (p.cowl - 1.2 * inset, p.belt + 0.4 * inset),
    ]
    return round_corners(corners, 1)


def _windows(painter: Painter, profile: Profile, blind: bool) -> None:
    points = _greenhouse(profile, 0.027)
    if blind:
        points = np.maximum(points, (0.63, 0))
    _glass(painter, points)
    lower, upper = profile.belt, profile.roof - 0.02
    for x in profile.doors:
        if not profile.roof_rear + 0.02 < x < profile.roof_front - 0.01:
            continue  # a door that ends beneath the windscreen
        painter.box(x - 0.011, lower, x + 0.009, upper, mix(painter.finish.paint, (0, 0, 0), 0.15))


def _glass(painter: Painter, points: Points) -> None:
    glass, sky = np.asarray(painter.finish.glass), np.asarray(painter.finish.sky)
    shades = np.stack([mix(glass, sky, 0.5), mix(glass, sky, 0.15), glass, 0.8 * glass])
    painter.canvas.shade(painter.pose.place(points), shades)


def _doors(painter: Painter, profile: Profile, sill: float) -> None:
    line = mix(painter.finish.paint, (0, 0, 0), 0.45)
    handle = mix(painter.finish.paint, CHROME, 0.5)
    for x in profile.doors:
        painter.box(x - 0.004, sill + 0.02, x + 0.003, profile.belt, line)
        painter.box(x + 0.02, profile.belt - 0.035, x + 0.055, profile.belt - 0.022, handle)


def _ends(painter: Painter, profile: Profile, sill: float) -> None:
    """Lamps, bumpers and the sill."""
    bumpers = painter.finish.bumpers
    painter.box(0.0 if profile.tail < 0.6 else 0.7, sill, 0.99, sill + 0.022, PLASTIC)
    painter.box(0.93, sill + 0.005, 1.005, sill + 0.05, bumpers)
    painter.fill(ellipse(0.965, 0.84 * profile.bonnet, 0.026, 0.017), (0.93, 0.93, 0.85))
    if profile.tail < 0.6:
        painter.box(-0.005, sill + 0.005, 0.06, sill + 0.05, bumpers)
        painter.box(0.0, 0.7 * profile.deck, 0.028, 0.9 * profile.deck, (0.7, 0.07, 0.06))


def _load(painter: Painter, profile: Profile) -> None:
    painter.panel([(0.0, 0.1), (0.0, 0.46), (0.68, 0.46), (0.68, 0.1)], painter.finish.paint)
    edge = mix(painter.finish.paint, (0, 0, 0), 0.3)
    for x in (0.0, 0.225, 0.45, 0.67):
        painter.box(x, 0.1, x + 0.008, 0.46, edge)


def _wheel(painter: Painter, axle: float, radius: float) -> None:
    for share, colour in ((1.18, (0.03, 0.03, 0.03)), (1.0, TYRE), (0.6, painter.finish.rims)):
        painter.fill(ellipse(axle, radius, share * radius, share * radius), colour)
    painter.fill(ellipse(axle, radius, 0.2 * radius, 0.2 * radius), PLASTIC)


def _shadow(painter: Painter, left: float, right: float) -> None:
    middle, half = 0.5 * (left + right), 0.53 * (right - left)
    painter.fill(ellipse(middle, 0.005, half, 0.035), (0.1, 0.1, 0.11))
    painter.fill(ellipse(middle, 0.01, 0.9 * half, 0.02), (0.04, 0.04, 0.045))
