"""Polygons on a small picture: what vehicles and streets are drawn with."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

Points = NDArray[np.float64]
Colour = Sequence[float] | NDArray[np.float64]  # red, green, blue, 0 to 1

_CIRCLE = np.stack(
    [np.cos(np.linspace(0, 2 * np.pi, 20, False)), np.sin(np.linspace(0, 2 * np.pi, 20, False))], 1
)


class Canvas:
    """A square picture; points are (x, y) from the lower left, and the picture is 1 wide."""

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels
        self.image = Image.new("RGB", (pixels, pixels))
        self._draw = ImageDraw.Draw(self.image)

    def polygon(self, points: ArrayLike, colour: Colour) -> None:
        """Fill a polygon with one colour."""
        self._draw.polygon(self._at(points), fill=_bytes(colour))

    def box(self, left: float, bottom: float, right: float, top: float, colour: Colour) -> None:
        """Fill a rectangle with one colour."""
        self.polygon([(left, bottom), (right, bottom), (right, top), (left, top)], colour)

    def shade(self, points: ArrayLike, shades: NDArray[np.float64]) -> None:
        """Fill a polygon with colours that change from its top to its bottom.

        Args:
            points: The corners.
            shades: Colours, shape (any number, 3), spread evenly over the polygon's height.
        """
        corners = self._at(points)
        heights = corners[1::2]
        top, bottom = max(0, int(min(heights))), min(self.pixels, int(max(heights)) + 2)
        if bottom <= top:
            return
        mask = Image.new("L", (self.pixels, self.pixels))
        ImageDraw.Draw(mask).polygon(corners, fill=255)
        span = max(max(heights) - min(heights), 1)
        place = (np.arange(top, bottom) - min(heights)) / span * (len(shades) - 1)
        rows = np.stack([np.interp(place, range(len(shades)), shade) for shade in shades.T], 1)
        strip = np.broadcast_to(rows[:, None] * 255, (bottom - top, self.pixels, 3))
        fill = Image.fromarray(strip.clip(0, 255).astype(np.uint8))
        area = (0, top, self.pixels, bottom)
        self.image.paste(fill, area, mask.crop(area))

    def _at(self, points: ArrayLike) -> list[float]:
        """Coordinates x, y, x, y, ... in pixels from the upper left."""
        placed = np.asarray(points, np.float64) * (self.pixels, -self.pixels) + (0, self.pixels)
        flat: list[float] = placed.ravel().tolist()
        return flat


def ellipse(x: float, y: float, width: float, height: float) -> Points:
    """Points around an ellipse with the middle (x, y) and the half axes ``width``, ``height``."""
    return _CIRCLE * (width, height) + (x, y)


def round_corners(points: ArrayLike, times: int = 2) -> Points:
    """The polygon with its corners cut off again and again (Chaikin, 1974)."""
    corners = np.asarray(points, np.float64)
    for _ in range(times):
        following = np.roll(corners, -1, axis=0)
        cut = (0.8 * corners + 0.2 * following, 0.2 * corners + 0.8 * following)
        corners = np.stack(cut, axis=1).reshape(-1, 2)
    return corners


def mix(one: Colour, other: Colour, share: float) -> NDArray[np.float64]:
    """``share`` of ``other``, the rest ``one``."""
    return np.asarray(one) * (1 - share) + np.asarray(other) * share


def hsv(hue: float, saturation: float, value: float) -> NDArray[np.float64]:
    """A colour from its hue in degrees, saturation and value, 0 to 1."""
    return np.array(colorsys.hsv_to_rgb((hue % 360) / 360, saturation, value))


def _bytes(colour: Colour) -> tuple[int, int, int]:
    red, green, blue = (int(255 * min(max(part, 0.0), 1.0)) for part in colour)
    return red, green, blue
