"""Where a study is, as plain data: with the values of its model, all that is needed to go on."""

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
    """Where a study is: with the values of the model, all that is needed to go on.

    Attributes:
        stage: what comes next.
        round: number of the round; 0 is dense training.
        batch: batches of training so far, all rounds together.
        done: batches of this stage.
        best: accuracy of the stage's best evaluation; the lowest of all numbers if there was none.
        best_loss: its loss.
        best_batch: where it was.
        best_is_average: whether it was of the average of the weights; see ``Training.ema``.
        dense_accuracy: on the validation data; None until known.
        result_round: round of the smallest model within the tolerance so far.
        result_accuracy: its accuracy.
        misses: rounds in a row that did not recover.
        proof: of the latest cut, as plain data.
        result_proof: of the result's cut.
        ending: why the study ends after this stage, if that is known already.
        ended_by: the settings of its end that were in force when it ended; others go on from there.
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
    # JSON knows no tuples.
    return Proof(**{**position.result_proof, "inexact": tuple(position.result_proof["inexact"])})
