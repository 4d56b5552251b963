"""Augmented copies of calibration images, which weights are fitted to besides the images.

Layers with more inputs than there are rows to fit them to (a long kernel, the last layers of a
small network) are fitted better on more images; changed ones are more images. The images by which
ridges, widths and the result are chosen stay as they are, so what a change costs that the model
does not know is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from secateurs.calibration.batches import CalibrationBatch, match_types
from secateurs.errors import DataError
from secateurs.reconstruction.calibration import in_batches, join_batches
from secateurs.training.distillation import ImageChange, change_of
from secateurs.training.feed import Augmentation

MOST_COPIES = 100
_RANDOM = 14
_AT_A_TIME = 32
"""Images changed by one call: what a function draws for a batch (a pitch) is drawn so often."""


@dataclass(frozen=True, slots=True)
class AugmentedCopies:
    """How many changed copies of each image there are, and how they are changed.

    Attributes:
        count: copies of each image that is fitted.
        augmentation: how each is changed.
    """

    count: int
    augmentation: Augmentation | ImageChange

    @classmethod
    def parse(
        cls, count: int, augmentation: Augmentation | ImageChange | None
    ) -> AugmentedCopies | None:
        """The copies that were asked for; None for none.

        Raises:
            DataError: there are too many, or nothing says how images are changed.
        """
        if not count:
            return None
        if count > MOST_COPIES:
            raise DataError(
                f"copies: expected at most {MOST_COPIES} of each image; received {count}"
            )
        if augmentation is None or (isinstance(augmentation, Augmentation) and not augmentation):
            raise DataError(
                f"copies={count}: expected augmentation=, how copies differ from the images; "
                "received none. Such as augmentation=secateurs.Augmentation(flip=True)."
            )
        return cls(count, augmentation)

    def add(
        self, images: CalibrationBatch, seed: tuple[int, ...], *, channels_last: bool = False
    ) -> CalibrationBatch:
        """The images and, after them, the copies; labels are left out.

        Args:
            images: images as the model takes them.
            seed: seed of the changes.
            channels_last: whether images have shape (N, H, W, C).

        Raises:
            DataError: an ``Augmentation`` is given for data of another shape, or a function
                returns data of another shape.
        """
        change = change_of(
            self.augmentation, images.images, channels_last=channels_last, caller="copies"
        )
        assert change is not None  # noqa: S101 - parse refuses an empty augmentation
        parts = [CalibrationBatch(images.images, None)]
        for version in range(self.count):
            random = np.random.default_rng([_RANDOM, *seed, version])
            order = images.rows(random.permutation(len(images)))
            for part in in_batches(order, _AT_A_TIME):
                made: Any = change(part.images, random)
                parts.append(CalibrationBatch(match_types(made, part.images, "copies"), None))
        return join_batches(parts)
