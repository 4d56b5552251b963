"""How well a model does on calibration images, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from secateurs.calibration.batches import CalibrationBatch
from secateurs.errors import DataError

Judgement = tuple[NDArray[np.float64], NDArray[np.bool_] | None]
"""(the loss of each image, which are put into the right class; None where labels are no classes)"""


def judge_batches(
    images: Iterable[CalibrationBatch], judge: Callable[[CalibrationBatch], Judgement]
) -> tuple[NDArray[np.float64], float | None]:
    """(the loss of each image, the share put into the right class) of all batches.

    Args:
        images: at least one batch.
        judge: a model, by batch.

    Returns:
        None in the place of the share where no batch has labels that are classes.

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
    """Refuse a dense model whose losses are no numbers: nothing can be told from a change of them.

    Raises:
        DataError: with how many are, and the first.
    """
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad):
        raise DataError(
            f"{caller}: expected finite losses of the dense model; received {losses[bad[0]]} for "
            f"{len(bad)} of {len(losses)} examples, the first of them number {bad[0]}. A loss over "
            "no label at all is none, and neither is one of inputs that hold NaN."
        )
