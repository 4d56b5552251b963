"""Rendered vehicles in eight colours: which is the predominant colour of the vehicle?

The task is that of the document that Secateurs follows, whose photographs are unpublished. Each
image is determined by its number: a vehicle of some shape, size and view, painted in a colour of
its class, in front of scenery in other colours, then changed by light, noise and blur. It is
difficult for the same reasons as real photographs: silver in sunlight and white in shade are the
same grey, and only the scene tells them apart.

Source: Travis Johnston, "Pruning ResNets for Fun and Profit" (Striveworks).
"""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from secateurs.data.cache import cache_folder
from secateurs.data.drawing import (
    PROFILES,
    Canvas,
    Finish,
    Painter,
    Pose,
    draw_end,
    draw_foreground,
    draw_scenery,
    draw_side,
    hsv,
    mix,
)
from secateurs.data.progress import show_progress
from secateurs.data.sets import Data, assemble
from secateurs.errors import DataError, StudyError
from secateurs.files import write_atomically

IMAGES = 10_000
SIZE = 64
# Increased whenever a change of the drawing code changes the images.
DRAWING = 1

# Ranges of hue in degrees, saturation and value.
PAINTS = {
    "black": ((0, 360), (0.0, 0.3), (0.03, 0.15)),
    "blue": ((203, 245), (0.5, 0.95), (0.3, 0.85)),
    "brown": ((14, 32), (0.45, 0.75), (0.24, 0.5)),
    "green": ((88, 165), (0.4, 0.9), (0.25, 0.7)),
    "red": ((-10, 7), (0.72, 0.97), (0.45, 0.9)),
    "silver": ((0, 360), (0.0, 0.06), (0.42, 0.64)),
    "white": ((0, 360), (0.0, 0.05), (0.9, 1.0)),
    "yellow": ((43, 57), (0.7, 0.97), (0.75, 1.0)),
}
CLASSES = tuple(PAINTS)


def load_vehicles(
    name: str, size: int | None, shares: tuple[float, float], seed: int, limit: int | None
) -> Data:
    """Rendered vehicles; see ``secateurs.data.load``.

    They are drawn once and kept in the user's cache folder.

    Raises:
        DataError: ``name`` is not ``vehicles`` or ``vehicles:NUMBER``.
    """
    _, _, number = name.partition(":")
    count = IMAGES if name == "vehicles" else int(number) if number.isdecimal() else 0
    if count < 2 * len(CLASSES):
        raise DataError(
            f"{name}: expected vehicles:NUMBER with a number of at least {2 * len(CLASSES)}; "
            f"received {number!r}"
        )
    pixels = _draw_once(count, size or SIZE)
    labels = np.arange(count, dtype=np.int64) % len(CLASSES)
    return assemble(name, CLASSES, (pixels, labels), shares=shares, seed=seed, limit=limit)


def render_vehicle(index: int, size: int = SIZE) -> NDArray[np.uint8]:
    """The image of that number, shape (3, size, size); its class is ``index % 8``."""
    random = np.random.default_rng([DRAWING, index])
    canvas = Canvas(2 * size)
    horizon = random.uniform(0.3, 0.62)
    sky = draw_scenery(canvas, random, horizon)
    paint = _paint(random, CLASSES[index % len(CLASSES)])
    _draw_vehicle(canvas, random, horizon, paint, sky)
    if random.random() < 0.15:
        draw_foreground(canvas, random)
    return _lit(canvas.image.reduce(2), random).transpose(2, 0, 1)


def _paint(random: Generator, colour: str) -> NDArray[np.float64]:
    hue, saturation, value = (random.uniform(*part) for part in PAINTS[colour])
    return hsv(hue, saturation, value)


def _draw_vehicle(
    canvas: Canvas,
    random: Generator,
    horizon: float,
    paint: NDArray[np.float64],
    sky: NDArray[np.float64],
) -> None:
    second = random.choice([(0.06, 0.06, 0.07), (0.92, 0.92, 0.91), (0.5, 0.5, 0.52)])
    plastic = random.random() < 0.3
    finish = Finish(
        paint,
        second,
        sky,
        gloss=random.uniform(0.2, 1.0),
        glass=np.array((0.12, 0.15, 0.18)) * random.uniform(0.5, 1.6),
        rims=hsv(0, 0, random.uniform(0.15, 0.75)),
        bumpers=(0.15, 0.15, 0.16) if plastic else mix(paint, (0, 0, 0), 0.12),
    )
    ground = random.uniform(0.1, max(0.12, horizon - 0.12))
    if random.random() < 0.22:
        width = random.uniform(0.36, 0.6)
        pose = Pose(random.uniform(0.5, 1.0 - width + 0.5) - 0.5, ground, width)
        plate = random.choice([(0.9, 0.9, 0.88), (0.85, 0.75, 0.25)])
        tall = random.uniform(0.7, 0.95)
        draw_end(Painter(canvas, pose, finish), tall, bool(random.random() < 0.5), plate)
        return
    kind = str(random.choice(list(PROFILES)))
    length = PROFILES[kind].size * random.uniform(0.75, 1.12)
    left = random.uniform(-0.05, 1.05 - length) if length < 1.05 else 0.0
    facing_left = random.random() < 0.5
    pose = Pose(
        left + length if facing_left else left,
        ground,
        -length if facing_left else length,
        nearer=random.uniform(-0.25, 0.25),
        slope=random.uniform(-0.05, 0.05),
    )
    stripe, two_tone, panel_van = random.random(3) < (0.08, 0.15, 0.6)
    draw_side(Painter(canvas, pose, finish), kind, bool(stripe), bool(two_tone), bool(panel_van))


def _lit(image: Image.Image, random: Generator) -> NDArray[np.uint8]:
    """Apply random lighting and camera effects; returns shape (H, W, 3)."""
    if random.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.4, 1.3)))
    pixels = np.asarray(image, np.float32) / 255
    height, width, _ = pixels.shape
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None]
    pixels = pixels * (1 + random.normal(0, 0.1) * across + random.normal(0, 0.1) * down)
    if random.random() < 0.2:  # the shade of something behind the camera
        edge, tilt = random.uniform(-0.6, 0.6), random.uniform(-0.6, 0.6)
        shade = random.uniform(0.45, 0.75)
        pixels = np.where(across + tilt * down < edge, shade * pixels, pixels)
    dim = random.random() < 0.2
    brightness = random.uniform(0.3, 0.6) if dim else random.uniform(0.65, 1.2)
    pixels = pixels * (brightness * _cast(random)).astype(np.float32)
    if random.random() < 0.15:
        haze = random.uniform(0.1, 0.35)
        pixels = (1 - haze) * pixels + haze * 0.75
    noise = random.uniform(0.005, 0.05)
    pixels = pixels + noise * random.standard_normal(pixels.shape, np.float32)
    return (255 * pixels.clip(0, 1)).astype(np.uint8)


def _cast(random: Generator) -> NDArray[np.float64]:
    """Random strength of red, green and blue in the light."""
    if random.random() < 0.12:
        casts = [(1.2, 0.88, 0.55), (0.7, 0.88, 1.2), (0.85, 1.1, 0.85)]  # lamps, dusk, tubes
        return np.array(random.choice(casts))
    warmth, tint = random.normal(0, 0.08), random.normal(0, 0.04)
    return np.array([1 + warmth, 1 - tint, 1 - warmth])


def _draw_once(count: int, size: int) -> NDArray[np.uint8]:
    path = cache_folder() / f"vehicles-{DRAWING}-{count}-{size}.npz"
    kept = _read(path, (count, 3, size, size))
    if kept is not None:
        return kept
    pixels = np.empty((count, 3, size, size), np.uint8)
    for index in show_progress(range(count), count, "Drawing vehicles"):
        pixels[index] = render_vehicle(index, size)
    content = io.BytesIO()
    np.savez(content, pixels=pixels)
    try:
        write_atomically(path, content.getvalue())
    except StudyError as error:
        warnings.warn(f"the vehicles will be drawn again next time: {error}", stacklevel=2)
    return pixels


def _read(path: Path, shape: tuple[int, int, int, int]) -> NDArray[np.uint8] | None:
    """Read the cache; None if it is missing or unusable."""
    try:
        # Opened here, because np.load does not close a file that is not an archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            pixels: NDArray[np.uint8] = kept["pixels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return pixels if pixels.shape == shape and pixels.dtype == np.uint8 else None
