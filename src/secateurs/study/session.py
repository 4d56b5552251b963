"""A study as it stands: what its stages share."""

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
    """The model in training, the study's position, and where both are kept.

    Attributes:
        learner: the model in training.
        store: what is kept of it.
        watcher: told what happens.
        position: where the study is.
        best: the model's values at the best evaluation of this stage; None if there was none.
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
        """What models are chosen by, as records and people have it."""
        return self.learner.metric

    def resume(self) -> bool:
        """Go on from the store's checkpoint; whether there is one."""
        resumed = self.store.resume()
        if resumed is None:
            return False
        self.position, present, self.best = resumed
        self.learner.restore(present)
        for record in self.store.history:
            self.watcher.recorded(record)
        return True

    def move(self, **changes: Any) -> None:
        """Change the position."""
        self.position = replace(self.position, **changes)

    def record(self, kind: str, **values: Any) -> None:
        """Add to the history."""
        self.watcher.recorded(self.store.history.append(kind, **values))

    def seconds_since_last(self) -> float:
        """Seconds since this was last asked."""
        now = time.monotonic()
        seconds, self._last_record = now - self._last_record, now
        return seconds

    def evaluate(self, part: DataPart, *, averaged: bool = False) -> Evaluation:
        """How well the model, or the average of its weights, does on a split."""
        self.watcher.begin(f"evaluating on the {part} data", self.learner.batches_of(part))
        evaluation = self.learner.evaluate(part, self.watcher.tick, averaged)
        self.watcher.end()
        return evaluation

    def checkpoint(self, present: Snapshot | None = None) -> None:
        """Keep all that is needed to go on from here: the model's values, or those given."""
        now = self.present if present is None else lambda: present
        self.store.checkpoint(self.position, now, self.best)

    def keep(self, name: CheckpointName) -> None:
        """Keep the model's values, without its optimizer's."""
        self.store.keep(name, self.present().without_optimizer())

    def fetch(self, name: CheckpointName) -> Snapshot:
        """A model that was kept."""
        self.learner.wait()  # the main process may be writing it
        return self.store.fetch(name)

    def fetch_result(self) -> Snapshot:
        """The smallest model within the tolerance so far, or the one that the study began with."""
        return self.fetch("best" if self.position.result_round else "dense")

    def present(self) -> Snapshot:
        """The model's values; those at hand where they are the stage's best."""
        settled = self.position.stage is StudyStage.CUT or self._is_at_best
        return self.best if self.best is not None and settled else self.learner.snapshot()

    def restore_best(self) -> None:
        """Go back to the stage's best evaluation."""
        if self.best is not None and not self._is_at_best:
            self.learner.restore(self.best)

    @property
    def _is_at_best(self) -> bool:
        """Whether the model in training has the values of the stage's best evaluation."""
        position = self.position
        return position.best_batch == position.batch and not position.best_is_average
