"""Learning-rate schedules, batch by batch."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Schedule = Literal["cosine", "one-cycle", "constant"]


def learning_rates(
    schedule: Schedule, peak: float, batches: int, warm_up: float
) -> NDArray[np.float64]:
    """The learning rate of each batch, shape (batches,).

    Args:
        schedule: what follows the warm-up: "cosine" falls to 0 as half a cosine, "constant" stays;
            "one-cycle" also rises as half a cosine, then falls as one.
        peak: largest learning rate.
        batches: number of batches.
        warm_up: share of the batches in which the rate rises, 0 to 1.

    Source: Loshchilov & Hutter, SGDR, ICLR 2017; Smith & Topin, Super-Convergence, 2018; for
    fine-tuning after pruning: Le & Hua, Network Pruning That Matters, ICLR 2021.
    """
    rising = min(round(warm_up * batches), max(0, batches - 1))
    # Rates are above 0 in the first and the last batch too.
    rise = (np.arange(rising) + 1) / (rising + 1)
    fall = np.arange(batches - rising) / max(1, batches - rising)
    if schedule == "one-cycle":
        rise = (1 - np.cos(np.pi * rise)) / 2
    rest = np.ones_like(fall) if schedule == "constant" else (1 + np.cos(np.pi * fall)) / 2
    rates: NDArray[np.float64] = peak * np.concatenate([rise, rest])
    return rates
