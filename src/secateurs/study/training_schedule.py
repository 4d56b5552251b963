"""How long each stage of a study trains, at which learning rates, and where rounds go back to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateurs.settings.pruning import Pruning
from secateurs.settings.training import Training
from secateurs.training.schedules import learning_rates

_SHORT = 0.2
"""Of the dense model's learning rate, where a round is shorter than an epoch."""
_REPAIRED = 0.3
"""Of what it would be otherwise, where a round begins with a repair."""


@dataclass(frozen=True, slots=True)
class TrainingSchedule:
    """The batches and learning rates of a study.

    Attributes:
        training: how to train.
        pruning: whether rounds go back, and to what.
        batches_an_epoch: of the training data.
    """

    training: Training
    pruning: Pruning
    batches_an_epoch: int

    @property
    def evaluate_every(self) -> int:
        """Batches from one look at the validation data to the next."""
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
        """Whether rounds go back to earlier weights, and not to earlier learning rates alone."""
        return self.pruning.rewinds_weights

    @property
    def rewind_to(self) -> int:
        """The batch of dense training that rounds go back to."""
        if self.pruning.rewind == "lottery":
            return 0
        batches = self.training.fine_tune_batches or self.batches_an_epoch
        return max(0, self.training.batches - batches)


def fine_tuning_rates(
    training: Training, batches_an_epoch: int, *, repaired: bool = False
) -> NDArray[np.float64]:
    """The learning rate of each batch of training after a cut, shape (batches,).

    What a repair left is near the dense model, and large steps throw it away before they learn
    anything: see ``docs/results.md``, "Training a round".

    Args:
        training: how to train.
        batches_an_epoch: of the training data.
        repaired: whether the cut's weights were fitted.
    """
    batches = training.fine_tune_batches or batches_an_epoch
    peak = training.fine_tune_learning_rate
    if peak is None:
        peak = training.learning_rate * (_SHORT if batches < batches_an_epoch else 1.0)
        peak *= _REPAIRED if repaired else 1.0
    return learning_rates(training.schedule, peak, batches, training.warm_up)
