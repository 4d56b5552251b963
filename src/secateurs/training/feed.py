"""Batches of labelled images, in an order that depends on the seed and the epoch alone.

Nothing is remembered between batches: a study that goes on after a crash, and each of several
processes that train together, find the same images in the same batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from secateurs.errors import DataError

Images = NDArray[Any]
Labels = NDArray[np.int64]

# Each use of a seed draws from a stream of its own.
_ORDER, _AUGMENTATION = 3, 4
_BATCHES_LOOKED_AT = 20


@dataclass(frozen=True, slots=True)
class Shard:
    """Which part of every batch a process takes: the ``index``-th of ``of`` parts."""

    index: int = 0
    of: int = 1

    def slice(self, whole: int) -> slice:
        """The images of a batch of ``whole`` that are this process's; parts differ by one image."""
        return slice(whole * self.index // self.of, whole * (self.index + 1) // self.of)


ALL = Shard()


@dataclass(frozen=True, slots=True)
class Batch:
    """A process's part of a batch.

    Attributes:
        images: shape (B, ...).
        labels: int64, shape (B,).
        whole: images in the whole batch, of all processes.
    """

    images: Images
    labels: Labels
    whole: int


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Random changes to training images.

    Attributes:
        flip: mirror half of them, left to right.
        shift: move each by up to so many pixels along both axes; what comes in is 0.
    """

    flip: bool = False
    shift: int = 0

    def __bool__(self) -> bool:
        return self.flip or self.shift > 0


class Feed(Protocol):
    """Labelled images, batch by batch."""

    def __len__(self) -> int:
        """Batches in an epoch of training."""
        ...

    def shuffled(self, epoch: int, first: int, share: Shard) -> Iterator[Batch]:
        """The batches of an epoch of training, from the ``first`` on."""
        ...

    @property
    def whole_length(self) -> int:
        """Batches in which every image is seen once."""
        ...

    def in_order(self, share: Shard = ALL) -> Iterator[Batch]:
        """Every image once, not augmented."""
        ...


class LabelledImages(Protocol):
    """What ``secateurs.data.Split`` is."""

    @property
    def labels(self) -> Labels:
        """The class of each image."""
        ...

    def __len__(self) -> int: ...

    def batch(self, indices: Any) -> tuple[Images, Labels]:
        """Images and their labels, by position or slice."""
        ...


class Arrays:
    """Images and labels in two arrays, as they are."""

    def __init__(self, images: Any, labels: Any, what: str = "data") -> None:
        self.images = _as_models_take(np.asarray(images))
        self.labels = np.asarray(labels).astype(np.int64)
        if self.labels.shape != (len(self.images),):
            raise DataError(
                f"{what}: expected as many labels as images; received images of shape "
                f"{self.images.shape} and labels of shape {self.labels.shape}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Any) -> tuple[Images, Labels]:
        """Images and their labels."""
        return self.images[indices], self.labels[indices]


class ArrayFeed:
    """Batches by index from a split in memory."""

    def __init__(
        self,
        source: LabelledImages,
        batch_size: int,
        seed: int = 0,
        augmentation: Augmentation = Augmentation(),
    ) -> None:
        self._source = source
        self._batch_size = min(batch_size, len(source))
        self._seed = seed
        self._augmentation = augmentation

    def __len__(self) -> int:
        # The rest that fills no batch is left to other epochs: batch normalisation needs company.
        return len(self._source) // self._batch_size

    @property
    def whole_length(self) -> int:
        return -(-len(self._source) // self._batch_size)

    def shuffled(self, epoch: int, first: int, share: Shard) -> Iterator[Batch]:
        order = np.random.default_rng([_ORDER, self._seed, epoch]).permutation(len(self._source))
        size = self._batch_size
        for number in range(first, len(self)):
            rows = order[number * size : (number + 1) * size]
            images, labels = self._source.batch(rows[share.slice(size)])
            if self._augmentation:
                random = np.random.default_rng([_AUGMENTATION, self._seed, epoch, number])
                images = augmented(images, self._augmentation, random, share, size)
            yield Batch(images, labels, size)

    def in_order(self, share: Shard = ALL) -> Iterator[Batch]:
        for start in range(0, len(self._source), self._batch_size):
            whole = min(self._batch_size, len(self._source) - start)
            part = share.slice(whole)
            images, labels = self._source.batch(slice(start + part.start, start + part.stop))
            yield Batch(images, labels, whole)


class LoaderFeed:
    """Batches as somebody's own loader gives them: any iterable of (images, labels)."""

    def __init__(
        self,
        source: Iterable[Any],
        what: str = "data",
        seeded: Callable[[int], AbstractContextManager[Any]] | None = None,
    ) -> None:
        """Batches from an iterable that can be gone through again and again.

        Args:
            source: such as a ``torch.utils.data.DataLoader``.
            what: for messages.
            seeded: makes a context in which a loader's shuffling depends on the epoch alone.
        """
        self._source = source
        self._what = what
        self._seeded = seeded or (lambda epoch: nullcontext())
        self._length = self._looked_at()

    def __len__(self) -> int:
        return self._length

    @property
    def whole_length(self) -> int:
        return self._length

    def shuffled(self, epoch: int, first: int, share: Shard) -> Iterator[Batch]:
        return itertools.islice(self._parts(epoch, share), first, None)

    def in_order(self, share: Shard = ALL) -> Iterator[Batch]:
        return self._parts(0, share)

    def _parts(self, epoch: int, share: Shard) -> Iterator[Batch]:
        for images, labels in self._batches(epoch):
            part = share.slice(len(labels))
            yield Batch(images[part], labels[part], len(labels))

    def _batches(self, epoch: int) -> Iterator[tuple[Images, Labels]]:
        with self._seeded(epoch):  # samplers draw when the first batch is asked for
            items = iter(self._source)
            first = next(items, None)
        for item in items if first is None else itertools.chain([first], items):
            yield _as_batch(item, self._what)

    def _looked_at(self) -> int:
        """Batches in an epoch.

        Raises:
            DataError: there are none, all are of one class, or they are gone once seen.
        """
        known = len(self._source) if isinstance(self._source, Sized) else None
        classes: set[int] = set()
        count = 0
        for _, labels in self._batches(0):
            count += 1
            classes.update(labels.tolist())
            if count >= _BATCHES_LOOKED_AT and known is not None and len(classes) > 1:
                return known
        check_classes(classes, self._what)
        if next(iter(self._batches(0)), None) is None:
            raise DataError(
                f"{self._what}: expected something that can be gone through again, such as a list "
                f"or a DataLoader; received a {type(self._source).__name__} that is used up"
            )
        return count


def as_feed(
    source: Any,
    batch_size: int,
    seed: int = 0,
    augmentation: Augmentation = Augmentation(),
    what: str = "data",
    seeded: Callable[[int], AbstractContextManager[Any]] | None = None,
) -> Feed:
    """Whatever the user has, as a feed.

    Args:
        source: a ``secateurs.data.Split``, a pair (images, labels) of arrays, or an iterable of
            such pairs, one a batch, that can be gone through again (a DataLoader).
        batch_size: images a batch; a loader has its own.
        seed: of the order.
        augmentation: of training images; a loader does its own.
        what: for messages, such as "train".
        seeded: see ``LoaderFeed``.

    Raises:
        DataError: it is empty, of one class, or nothing of the kind.
    """
    if isinstance(source, tuple) and len(source) == 2:
        source = Arrays(*source, what)
    if hasattr(source, "batch") and hasattr(source, "labels"):
        check_classes(set(np.unique(source.labels).tolist()), what)
        return ArrayFeed(source, batch_size, seed, augmentation)
    if isinstance(source, Iterable) and not isinstance(source, (str, bytes)):
        return LoaderFeed(source, what, seeded)
    raise DataError(
        f"{what}: expected a secateurs.data.Split, a pair (images, labels) or an iterable of such "
        f"pairs; received {type(source).__name__}"
    )


def consecutive(feed: Feed, first: int, count: int, share: Shard = ALL) -> Iterator[Batch]:
    """``count`` training batches from number ``first`` of all training on, epoch after epoch."""
    epoch, place = divmod(first, len(feed))
    while count > 0:
        for batch in itertools.islice(feed.shuffled(epoch, place, share), count):
            yield batch
            count -= 1
        epoch, place = epoch + 1, 0


def augmented(
    images: Images,
    augmentation: Augmentation,
    random: np.random.Generator,
    share: Shard = ALL,
    whole: int | None = None,
) -> Images:
    """New images, changed at random.

    Args:
        images: the process's part of a batch, shape (B, C, H, W).
        augmentation: what may change.
        random: draws for the whole batch, so that its division among processes changes nothing.
        share: which part of the batch this is.
        whole: images in the whole batch.
    """
    count = len(images) if whole is None else whole
    part = share.slice(count)
    flipped = random.random(count)[part] < 0.5
    reach = augmentation.shift
    moves = random.integers(0, 2 * reach + 1, (2, count))[:, part]
    if augmentation.flip:
        images = np.where(flipped[:, None, None, None], images[..., ::-1], images)
    if reach:
        height, width = images.shape[2:]
        margins = ((0, 0), (0, 0), (reach, reach), (reach, reach))
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(images, margins), (height, width), axis=(2, 3)
        )
        images = windows[np.arange(len(images)), :, moves[0], moves[1]]
    return images


def check_classes(classes: set[int], what: str) -> None:
    """Raise ``DataError`` where there is nothing to tell apart."""
    if not classes:
        raise DataError(f"{what}: expected labelled images; received none")
    if len(classes) == 1:
        raise DataError(
            f"{what}: expected at least two classes; received images of one only, "
            f"class {next(iter(classes))}"
        )


def _as_batch(item: Any, what: str) -> tuple[Images, Labels]:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise DataError(
            f"{what}: expected batches that are pairs (images, labels); received "
            f"{type(item).__name__}"
        )
    images, labels = _as_models_take(np.asarray(item[0])), np.asarray(item[1])
    if labels.shape != (len(images),):
        raise DataError(
            f"{what}: expected labels of shape ({len(images)},), one an image; received shape "
            f"{labels.shape}"
        )
    return images, labels.astype(np.int64)


def _as_models_take(images: Images) -> Images:
    return images.astype(np.float32) if images.dtype in (np.float64, np.uint8) else images
