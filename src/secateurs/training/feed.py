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

from secateurs.arguments import format_value, takes_known_names
from secateurs.errors import DataError

Images = NDArray[Any]
ClassLabels = NDArray[np.int64]

# Each use of a seed draws from a stream of its own.
_ORDER, _AUGMENTATION = 3, 4
_BATCHES_LOOKED_AT = 20

EVALUATION_BATCH = 256
"""Images that are evaluated at a time, if a training batch is not larger."""


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
    labels: ClassLabels
    whole: int


@takes_known_names
@dataclass(frozen=True, slots=True)
class Augmentation:
    """Random changes to training images.

    Attributes:
        flip: mirror half of them, left to right.
        shift: move each by up to so many pixels along both axes; what comes in is 0.
        mix: share of the batches whose images are mixed with one another. That changes what is
            seen, so only training without labels, towards a dense model's outputs, does it.
    """

    flip: bool = False
    shift: int = 0
    mix: float = 0.0

    def __bool__(self) -> bool:
        return self.flip or self.shift > 0 or self.mix > 0


class Feed(Protocol):
    """Labelled images, batch by batch."""

    def __len__(self) -> int:
        """Batches in an epoch of training."""
        ...

    def shuffle(self, epoch: int, first: int, share: Shard) -> Iterator[Batch]:
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
    def labels(self) -> ClassLabels:
        """The class of each image."""
        ...

    def __len__(self) -> int: ...

    def batch(self, indices: Any) -> tuple[Images, ClassLabels]:
        """Images and their labels, by position or slice."""
        ...


class ArrayPair:
    """Images and labels in two arrays, as they are."""

    def __init__(self, images: Any, labels: Any, name: str = "data", *, wide: bool = False) -> None:
        self.images = _as_models_take(_as_numbers(images, f"{name}: images"), wide)
        if not self.images.ndim:
            raise DataError(
                f"{name}: expected a pair of arrays (images, labels); received one number for all "
                "the images"
            )
        self.labels = _as_classes(labels, name)
        if self.labels.shape != (len(self.images),):
            raise DataError(
                f"{name}: expected labels of shape ({len(self.images)},), one whole number an "
                f"image; "
                f"received images of shape {self.images.shape} and labels of shape "
                f"{self.labels.shape}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Any) -> tuple[Images, ClassLabels]:
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

    def shuffle(self, epoch: int, first: int, share: Shard) -> Iterator[Batch]:
        order = np.random.default_rng([_ORDER, self._seed, epoch]).permutation(len(self._source))
        size = self._batch_size
        for number in range(first, len(self)):
            rows = order[number * size : (number + 1) * size]
            images, labels = self._source.batch(rows[share.slice(size)])
            if self._augmentation:
                random = np.random.default_rng([_AUGMENTATION, self._seed, epoch, number])
                images = augment(images, self._augmentation, random, share, size)
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
        name: str = "data",
        seeded: Callable[[int], AbstractContextManager[Any]] | None = None,
        *,
        wide: bool = False,
    ) -> None:
        """Batches from an iterable that can be gone through again and again.

        Args:
            source: such as a ``torch.utils.data.DataLoader``.
            name: for messages.
            seeded: makes a context in which a loader's shuffling depends on the epoch alone.
            wide: keep images in double precision.
        """
        self._wide = wide
        self._source = source
        self._what = name
        self._seeded = seeded or (lambda epoch: nullcontext())
        self._length = self._look_at()

    def __len__(self) -> int:
        return self._length

    @property
    def whole_length(self) -> int:
        return self._length

    def shuffle(self, epoch: int, first: int, share: Shard) -> Iterator[Batch]:
        return itertools.islice(self._parts(epoch, share), first, None)

    def in_order(self, share: Shard = ALL) -> Iterator[Batch]:
        return self._parts(0, share)

    def _parts(self, epoch: int, share: Shard) -> Iterator[Batch]:
        for images, labels in self._batches(epoch):
            part = share.slice(len(labels))
            yield Batch(images[part], labels[part], len(labels))

    def _batches(self, epoch: int) -> Iterator[tuple[Images, ClassLabels]]:
        with self._seeded(epoch):  # samplers draw when the first batch is asked for
            items = iter(self._source)
            first = next(items, None)
        for item in items if first is None else itertools.chain([first], items):
            yield _as_batch(item, self._what, self._wide)

    def _look_at(self) -> int:
        """Batches in an epoch.

        Raises:
            DataError: there are none, all are of one class, or they are gone once seen.
        """
        known = known_length(self._source)
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
    name: str = "data",
    seeded: Callable[[int], AbstractContextManager[Any]] | None = None,
    *,
    wide: bool = False,
) -> Feed:
    """Whatever the user has, as a feed.

    Args:
        source: a ``secateurs.data.Split``, a pair (images, labels) of arrays, or an iterable of
            such pairs, one a batch, that can be gone through again (a DataLoader).
        batch_size: images a batch; a loader has its own.
        seed: of the order.
        augmentation: of training images; a loader does its own.
        name: for messages, such as "train".
        seeded: see ``LoaderFeed``.
        wide: keep arrays and loaders in double precision, for models of it.

    Raises:
        DataError: it is empty, of one class, or nothing of the kind.
    """
    if isinstance(source, tuple) and len(source) == 2:
        source = ArrayPair(*source, name, wide=wide)
    if hasattr(source, "batch") and hasattr(source, "labels"):
        check_classes(set(np.unique(source.labels).tolist()), name)
        return ArrayFeed(source, batch_size, seed, augmentation)
    if isinstance(source, Iterable) and not isinstance(source, (str, bytes)):
        return LoaderFeed(source, name, seeded, wide=wide)
    raise DataError(
        f"{name}: expected a secateurs.data.Split, a pair (images, labels) or an iterable of such "
        f"pairs; received {type(source).__name__}"
    )


def is_labelled_images(source: Any) -> bool:
    """Whether data are a split, or two arrays of which the second holds one class an image."""
    if hasattr(source, "batch") and hasattr(source, "labels"):
        return True
    if not isinstance(source, tuple) or len(source) != 2:
        return False
    labels = getattr(source[1], "shape", None)
    kind = str(getattr(source[1], "dtype", ""))
    return labels is not None and len(labels) == 1 and "int" in kind


def consecutive(feed: Feed, first: int, count: int, share: Shard = ALL) -> Iterator[Batch]:
    """``count`` training batches from number ``first`` of all training on, epoch after epoch."""
    epoch, place = divmod(first, len(feed))
    while count > 0:
        for batch in itertools.islice(feed.shuffle(epoch, place, share), count):
            yield batch
            count -= 1
        epoch, place = epoch + 1, 0


def augment(
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


class FirstBatches:
    """The first batches of a feed as (images, labels), as often as they are asked for."""

    def __init__(self, feed: Feed, count: int) -> None:
        """Batches for calibration.

        Args:
            feed: gone through in order, not augmented.
            count: how many batches, at most.
        """
        self._feed, self._count = feed, count

    def __iter__(self) -> Iterator[tuple[Images, ClassLabels]]:
        for batch in itertools.islice(self._feed.in_order(), self._count):
            yield batch.images, batch.labels


def check_labels(labels: ClassLabels, classes: int) -> None:
    """Raise ``DataError`` where a model of so many outputs has none for a label."""
    if labels.max(initial=0) >= classes or labels.min(initial=0) < 0:
        raise DataError(
            f"expected labels of 0 to {classes - 1}, as the model has {classes} outputs; received "
            f"labels of {labels.min()} to {labels.max()}"
        )


def mix(images: Images, augmentation: Augmentation, random: np.random.Generator) -> Images:
    """In a share of all calls, images mixed with one another: overlaid, or with a patch swapped in.

    Args:
        images: a whole batch, shape (B, C, H, W).
        augmentation: ``mix`` is the share of the calls.
        random: draws.

    Source: Zhang et al., mixup, ICLR 2018; Yun et al., CutMix, ICCV 2019.
    """
    if random.random() >= augmentation.mix:
        return images
    others = images[random.permutation(len(images))]
    if random.random() < 0.5:
        weights = random.random((len(images), 1, 1, 1)).astype(images.dtype)
        overlaid: Images = weights * images + (1 - weights) * others
        return overlaid
    height, width = images.shape[2:]
    side = float(random.random()) ** 0.5  # so that the patch's area is spread evenly
    rows, columns = int(height * side), int(width * side)
    top = int(random.integers(height - rows + 1))
    left = int(random.integers(width - columns + 1))
    patched = images.copy()
    place = (..., slice(top, top + rows), slice(left, left + columns))
    patched[place] = others[place]
    return patched


def check_classes(classes: set[int], name: str) -> None:
    """Raise ``DataError`` where there is nothing to tell apart."""
    if not classes:
        raise DataError(f"{name}: expected labelled images; received none")
    if len(classes) == 1:
        raise DataError(
            f"{name}: expected at least two classes; received images of one only, "
            f"class {next(iter(classes))}"
        )


def _as_batch(item: Any, name: str, wide: bool) -> tuple[Images, ClassLabels]:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise DataError(
            f"{name}: expected batches that are pairs (images, labels); received "
            f"{type(item).__name__}"
        )
    images = _as_models_take(_as_numbers(item[0], f"{name}: images"), wide)
    labels = _as_classes(item[1], name)
    if not images.ndim:
        raise DataError(f"{name}: expected batches of images; received a number in place of them")
    if labels.shape != (len(images),):
        raise DataError(
            f"{name}: expected labels of shape ({len(images)},), one an image; received shape "
            f"{labels.shape}"
        )
    return images, labels


def _as_numbers(value: Any, name: str) -> NDArray[Any]:
    try:
        array = as_array(value)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged; a tensor with gradients
        raise DataError(f"{name}: expected an array; {' '.join(str(error).split())}") from error
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"{name}: expected numbers; received {format_value(value)} of {array.dtype}"
        )
    return array


def _as_classes(value: Any, name: str) -> ClassLabels:
    """Labels as whole numbers, which they must be already.

    Raises:
        DataError: they are not; the message says what would make them so.
    """
    if value is None:
        raise DataError(f"{name}: expected labels beside the images; received None")
    labels = _as_numbers(value, f"{name}: labels")
    if labels.ndim == 2 and labels.shape[1] > 1 and labels.size and _one_hot(labels):
        raise DataError(
            f"{name}: expected labels that are classes, one whole number an image; received "
            f"one-hot "
            f"labels of shape {labels.shape}. Pass labels.argmax(axis=1)."
        )
    if labels.dtype.kind == "f" and not (labels == np.floor(labels)).all():
        raise DataError(
            f"{name}: expected labels that are classes, whole numbers from 0; received "
            f"{labels.dtype} such as {labels.ravel()[np.argmax(labels != np.floor(labels))]}. For "
            'another task say which: task="regression", or loss= and metric=.'
        )
    return labels.astype(np.int64)


def _one_hot(labels: NDArray[Any]) -> bool:
    return bool(((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all())


def as_array(values: Any) -> NDArray[Any]:
    """An array of whatever holds numbers: lists, arrays, tensors of any framework on any device."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if str(values.dtype) == "torch.bfloat16":
            values = values.float()
    array = np.asarray(values)
    # NumPy has no such type of its own, and few of its functions take the guests' one.
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _as_models_take(images: Images, wide: bool) -> Images:
    """Images in the precision that training runs in: single, or double for double models."""
    if images.dtype == np.uint8:
        return images.astype(np.float64 if wide else np.float32)
    return images.astype(np.float32) if images.dtype == np.float64 and not wide else images


def known_length(source: object) -> int | None:
    """How many there are of something; None where it does not say.

    A DataLoader over an ``IterableDataset`` has a length and raises where it is asked for it.
    """
    try:
        return len(source) if isinstance(source, Sized) else None
    except TypeError:
        return None
