"""Callbacks of the training loop, shared by both frameworks."""

from __future__ import annotations

from typing import Any


class Watcher:
    """Base class of callbacks: called as things happen, does nothing. For progress bars, tables."""

    def begin(self, stage: str, batches: int, done: int = 0) -> None:
        """Called when work on ``batches`` batches begins, or resumes after the first ``done``."""

    def tick(self) -> None:
        """Called after each batch of the latest stage."""

    def end(self) -> None:
        """Called when the latest stage ends; the enclosing one then continues."""

    def recorded(self, record: dict[str, Any]) -> None:
        """Called when the history has a new record."""


class Relay(Watcher):
    """Forwards everything to another watcher; a base class for those that add something.

    Args:
        watcher: watcher that receives all calls.
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
