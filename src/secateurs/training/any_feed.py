"""Batches of any kind: tensors, tuples, dictionaries, lists of images, tokenizer outputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

import numpy as np

from secateurs.calibration.examples import as_arrays, length_of, rows_of, split_of
from secateurs.errors import DataError
from secateurs.training.feed import ALL, Batch, Feed, Images, Shard, known_length
from secateurs.training.objectives import label_batch
from secateurs.training.random_numbers import Seeded, draw_batches
from secateurs.training.task import LearningTask

_NO_LABELS = np.zeros(0, np.int64)


class AnyFeed:
    """Batches in the user's own format; ``Batch.images`` holds one of them, whole.

    Args:
        source: an iterable of batches that can be iterated repeatedly; or a pair of arrays, a
            dictionary of arrays or a ``Split``, which are cut into batches.
        batch_size: batch size for arrays; a loader has its own.
        seed: seed of the order of arrays.
        name: name of the data, for messages.
        seeded: makes a context in which random numbers depend on the batch only.

    Raises:
        DataError: there is no batch, or the source can be iterated only once.
    """

    def __init__(
        self,
        source: object,
        batch_size: int,
        seed: int = 0,
        name: str = "data",
        seeded: Seeded | None = None,
    ) -> None:
        self._arrays = as_arrays(source)
        self._source: Iterable[object] = source if isinstance(source, Iterable) else ()
        self._what, self._seed = name, seed
        self._seeded = seeded
        if self._arrays is not None:
            _check_lengths(self._arrays, name)
            self._size = min(batch_size, length_of(self._arrays))
        elif not isinstance(source, Iterable) or isinstance(source, str | bytes):
            raise DataError(
                f"{name}: expected batches, or arrays; received {type(source).__name__}"
            )
        self._length = self._count_batches()

    def __len__(self) -> int:
        return self._length

    @property
    def whole_length(self) -> int:
        """Number of batches in which every example appears once."""
        return self._length

    def shuffle(self, epoch: int, first: int, share: Shard) -> Iterator[Batch]:
        """Yield the training batches of an epoch, starting with number ``first``."""
        for batch in itertools.islice(self._batches(epoch, shuffle=True), first, None):
            yield _take_part(batch, *share.for_training(length_of(batch)))

    def in_order(self, share: Shard = ALL) -> Iterator[Batch]:
        """Yield every example once, in order."""
        for batch in self._batches(0, shuffle=False):
            yield _take_part(batch, share, length_of(batch))

    def _batches(self, epoch: int, *, shuffle: bool) -> Iterator[object]:
        if self._arrays is None:
            yield from draw_batches(self._source, epoch, self._seeded)
            return
        count = length_of(self._arrays)
        order = np.arange(count)
        if shuffle:
            order = np.random.default_rng([5, self._seed, epoch]).permutation(count)
        for start in range(0, count, self._size):
            yield rows_of(self._arrays, order[start : start + self._size])

    def _count_batches(self) -> int:
        if self._arrays is not None:
            count = -(-length_of(self._arrays) // max(1, self._size))
        elif (known := known_length(self._source)) is not None:
            count = known
        else:
            count = sum(1 for _ in self._batches(0, shuffle=False))
        if not count or next(iter(self._batches(0, shuffle=False)), None) is None:
            raise DataError(
                f"{self._what}: expected at least one batch, from something that can be iterated "
                "again, such as a list or a DataLoader; received none"
            )
        return count


def _take_part(batch: object, share: Shard, whole: int) -> Batch:
    """A process's part of a batch, of which ``whole`` examples are seen by all of them together."""
    if share.of > 1:
        part = share.slice(length_of(batch))
        batch = rows_of(batch, np.arange(part.start, part.stop))
    return Batch(cast(Images, batch), _NO_LABELS, whole)  # of any type: see the class


def _check_lengths(arrays: object, name: str) -> None:
    parts = list(arrays.values()) if isinstance(arrays, Mapping) else arrays
    if not isinstance(parts, list | tuple):
        return
    lengths = [length_of(part) for part in parts]
    if len(set(lengths)) > 1:
        raise DataError(
            f"{name}: expected as many targets as inputs, one an example; received arrays of "
            f"{', '.join(map(str, lengths))} examples"
        )


class Again:
    """The batches of a feed, unchanged; can be iterated repeatedly."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def __iter__(self) -> Iterator[object]:
        return (batch.images for batch in self._feed.in_order())

    def __len__(self) -> int:
        return self._feed.whole_length


class TaskBatches:
    """The first training batches for a task; can be iterated repeatedly.

    Args:
        feed: feed to iterate in order.
        batches: largest number of batches.
        task: the task, which may take its targets from the inputs.
        is_whole: whether batches stay unchanged; otherwise each becomes (inputs, targets).
    """

    def __init__(self, feed: Feed, batches: int, task: LearningTask, *, is_whole: bool) -> None:
        self._feed, self._batches = feed, batches
        self._task, self._is_whole = task, is_whole

    def __iter__(self) -> Iterator[object]:
        for batch, _ in zip(self._feed.in_order(), range(self._batches), strict=False):
            images = label_batch(self._task, batch.images)
            yield images if self._is_whole else split_of(images)
