"""Seeding of random generators for each batch, so that a resumed study repeats what was drawn.

A data set of the user's may draw its augmentation from the generators of Python, NumPy or the
framework, and a loader its order from a generator of its own. A checkpoint does not hold their
state, so they are seeded for each batch. The process's generators are restored afterwards; that of
a loader goes on from its seed. Worker processes take their seeds from these generators when they
are started, which is at the beginning of each epoch, even if they are persistent.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, cast

import numpy as np

_PROCESS = 6
_PARTS = ("sampler", "batch_sampler", "_source")
_DEPTH = 3
_KEPT_WORKERS = "_iterator"
"""Attribute of PyTorch's ``DataLoader`` that keeps persistent workers; None starts new ones."""

Seeded = Callable[[int, int], AbstractContextManager[Any]]
"""(epoch, number of the batch) -> context in which random numbers depend on these only."""


class _Generator(Protocol):
    """A random generator that can be seeded, as PyTorch's."""

    def manual_seed(self, seed: int, /) -> object: ...


@contextmanager
def seed_process(*seeds: int) -> Iterator[None]:
    """Seed Python's and NumPy's global generators here; their state is restored afterwards."""
    by_python, by_numpy = random.getstate(), np.random.get_state()
    first, second = np.random.default_rng([_PROCESS, *seeds]).integers(2**32, size=2)
    random.seed(int(first))
    np.random.seed(int(second))
    try:
        yield
    finally:
        random.setstate(by_python)
        np.random.set_state(by_numpy)


def draw_batches(source: Iterable[Any], epoch: int, seeded: Seeded | None) -> Iterator[Any]:
    """Iterate over a loader, with random generators seeded for each batch.

    Args:
        source: loader; can be iterated repeatedly.
        epoch: number of the epoch.
        seeded: makes the context of a batch; None seeds Python's and NumPy's generators.
    """
    seeded = seeded or seed_process
    with seeded(epoch, 0):
        for generator in _generators_of(source, _DEPTH):
            generator.manual_seed(random.getrandbits(62))
        _start_workers_anew(source)
        items = iter(source)
    number = 0
    while True:
        with seeded(epoch, number):
            try:
                item = next(items)
            except StopIteration:
                return
        yield item
        number += 1


def _start_workers_anew(source: object) -> None:
    """Make a loader start new worker processes in this epoch, also where it keeps them.

    Persistent workers keep their random generators from one epoch to the next. A resumed study
    starts them in the middle, so its augmentation would differ from that of an undisturbed study;
    new workers take their seeds from the process's generators, which are seeded here.
    """
    if getattr(source, "persistent_workers", False) and hasattr(source, _KEPT_WORKERS):
        setattr(source, _KEPT_WORKERS, None)


def _generators_of(source: object, depth: int) -> Iterator[_Generator]:
    """List the random generators of a loader and its samplers."""
    kept = getattr(source, "generator", None)
    if callable(getattr(kept, "manual_seed", None)):
        yield cast(_Generator, kept)
    for name in _PARTS if depth else ():
        part = getattr(source, name, None)
        if part is not None and part is not source:
            yield from _generators_of(part, depth - 1)
