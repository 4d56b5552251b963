"""Duration and learning rates of each stage of a study, and the rewind point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateurs.settings.pruning import Pruning
from secateurs.settings.training import Training
from secateurs.training.schedules import learning_rates

_SHORT = 0.2
"""Factor on the dense model's learning rate for rounds shorter than an epoch."""
_REPAIRED = 0.3
"""Further factor for rounds that begin with a repair."""


@dataclass(frozen=True, slots=True)
class TrainingSchedule:
    """Batches and learning rates of a study.

    Attributes:
        training: settings of training.
        pruning: whether rounds rewind, and to what.
        batches_an_epoch: number of batches in an epoch of training.
    """

    training: Training
    pruning: Pruning
    batches_an_epoch: int

    @property
    def evaluate_every(self) -> int:
        """Number of batches between evaluations."""
        return self.training.evaluate_every or self.batches_an_epoch

    @property
    def dense_rates(self) -> NDArray[np.float64]:
        """The learning rate of each batch of dense training, shape (batches,)."""
        training = self.training
        return learning_rates(
            training.schedule, training.learning_rate, training.batches, training.warm_up
        )

    @property
    def round_rates(self) -> NDArray[np.float64]:
        """The learning rate of each batch of a round, shape (batches,)."""
        if self.pruning.rewind:
            return self.dense_rates[self.rewind_to :]
        return fine_tuning_rates(
            self.training, self.batches_an_epoch, repaired=bool(self.pruning.repair)
        )

    @property
    def rewinds_weights(self) -> bool:
        """Whether rounds rewind the weights, and not just the learning rates."""
        return self.pruning.rewinds_weights

    @property
    def rewind_to(self) -> int:
        """Batch of dense training that rounds are rewound to."""
        if self.pruning.rewind == "lottery":
            return 0
        batches = self.training.fine_tune_batches or self.batches_an_epoch
        return max(0, self.training.batches - batches)


def fine_tuning_rates(
    training: Training, batches_an_epoch: int, *, repaired: bool = False
) -> NDArray[np.float64]:
    """Learning rate of each batch of fine-tuning after a cut, shape (batches,).

    After a repair the model is near the dense one, and large steps would undo that before they
    learn anything: see ``docs/results.md``, "Training a round".

    Args:
        training: settings of training.
        batches_an_epoch: number of batches in an epoch of training.
        repaired: whether the cut was repaired.
    """
    batches = training.fine_tune_batches or batches_an_epoch
    peak = training.fine_tune_learning_rate
    if peak is None:
        peak = training.learning_rate * (_SHORT if batches < batches_an_epoch else 1.0)
        peak *= _REPAIRED if repaired else 1.0
    return learning_rates(training.schedule, peak, batches, training.warm_up)
