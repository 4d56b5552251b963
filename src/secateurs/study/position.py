"""The position of a study, as plain data: with the model's values, all that resuming needs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from secateurs.channels.proof import Proof


class StudyStage(StrEnum):
    """What a study does next."""

    DENSE = "dense"
    """Train the dense model."""
    CUT = "cut"
    """Stop, or cut and begin a round."""
    FINE_TUNE = "fine-tune"
    """Train the model of a round."""
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Position:
    """State of a study: with the model's values, all that is needed to resume.

    Attributes:
        stage: the next stage.
        round: number of the round; 0 is dense training.
        batch: number of training batches so far, over all rounds.
        done: number of batches done in this stage.
        best: accuracy of the stage's best evaluation; the lowest float if there was none.
        best_loss: loss of that evaluation.
        best_batch: batch of that evaluation.
        best_is_average: whether it used the average of the weights; see ``Training.ema``.
        dense_accuracy: the dense model's accuracy on validation data; None until known.
        result_round: round of the smallest model within the tolerance so far.
        result_accuracy: its accuracy.
        misses: number of consecutive rounds that did not recover.
        proof: proof of the latest cut, as plain data.
        result_proof: proof of the result's cut, as plain data.
        ending: why the study ends after this stage, if that is decided already.
        ended_by: stopping settings with which it ended; with others it can be extended.
    """

    stage: StudyStage = StudyStage.DENSE
    round: int = 0
    batch: int = 0
    done: int = 0
    best: float = -sys.float_info.max
    best_loss: float = sys.float_info.max
    best_batch: int = 0
    best_is_average: bool = False
    dense_accuracy: float | None = None
    result_round: int = 0
    result_accuracy: float = 0.0
    misses: int = 0
    proof: Mapping[str, Any] | None = None
    result_proof: Mapping[str, Any] | None = None
    ending: str | None = None
    ended_by: Mapping[str, Any] | None = None


def proof_of(position: Position) -> Proof | None:
    """The proof of the cut that made the study's result."""
    if position.result_proof is None:
        return None
    # JSON has no tuples.
    return Proof(**{**position.result_proof, "inexact": tuple(position.result_proof["inexact"])})
