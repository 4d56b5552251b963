"""Who is told what happens in a loop; on the ground, so that both frameworks can tell."""

from __future__ import annotations

from typing import Any


class Watcher:
    """Told what happens, as it happens; does nothing with it. For progress bars and tables."""

    def begin(self, stage: str, batches: int, done: int = 0) -> None:
        """Work on so many batches begins, or goes on after the first ``done``."""

    def tick(self) -> None:
        """One more batch of what began last is done."""

    def end(self) -> None:
        """What began last is done, and what began before it goes on."""

    def recorded(self, record: dict[str, Any]) -> None:
        """The history has a new record."""


class Relay(Watcher):
    """Passes everything on to another watcher; for those that add something to it.

    Args:
        watcher: told everything.
    """

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def begin(self, stage: str, batches: int, done: int = 0) -> None:
        self._watcher.begin(stage, batches, done)

    def tick(self) -> None:
        self._watcher.tick()

    def end(self) -> None:
        self._watcher.end()

    def recorded(self, record: dict[str, Any]) -> None:
        self._watcher.recorded(record)
