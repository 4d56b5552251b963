"""Signals that end a command, so that it can save its state and say how to continue."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Signals:
    """Record of the signal that ended this process.

    Attributes:
        received: The signal; None if there was none.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """End the command as Ctrl-C would, so that all clean-up code runs."""
        del frame
        self.received = signal.Signals(number)
        raise KeyboardInterrupt


@contextmanager
def ending_signals() -> Iterator[Signals]:
    """Let SIGTERM (a scheduler) and SIGHUP (a closed terminal) interrupt as SIGINT does.

    A signal that is ignored stays ignored: ``nohup`` and schedulers set this on purpose.
    """
    signals = Signals()
    replaced = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                replaced[number] = signal.signal(number, signals.interrupt)
    try:
        yield signals
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)


def is_main_process() -> bool:
    """Whether this is the only process, or the one of rank 0."""
    return os.environ.get("RANK", "0") == "0"
