"""Stores for a study's history and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from secateurs.channels.cut import Cut
from secateurs.study.history import History
from secateurs.study.position import Position
from secateurs.training.learner import Snapshot

CheckpointName = Literal["dense", "rewind", "best"]


class CheckpointStore(Protocol):
    """Interface of a store for a study's history and checkpoints."""

    @property
    def history(self) -> History:
        """The history."""
        ...

    def keep(self, name: CheckpointName, snapshot: Snapshot) -> None:
        """Store a model, replacing an earlier one with that name."""
        ...

    def fetch(self, name: CheckpointName) -> Snapshot:
        """Load a stored model."""
        ...

    def keep_cut(self, number: int, cut: Cut) -> None:
        """Store the cut that a round made, relative to the model before it."""
        ...

    def checkpoint(
        self, position: Position, present: Callable[[], Snapshot], best: Snapshot | None
    ) -> None:
        """Store what is needed to resume from here; everything else stored follows from it."""
        ...

    def resume(self) -> tuple[Position, Snapshot, Snapshot | None] | None:
        """Load what the latest ``checkpoint`` stored, if there was one."""
        ...


class InMemoryStore:
    """A checkpoint store in memory, which is lost when the process ends."""

    def __init__(self) -> None:
        self._history = History()
        self._kept: dict[CheckpointName, Snapshot] = {}

    @property
    def history(self) -> History:
        return self._history

    def keep(self, name: CheckpointName, snapshot: Snapshot) -> None:
        self._kept[name] = snapshot

    def fetch(self, name: CheckpointName) -> Snapshot:
        return self._kept[name]

    def keep_cut(self, number: int, cut: Cut) -> None:
        pass

    def checkpoint(
        self, position: Position, present: Callable[[], Snapshot], best: Snapshot | None
    ) -> None:
        pass

    def resume(self) -> None:
        return None
