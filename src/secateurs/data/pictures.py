"""Images from files, and images of another size."""

from __future__ import annotations

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
    """An image file as RGB pixels, shape (3, size, size).

    The shorter side is scaled to ``size / crop``, and the middle is kept.

    Args:
        path: the file.
        size: height and width of what is kept, in pixels.
        crop: which share of the shorter side that is, in (0, 1].

    Raises:
        DataError: the file cannot be read as an image.
    """
    whole = round(size / crop)
    try:
        with Image.open(path) as image:
            image.draft(
                "RGB", (2 * whole, 2 * whole)
            )  # lets a large JPEG decode at less than full size
            upright = ImageOps.exif_transpose(image)
            fitted = ImageOps.fit(_as_rgb(upright), (whole, whole), Image.Resampling.BILINEAR)
            edge = (whole - size) // 2
            fitted = fitted.crop((edge, edge, edge + size, edge + size))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path}: expected an image; it cannot be read ({error}). Repair it, or take it out."
        ) from error
    return np.asarray(fitted).transpose(2, 0, 1)


def resize(pixels: Pixels, size: int | None) -> Pixels:
    """Grey images of shape (N, 1, H, W) scaled to (N, 1, size, size); as they are where None."""
    if size is None or pixels.shape[2:] == (size, size):
        return pixels
    out = np.empty((len(pixels), 1, size, size), pixels.dtype)
    for number, (grey,) in enumerate(pixels):
        out[number, 0] = Image.fromarray(grey).resize((size, size), Image.Resampling.BILINEAR)
    return out


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which convert() would clip to white
        levels = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P":
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")
