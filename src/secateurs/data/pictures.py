"""Reading and resizing of image files."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from secateurs.data.sets import Pixels
from secateurs.errors import DataError

SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)


def read_picture(path: Path, size: int, crop: float = 1.0) -> NDArray[np.uint8]:
    """Read an image file as RGB pixels, shape (3, size, size).

    The shorter side is scaled to ``size / crop``, and the middle is cropped.

    Args:
        path: path of the file.
        size: height and width of the crop, in pixels.
        crop: share of the resized shorter side that the crop keeps, in (0, 1].

    Raises:
        DataError: the file cannot be read as an image.
        DataError: the file cannot be read as an image.
    """
    whole = round(size / crop)
    try:
        with Image.open(path) as image, _alone_if_large(image):
            fitted = fit_square(image, whole)
            edge = (whole - size) // 2
            fitted = fitted.crop((edge, edge, edge + size, edge + size))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path}: expected an image; it cannot be read ({error}). Repair or remove it."
        ) from error
    return np.asarray(fitted).transpose(2, 0, 1)


MANY_PIXELS = 32_000_000
"""Larger images are decoded one at a time, because decoding takes four bytes per pixel."""

ORIENTATION = 0x0112
"""EXIF tag of the camera's orientation."""

_ONE_LARGE = threading.Lock()


def _alone_if_large(image: Image.Image) -> contextlib.AbstractContextManager[object]:
    is_large = image.width * image.height > MANY_PIXELS
    return _ONE_LARGE if is_large else contextlib.nullcontext()


def fit_square(image: Image.Image, size: int) -> Image.Image:
    """The middle square in RGB, upright and resized; the whole image is held in memory once."""
    image.draft("RGB", (2 * size, 2 * size))  # lets large JPEGs be decoded at reduced size
    turned = image.getexif().get(ORIENTATION, 1)
    plain = image if image.mode in ("RGB", "L") else _as_rgb(image)  # these modes can be resized
    fitted = ImageOps.fit(plain, (size, size), Image.Resampling.BILINEAR).convert("RGB")
    # A central square may be rotated after cropping as well as before, and it is small by then.
    fitted.getexif()[ORIENTATION] = turned
    return ImageOps.exif_transpose(fitted)


def resize(pixels: Pixels, size: int | None) -> Pixels:
    """Resize grey images of shape (N, 1, H, W) to (N, 1, size, size); None leaves them as is."""
    if size is None or pixels.shape[2:] == (size, size):
        return pixels
    out = np.empty((len(pixels), 1, size, size), pixels.dtype)
    for number, (grey,) in enumerate(pixels):
        out[number, 0] = Image.fromarray(grey).resize((size, size), Image.Resampling.BILINEAR)
    return out


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):  # convert() would clip to black or white
        return Image.fromarray(_as_bytes(np.asarray(image))).convert("RGB")
    if image.mode == "P":
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _as_bytes(levels: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Convert grey levels of 16 bits or floats to 8 bits.

    The scale is inferred from the largest value: 1 (floats), 255 or 65,535.
    """
    least, largest = float(np.nanmin(levels)), float(np.nanmax(levels))
    if least < 0 or largest > 65_535 or not np.isfinite(levels).all():
        raise ValueError(
            f"expected grey levels from 0 to 1, 255 or 65,535; received {least:g} to {largest:g}"
        )
    if levels.dtype.kind == "f":
        factor = 255.0 if largest <= 1 else 1.0 if largest <= 255 else 255 / 65_535
        return (levels.astype(np.float32) * np.float32(factor) + 0.5).astype(np.uint8)
    return (levels if largest <= 255 else levels.astype(np.int64) >> 8).astype(np.uint8)
