"""The processes that train a model together, and share the work on calibration images.

Each process sums over its own part of the images; sums over all of them are then the same in every
process, so all score, fit and decide alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.arrays import Sums

T = TypeVar("T")


class Peers(Protocol):
    """This process among its peers.

    All of them call the same methods in the same order: each call waits for the others.
    """

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""

    @property
    def count(self) -> int:
        """Number of processes."""

    def total(self, arrays: Sequence[NDArray[Any]]) -> list[Sums]:
        """Sum each array over the processes."""

    def gather(self, value: T) -> list[T]:
        """Collect every process's value, in the order of their numbers."""

    def gather_in_main(self, value: T) -> list[T]:
        """The same in process 0 only; an empty list in all others."""

    def from_main(self, compute: Callable[[], T]) -> T:
        """The result of ``compute`` in process 0, in every process; or its error."""


class _Alone:
    """One process, whose sums are complete already."""

    rank = 0
    count = 1

    def total(self, arrays: Sequence[NDArray[Any]]) -> list[Sums]:
        return [np.asarray(one, np.float64) for one in arrays]

    def gather(self, value: T) -> list[T]:
        return [value]

    def gather_in_main(self, value: T) -> list[T]:
        return [value]

    def from_main(self, compute: Callable[[], T]) -> T:
        return compute()


ALONE: Peers = _Alone()


def own_part(images: int, peers: Peers) -> slice:
    """Rows of this process among so many images; parts differ by one image at most.

    Example:
        >>> own_part(5, ALONE)
        slice(0, 5, None)
    """
    each, more = divmod(images, peers.count)
    start = peers.rank * each + min(peers.rank, more)
    return slice(start, start + each + (peers.rank < more))


def can_share(images: Sequence[int], peers: Peers) -> bool:
    """Whether each process gets at least one image of batches with so many."""
    return sum(count // peers.count for count in images) > 0
