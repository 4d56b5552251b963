"""Splitting of calibration images into those for fitting, for choosing and for judging.

Images from one source (crops of one photograph, frames of one recording) resemble each other. If
the judging part had images from the same sources as the fitting part, it could not detect a fit
that holds for these sources only. So if the user says which source each image comes from, all
images of a source go into the same part.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.padding import is_text
from secateurs.calibration.peers import ALONE, Peers, can_share, own_part
from secateurs.channels.arrays import Floats
from secateurs.errors import DataError

JUDGING = 1 / 8
"""Share of the images that is held out to judge the result."""

CHOOSING = 7 / 40
"""Share of the images on which ridges are chosen and error curves are measured."""

LEAST_IMAGES = 4
FEW_IMAGES = 64
ENOUGH_IMAGES = 512
AT_A_TIME = 128


@dataclass(frozen=True, eq=False, slots=True)
class Calibration:
    """Images in three parts that share no source.

    Attributes:
        fit: images that sums are collected over.
        choose: images that ridges are chosen on.
        judge: images that no layer is fitted to or chosen by; the final guard uses them.
    """

    fit: CalibrationBatch
    choose: CalibrationBatch
    judge: CalibrationBatch

    def __len__(self) -> int:
        return len(self.fit) + len(self.choose) + len(self.judge)

    def own_part(self, peers: Peers) -> tuple[Calibration, Peers]:
        """(this process's images of each part, the processes to sum over).

        Every process takes all images, alone, if a part has fewer images than there are processes.
        """
        parts = (self.fit, self.choose, self.judge)
        if peers.count == 1 or not all(can_share([len(part)], peers) for part in parts):
            return self, ALONE
        return Calibration(*(part.rows(own_part(len(part), peers)) for part in parts)), peers

    @property
    def curves(self) -> CalibrationBatch:
        """Images that the sums have not seen."""
        return join_batches([self.judge, self.choose])

    @classmethod
    def of_batches(
        cls,
        images: Sequence[CalibrationBatch],
        *,
        sources: Sequence[Any] | NDArray[Any] | None = None,
        seed: int = 0,
        caller: str = "repair",
    ) -> Calibration:
        """Split images from ``secateurs.calibration.batches``, with or without labels.

        Args:
            images: checked batches.
            sources: source of each image; None takes every image as its own source.
            seed: seed of the random split.
            caller: name of the caller, for messages.

        Raises:
            DataError: there are too few images, or too few sources.

        Warns:
            UserWarning: there are few images, or all are the same.
        """
        everything = join_batches(images)
        if len(everything) < LEAST_IMAGES:
            raise DataError(
                f"{caller}: expected at least {LEAST_IMAGES} calibration images, some for fitting "
                f"and others for evaluation; received {len(everything)}. {ENOUGH_IMAGES} are "
                "plenty; labels are not needed."
            )
        _warn_of(everything, caller)
        return cls._split(everything, sources, seed, caller)

    @classmethod
    def _split(
        cls, everything: CalibrationBatch, sources: Any, seed: int, caller: str
    ) -> Calibration:
        count = len(everything)
        names = np.arange(count) if sources is None else np.asarray(sources)
        if names.shape != (count,):
            raise DataError(
                f"{caller}: expected one source for each of {count} images; received an array of "
                f"shape {names.shape}"
            )
        _, of = np.unique(names, return_inverse=True)
        number = int(of.max()) + 1
        if number < 3:
            raise DataError(
                f"{caller}: expected images of at least 3 sources, for fitting, selection and "
                f"evaluation; received {number}. Leave sources= out to split by image."
            )
        order = np.random.default_rng(seed).permutation(number)
        judging = max(1, round(number * JUDGING))
        choosing = max(1, round(number * CHOOSING))
        parts = np.split(order, [judging, judging + choosing])
        judge, choose, fit = (everything.rows(np.flatnonzero(np.isin(of, part))) for part in parts)
        return cls(fit, choose, judge)


def join_batches(parts: Sequence[CalibrationBatch]) -> CalibrationBatch:
    """Concatenate several batches."""
    labels = [part.labels for part in parts if part.labels is not None]
    together = np.concatenate(labels) if len(labels) == len(parts) else None
    return CalibrationBatch(_join([part.images for part in parts]), together)


def _join(images: Sequence[Any]) -> Any:
    first = images[0]
    if isinstance(first, Mapping):
        return {key: np.concatenate([one[key] for one in images]) for key in first}
    if isinstance(first, tuple):
        return tuple(np.concatenate(arrays) for arrays in zip(*images, strict=True))
    return np.concatenate(images)


def in_batches(batch: CalibrationBatch, size: int = AT_A_TIME) -> list[CalibrationBatch]:
    """Split a batch into smaller ones."""
    return [batch.rows(slice(start, start + size)) for start in range(0, len(batch), size)]


def example_from(data: Any) -> tuple[Any, Any]:
    """(an example input, the data) of calibration data without a separate example.

    Data that can be iterated only once are stored in a list.
    """
    if not hasattr(data, "shape") and not isinstance(data, (Mapping, tuple, list, str)):
        if hasattr(data, "batch"):
            return data.batch(slice(0, 1))[0], data
        if not isinstance(data, Iterable):
            raise DataError(f"expected calibration data; received {type(data).__name__}")
        data = list(data)
    first = data[0] if isinstance(data, list) and data else data
    if isinstance(first, (tuple, list)) and len(first) == 2 and getattr(first[1], "ndim", 2) < 2:
        first = first[0]  # drop the labels
    if isinstance(first, Mapping):
        return {key: value[:1] for key, value in first.items()}, data
    if isinstance(first, (tuple, list)):
        return tuple(value[:1] for value in first), data
    return first[:1], data


def furthest_from_training(
    seen: Mapping[str, Sequence[tuple[Floats, int]]], trained: Mapping[str, tuple[Floats, Floats]]
) -> tuple[float, str] | None:
    """How far images are from what batch normalisation saw in training, and in which layer.

    Args:
        seen: layer -> (sums over values per channel, number of values) for each batch.
        trained: layer -> (moving mean, moving variance plus epsilon), each of shape (channels,).

    Returns:
        (distance, layer) of the layer with the largest distance: the mean over channels of the
        squared difference of means, relative to the variance. None where nothing was seen.
    """
    found = []
    for layer, parts in seen.items():
        mean = sum(total for total, _ in parts) / sum(count for _, count in parts)
        moving, spread = trained[layer]
        found.append((float(np.mean(np.square(mean - moving) / spread)), layer))
    return max(found, default=None)


def _warn_of(images: CalibrationBatch, caller: str) -> None:
    kind = _kind_of(images)
    if len(images) < FEW_IMAGES:
        judges = max(1, round(len(images) * JUDGING))
        warnings.warn(
            f"{caller}: {len(images)} calibration {kind} are few: weights are fitted to "
            f"them, and only {judges} of them evaluate the result. Labels are not needed"
            f"{_enough(kind)}.",
            UserWarning,
            stacklevel=4,
        )
    if all((array == array[:1]).all() for array in images.arrays):
        warnings.warn(
            f"{caller}: all {len(images)} calibration {kind} are identical, so they say nothing "
            f"about the outputs for others. Pass {kind} like those that the network will see.",
            UserWarning,
            stacklevel=4,
        )


def _enough(kind: str) -> str:
    """How many would be enough, as measured; nothing is known of texts."""
    if kind == "texts":
        return ": any texts of the kind that the model will read will do"
    return f": {ENOUGH_IMAGES} came within half a point of 2,048 on Fashion-MNIST"


def _kind_of(images: CalibrationBatch) -> str:
    """What to call the data: texts if they are rows of integers."""
    return "texts" if any(map(is_text, images.arrays)) else "images"
