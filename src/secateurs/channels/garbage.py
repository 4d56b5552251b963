"""Python's search for unreachable objects, put off while many are made that all stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """Look for no unreachable objects meanwhile; also a decorator.

    A trace makes some hundred thousand objects that all stay, and every few hundred Python looks
    through them, in turn through all that the process has. What nothing refers to is freed at once
    all the same. Who has switched it off finds it off; another thread's is put off, too.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
