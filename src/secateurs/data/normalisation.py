"""Preprocessing of images for a model: normalisation, size and crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from secateurs.arguments import takes_as_annotated
from secateurs.data.sets import Data, Floats32
from secateurs.errors import DataError, nearest

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
NAMES = ("data", "imagenet", "none")
HALF = (0.5, 0.5, 0.5)
"""Mean and standard deviation of Inception and most vision transformers."""

_BRIGHTEST = 255.0


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Preprocessing that a model expects.

    Attributes:
        mean: mean for each channel, for pixels in [0, 1].
        std: standard deviation for each channel.
        size: height and width in pixels.
        crop: share of the resized image's shorter side that the middle crop keeps, in (0, 1].
        source: where these values are from, for messages.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int | None = None
    crop: float = 1.0
    source: str = ""

    @property
    def as_text(self) -> str:
        """The format MEAN/STD that ``renormalise`` reads."""
        return f"{_join_numbers(self.mean)}/{_join_numbers(self.std)}"

    def __str__(self) -> str:
        size = "" if self.size is None else f", {self.size} x {self.size} pixels"
        crop = "" if self.crop == 1 else f", the middle {self.crop:g}"
        mean, std = _join_numbers(self.mean), _join_numbers(self.std)
        return f"mean {mean}, std {std}{size}{crop} ({self.source})"


@takes_as_annotated(DataError)
def renormalise(data: Data, how: str) -> Data:
    """Normalise data in another way.

    Args:
        data: the data set.
        how: "data" uses the training pixels' own mean and standard deviation; "imagenet" those of
            torchvision's models and most others; "none" gives pixels in [0, 1]; or MEAN/STD, such
            as "0.5/0.5" or "0.48,0.46,0.41/0.27,0.26,0.28", by channel, for pixels in [0, 1].

    Raises:
        DataError: ``how`` is something else.

    Example:
        >>> import numpy as np
        >>> from secateurs import data
        >>> pixels = np.full((8, 3, 4, 4), 255, np.uint8)
        >>> mine = data.from_arrays(train=(pixels, np.arange(8) % 2))
        >>> images, _ = renormalise(mine, "0.5/0.25").train.batch([0])
        >>> float(images.max())
        2.0
    """
    if how == "data":
        return data
    mean, std = _mean_and_std(how)
    return with_mean_and_std(data, mean, std)


normalised = renormalise  # former name, kept for users' code


@takes_as_annotated(DataError)
def with_mean_and_std(data: Data, mean: Sequence[float], std: Sequence[float]) -> Data:
    """Normalise data with this mean and std, for pixels in [0, 1], by channel or for all."""
    channels = data.shape[0]
    # Pixels stored as bytes are normalised as bytes; others are on the user's own scale.
    scale = _BRIGHTEST if data.train.pixels.dtype == np.uint8 else 1.0
    by_channel = _by_channel(mean, channels, "mean"), _by_channel(std, channels, "std")
    return data.rescale(by_channel[0] * scale, by_channel[1] * scale)


def check(how: str) -> None:
    """Raise ``DataError`` unless ``how`` is valid for ``renormalise``."""
    if how != "data":
        _mean_and_std(how)


def _by_channel(values: Sequence[float], channels: int, name: str) -> Floats32:
    if len(values) == 1:
        values = [*values] * channels
    if len(values) != channels and channels == 1:  # grey images in a colour model's terms
        values = [float(np.mean(values))]
    if len(values) != channels:
        raise DataError(
            f"normalise: expected one {name}, or {channels}, one a channel; received {len(values)}"
        )
    return np.asarray(values, np.float32)


def _mean_and_std(how: str) -> tuple[Sequence[float], Sequence[float]]:
    if how == "imagenet":
        return IMAGENET_MEAN, IMAGENET_STD
    if how == "none":
        return (0.0,), (1.0,)
    mean, slash, std = how.partition("/")
    try:
        pair = [[float(part) for part in side.split(",")] for side in (mean, std)]
    except ValueError:
        pair = []
    if not slash or not pair or not np.isfinite(np.concatenate(pair)).all() or min(pair[1]) <= 0:
        raise DataError(
            "normalise: expected data, imagenet, none, or MEAN/STD of pixels in [0, 1], such as "
            f"0.5,0.5,0.5/0.25,0.25,0.25; received {how!r}{nearest(how, NAMES)}"
        )
    return pair[0], pair[1]


def _join_numbers(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)
