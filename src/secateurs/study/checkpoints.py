"""Where a study keeps what it must not lose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from secateurs.channels.cut import Cut
from secateurs.study.history import History
from secateurs.study.position import Position
from secateurs.training.learner import Snapshot

CheckpointName = Literal["dense", "rewind", "best"]


class CheckpointStore(Protocol):
    """Where a study keeps what it must not lose."""

    @property
    def history(self) -> History:
        """What happened."""
        ...

    def keep(self, name: CheckpointName, snapshot: Snapshot) -> None:
        """Keep a model, in place of an earlier one of that name."""
        ...

    def fetch(self, name: CheckpointName) -> Snapshot:
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
    """A checkpoint store that ends with the process."""

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
