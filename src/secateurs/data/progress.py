"""A progress bar for slow data loading."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

PATIENCE_IN_SECONDS = 2.0


def show_progress(items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
    """Pass ``items`` on; on a terminal, a bar appears once this has taken two seconds."""
    from rich.console import Console
    from rich.progress import Progress

    bar: Progress | None = None
    started = time.monotonic()
    try:
        for done, item in enumerate(items, 1):
            yield item
            waited = time.monotonic() - started
            if bar is None and waited > PATIENCE_IN_SECONDS and sys.stderr.isatty():
                bar = Progress(console=Console(stderr=True), transient=True)
                task = bar.add_task(label, total=total)
                bar.start()
            if bar is not None:
                bar.update(task, completed=done)
    finally:
        if bar is not None:
            bar.stop()
