"""State of a running study that its stages share."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from secateurs.study.checkpoints import CheckpointName, CheckpointStore
from secateurs.study.position import Position, StudyStage
from secateurs.training.callbacks import Watcher
from secateurs.training.learner import DataPart, Evaluation, Learner, Snapshot
from secateurs.training.metric import Metric


class Session:
    """The model in training, the study's position, and the store for both.

    Attributes:
        learner: the model in training.
        store: store for checkpoints and history.
        watcher: callback for what happens.
        position: position of the study.
        best: snapshot at this stage's best evaluation; None if there was none.
    """

    def __init__(self, learner: Learner, store: CheckpointStore, watcher: Watcher) -> None:
        self.learner = learner
        self.store = store
        self.watcher = watcher
        self.position = Position()
        self.best: Snapshot | None = None
        self._last_record = time.monotonic()

    @property
    def metric(self) -> Metric:
        """Metric by which models are chosen."""
        return self.learner.metric

    def resume(self) -> bool:
        """Resume from the store's checkpoint; returns whether there is one."""
        resumed = self.store.resume()
        if resumed is None:
            return False
        self.position, present, self.best = resumed
        self.learner.restore(present)
        for record in self.store.history:
            self.watcher.recorded(record)
        return True

    def move(self, **changes: Any) -> None:
        """Change fields of the position."""
        self.position = replace(self.position, **changes)

    def record(self, kind: str, **values: Any) -> None:
        """Add a record to the history."""
        self.watcher.recorded(self.store.history.append(kind, **values))

    def seconds_since_last(self) -> float:
        """Seconds since the last call."""
        now = time.monotonic()
        seconds, self._last_record = now - self._last_record, now
        return seconds

    def evaluate(self, part: DataPart, *, averaged: bool = False) -> Evaluation:
        """Evaluate the model, or the average of its weights, on a split."""
        self.watcher.begin(f"evaluating on the {part} data", self.learner.batches_of(part))
        evaluation = self.learner.evaluate(part, self.watcher.tick, averaged)
        self.watcher.end()
        return evaluation

    def checkpoint(self, present: Snapshot | None = None) -> None:
        """Store all that is needed to resume: the present snapshot, or the given one."""
        now = self.present if present is None else lambda: present
        self.store.checkpoint(self.position, now, self.best)

    def keep(self, name: CheckpointName) -> None:
        """Store the model without its optimizer's state."""
        self.store.keep(name, self.present().without_optimizer())

    def fetch(self, name: CheckpointName) -> Snapshot:
        """Load a stored model."""
        self.learner.wait()  # the main process may be writing it
        return self.store.fetch(name)

    def fetch_result(self) -> Snapshot:
        """The smallest model within the tolerance so far, or the dense one."""
        return self.fetch("best" if self.position.result_round else "dense")

    def present(self) -> Snapshot:
        """A snapshot of the model; the stage's best if the model is at it."""
        settled = self.position.stage is StudyStage.CUT or self._is_at_best
        return self.best if self.best is not None and settled else self.learner.snapshot()

    def restore_best(self) -> None:
        """Restore the stage's best evaluation."""
        if self.best is not None and not self._is_at_best:
            self.learner.restore(self.best)

    @property
    def _is_at_best(self) -> bool:
        """Whether the model in training has the values of the stage's best evaluation."""
        position = self.position
        return position.best_batch == position.batch and not position.best_is_average
