"""Loss and accuracy of a model on calibration images, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from secateurs.calibration.batches import CalibrationBatch
from secateurs.errors import DataError

Judgement = tuple[NDArray[np.float64], NDArray[np.bool_] | None]
"""(loss of each image, which are classified right; None where labels are not classes)"""


def judge_batches(
    images: Iterable[CalibrationBatch], judge: Callable[[CalibrationBatch], Judgement]
) -> tuple[NDArray[np.float64], float | None]:
    """(loss of each image, accuracy) over all batches.

    Args:
        images: at least one batch.
        judge: function that evaluates a model on a batch.

    Returns:
        None in place of the accuracy if no batch has labels that are classes.

    Example:
        >>> batch = CalibrationBatch(np.zeros((2, 4)), np.array([0, 1]))
        >>> judge_batches([batch], lambda _: (np.array([0.1, 2.0]), np.array([True, False])))
        (array([0.1, 2. ]), 0.5)
    """
    losses: list[NDArray[np.float64]] = []
    right = counted = 0
    for batch in images:
        loss, hits = judge(batch)
        losses.append(loss)
        if hits is not None:
            right, counted = right + int(hits.sum()), counted + len(hits)
    return np.concatenate(losses), right / counted if counted else None


def check_finite_losses(caller: str, losses: NDArray[np.float64]) -> None:
    """Check that a dense model's losses are finite, since changes would be meaningless otherwise.

    Raises:
        DataError: some are not; the message says how many and which is the first.
    """
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad):
        raise DataError(
            f"{caller}: expected finite losses of the dense model; received {losses[bad[0]]} for "
            f"{len(bad)} of {len(losses)} examples, the first of them number {bad[0]}. A loss "
            "over no labels is undefined, and so is the loss of inputs that contain NaN."
        )
