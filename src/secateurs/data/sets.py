"""Data sets in memory: three splits of labelled images with their normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from secateurs.arguments import NAMES, SEED, TEXT, Kind, takes
from secateurs.data.splits import Indices, check_shares, draw_stratified, split_stratified
from secateurs.errors import DataError

Pixels = NDArray[np.uint8] | NDArray[np.float32]
Floats32 = NDArray[np.float32]

_PAIR = Kind(
    "a pair (images, labels)",
    lambda value: isinstance(value, tuple | list) and len(value) == 2,
    DataError,
)
VALUES_AT_A_TIME = 4_000_000
"""Number of pixels per step when a split's statistics are computed."""
_MOST_CHANNELS = 4


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set.

    Attributes:
        pixels: Images of shape (M, C, H, W), uint8 or float32, which other splits may share.
        rows: Which of them are this split's, shape (N,).
        labels: The class of each image of this split, int64, shape (N,).
        mean: Mean of the training split's pixels for each channel, shape (C,).
        std: Their standard deviation, shape (C,).
        channels_last: Whether ``batch`` puts the channels last, as most Keras models take them.
    """

    pixels: Pixels
    rows: Indices
    labels: Indices
    mean: Floats32
    std: Floats32
    channels_last: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: ArrayLike | slice) -> tuple[Floats32, Indices]:
        """Normalised images and their labels.

        Args:
            indices: Positions in this split, 0 to ``len(split) - 1``, or a slice.

        Returns:
            float32 images of shape (B, C, H, W), or (B, H, W, C) if the channels are last, and
            int64 labels of shape (B,).
        """
        chosen = indices if isinstance(indices, slice) else np.atleast_1d(np.asarray(indices))
        images = self.pixels[self.rows[chosen]].astype(np.float32)
        images -= self.mean[:, None, None]
        images /= self.std[:, None, None]
        if self.channels_last:
            images = np.ascontiguousarray(np.moveaxis(images, 1, -1))
        return images, self.labels[chosen]


@dataclass(frozen=True, eq=False)
class Data:
    """Labelled images, split.

    Attributes:
        name: Name as requested.
        classes: Names of the classes; label 0 is the first.
        shape: Shape of one image, (C, H, W).
        train: Training split.
        validation: Split for choosing models.
        test: Split for the final evaluation.
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    train: Split
    validation: Split
    test: Split

    def limit(self, limit: int, seed: int = 0) -> Data:
        """Keep a stratified subset of ``limit`` training images, for small studies.

        Images are normalised with the subset's statistics, since training sees nothing else.

        Raises:
            DataError: ``limit`` is less than the number of classes.
        """
        kept = draw_stratified(self.train.labels, limit, seed)
        if len(kept) == len(self.train):
            return self
        train = replace(self.train, rows=self.train.rows[kept], labels=self.train.labels[kept])
        return _normalise(replace(self, train=train))

    def rescale(self, mean: Floats32, std: Floats32) -> Data:
        """Normalise with this mean and std of the pixels, each of shape (C,)."""
        return self._with(mean=mean, std=std)

    def arrange(self, *, channels_last: bool) -> Data:
        """The same images with their channels last, or first; the pixels are shared."""
        return self._with(channels_last=channels_last)

    def _with(self, **changes: Any) -> Data:
        """The data with these attributes of each split changed."""
        splits = {part: getattr(self, part) for part in ("train", "validation", "test")}
        return replace(self, **{part: replace(one, **changes) for part, one in splits.items()})


@takes(
    train=_PAIR,
    validation=_PAIR.or_none(),
    test=_PAIR.or_none(),
    classes=NAMES.or_none(),
    name=TEXT,
    seed=SEED,
)
def from_arrays(
    train: tuple[Any, Any],
    validation: tuple[Any, Any] | None = None,
    test: tuple[Any, Any] | None = None,
    classes: Sequence[str] | None = None,
    *,
    name: str = "arrays",
    seed: int = 0,
) -> Data:
    """A data set from arrays.

    Args:
        train: Images of shape (N, C, H, W), or (N, H, W) for grey ones, uint8 or floating point;
            and their labels, whole numbers from 0, shape (N,).
        validation: The same; None takes 15 % of each class out of ``train``.
        test: The same.
        classes: The classes' names; None names them "0", "1", ...
        name: For messages and reports.
        seed: For what is taken out of ``train``.

    Raises:
        DataError: the arrays are empty, do not fit each other, hold NaN, or hold one class only.
    """
    parts = {"train": train, "validation": validation, "test": test}
    checked = {
        part: _check(f"{name}: {part}", *pair) for part, pair in parts.items() if pair is not None
    }
    if classes is None:
        highest = max(int(labels.max()) for _, labels in checked.values())
        classes = [str(label) for label in range(highest + 1)]
    return assemble(
        name,
        classes,
        checked["train"],
        checked.get("validation"),
        checked.get("test"),
        shares=(0.15, 0.15),
        seed=seed,
    )


def assemble(
    name: str,
    classes: Sequence[str],
    train: tuple[Pixels, Indices],
    validation: tuple[Pixels, Indices] | None = None,
    test: tuple[Pixels, Indices] | None = None,
    *,
    shares: tuple[float, float],
    seed: int,
    limit: int | None = None,
) -> Data:
    """A data set whose missing splits are taken out of the training images.

    Args:
        name: Name as requested.
        classes: The classes' names.
        train: Images of shape (N, C, H, W) and labels of shape (N,).
        validation: The same; None takes the first of ``shares`` out of ``train``.
        test: The same; None takes the second.
        shares: What to take out of ``train``, between 0 and 1.
        seed: For what is random.
        limit: Training images to keep, all where None.

    Raises:
        DataError: the shares leave nothing, or the labels do not fit the classes.
    """
    check_shares(*shares)
    pixels, labels = train
    parts = [part for part in (train, validation, test) if part is not None]
    _check_classes(name, classes, parts)
    rows = split_stratified(labels, 0 if validation else shares[0], 0 if test else shares[1], seed)
    blank = np.zeros(pixels.shape[1], np.float32)
    splits = []
    for part, own_rows in zip((None, validation, test), rows, strict=True):
        if part is None:
            split = Split(pixels, own_rows, labels[own_rows], blank, blank)
        else:
            split = Split(part[0], np.arange(len(part[1])), part[1], blank, blank)
        splits.append(split)
    shape = (pixels.shape[1], pixels.shape[2], pixels.shape[3])
    data = _normalise(Data(name, tuple(classes), shape, *splits))
    return data if limit is None else data.limit(limit, seed)


def _normalise(data: Data) -> Data:
    return data.rescale(*_mean_and_std(data.train))


def _mean_and_std(split: Split) -> tuple[Floats32, Floats32]:
    """Mean and std by channel, in blocks of rows: pixels may be a file larger than memory."""
    channels = split.pixels.shape[1]
    total, squares, count = np.zeros(channels), np.zeros(channels), 0
    rows = np.sort(split.rows)  # so that a memory-mapped file is read sequentially
    step = max(1, VALUES_AT_A_TIME // int(np.prod(split.pixels.shape[1:])))
    for start in range(0, len(rows), step):
        some = (
            split.pixels[rows[start : start + step]]
            .transpose(1, 0, 2, 3)
            .reshape(channels, -1)
            .astype(np.float64)
        )
        total += some.sum(axis=1)
        squares += np.einsum("cp,cp->c", some, some)
        count += some.shape[1]
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0)
    flat = variance <= 1e-12 * np.maximum(mean**2, 1e-12)  # a constant channel
    return mean.astype(np.float32), np.where(flat, 1, np.sqrt(variance)).astype(np.float32)


def _check(where: str, images: Any, labels: Any) -> tuple[Pixels, Indices]:
    """Convert the user's arrays to (N, C, H, W) pixels and int64 labels."""
    try:
        pixels, classes = np.asarray(images), np.asarray(labels)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged; a tensor with gradients
        raise DataError(
            f"{where}: expected two arrays, images and labels; {' '.join(str(error).split())}"
        ) from error
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    if pixels.ndim != 4:
        raise DataError(
            f"{where}: expected images of shape (N, C, H, W) or (N, H, W); received {pixels.shape}"
        )
    if pixels.shape[1] > _MOST_CHANNELS >= pixels.shape[3]:
        raise DataError(
            f"{where}: expected images of shape (N, C, H, W); received {pixels.shape}, which looks "
            "like (N, H, W, C): pass images.transpose(0, 3, 1, 2)"
        )
    if classes.shape != (len(pixels),) or len(pixels) == 0:
        raise DataError(
            f"{where}: expected at least one image, and as many labels as images; "
            f"received {len(pixels)} images and labels of shape {classes.shape}"
        )
    if classes.dtype.kind not in "iu":
        raise DataError(
            f"{where}: expected labels that are whole numbers from 0; received {classes.dtype}"
        )
    if classes.min() < 0:
        raise DataError(
            f"{where}: expected labels that are whole numbers from 0; received {classes.dtype} "
            f"from {classes.min()} to {classes.max()}"
        )
    if pixels.dtype != np.uint8:
        pixels = pixels.astype(np.float32)
        if not np.isfinite(pixels).all():
            raise DataError(f"{where}: expected finite pixels; received NaN or infinity")
    return pixels, classes.astype(np.int64)


def _check_classes(
    name: str, classes: Sequence[str], parts: Sequence[tuple[Pixels, Indices]]
) -> None:
    trained = np.unique(parts[0][1])
    if len(trained) < 2:
        raise DataError(f"{name}: expected at least two classes to train on; received one")
    for pixels, labels in parts:
        if pixels.shape[1:] != parts[0][0].shape[1:]:
            raise DataError(
                f"{name}: expected images of one shape; received {parts[0][0].shape[1:]} to train "
                f"on and {pixels.shape[1:]} elsewhere"
            )
        if labels.max() >= len(classes):
            raise DataError(
                f"{name}: expected labels below {len(classes)}, the number of classes; "
                f"received {labels.max()}"
            )
