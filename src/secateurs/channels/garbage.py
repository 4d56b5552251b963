"""Pausing of Python's cyclic garbage collector while many long-lived objects are created."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """Disable the cyclic garbage collector meanwhile; also usable as a decorator.

    A trace creates some hundred thousand objects that all stay alive, and every few hundred of
    them Python would scan them, and in turn everything in the process, for cycles. Reference
    counting still frees objects at once. If the collector was off already, it stays off. The
    pause affects all threads.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
