"""Where a study is, and where it keeps what it must not lose."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, Protocol

from secateurs.channels.cut import Cut
from secateurs.channels.proof import Proof
from secateurs.study.history import History
from secateurs.training.learner import Snapshot

Name = Literal["dense", "rewind", "best"]


class Stage(StrEnum):
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
        best: accuracy of the stage's best evaluation; below 0 if there was none.
        best_loss: its loss.
        best_batch: where it was.
        dense_accuracy: on the validation data; None until known.
        result_round: round of the smallest model within the tolerance so far.
        result_accuracy: its accuracy.
        misses: rounds in a row that did not recover.
        proof: of the latest cut, as plain data.
        result_proof: of the result's cut.
    """

    stage: Stage = Stage.DENSE
    round: int = 0
    batch: int = 0
    done: int = 0
    best: float = -1.0
    best_loss: float = sys.float_info.max
    best_batch: int = 0
    dense_accuracy: float | None = None
    result_round: int = 0
    result_accuracy: float = 0.0
    misses: int = 0
    proof: Mapping[str, Any] | None = None
    result_proof: Mapping[str, Any] | None = None


class CheckpointStore(Protocol):
    """Where a study keeps what it must not lose."""

    @property
    def history(self) -> History:
        """What happened."""
        ...

    def keep(self, name: Name, snapshot: Snapshot) -> None:
        """Keep a model, in place of an earlier one of that name."""
        ...

    def fetch(self, name: Name) -> Snapshot:
        """A model that was kept."""
        ...

    def keep_cut(self, number: int, cut: Cut) -> None:
        """Keep the cut that a round made of the model before it."""
        ...

    def checkpoint(
        self, position: Position, present: Callable[[], Snapshot], best: Snapshot | None
    ) -> None:
        """Keep what is needed to go on from here. All else that is kept follows from it."""
        ...

    def resume(self) -> tuple[Position, Snapshot, Snapshot | None] | None:
        """What the latest ``checkpoint`` kept, if there was one."""
        ...


class InMemoryStore:
    """A journal that nothing of is left when the process ends."""

    def __init__(self) -> None:
        self._history = History()
        self._kept: dict[Name, Snapshot] = {}

    @property
    def history(self) -> History:
        return self._history

    def keep(self, name: Name, snapshot: Snapshot) -> None:
        self._kept[name] = snapshot

    def fetch(self, name: Name) -> Snapshot:
        return self._kept[name]

    def keep_cut(self, number: int, cut: Cut) -> None:
        pass

    def checkpoint(
        self, position: Position, present: Callable[[], Snapshot], best: Snapshot | None
    ) -> None:
        pass

    def resume(self) -> None:
        return None


def last_proof(position: Position) -> Proof | None:
    """The proof of the cut that made the study's result."""
    if position.result_proof is None:
        return None
    # JSON knows no tuples.
    return Proof(**{**position.result_proof, "inexact": tuple(position.result_proof["inexact"])})
