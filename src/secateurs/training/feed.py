"""Batches of labelled images, in an order that depends on the seed and the epoch only.

There is no state between batches: a study that resumes after a crash, and each of several processes
that train together, find the same images in the same batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from secateurs.arguments import format_value, takes_known_names
from secateurs.errors import DataError
from secateurs.training.random_numbers import Seeded, draw_batches

Images = NDArray[Any]
ClassLabels = NDArray[np.int64]

# Each use of a seed has a random stream of its own.
_ORDER, _AUGMENTATION = 3, 4
_BATCHES_LOOKED_AT = 20

EVALUATION_BATCH = 256
"""Evaluation batch size, unless a training batch is larger."""


@dataclass(frozen=True, slots=True)
class Shard:
    """The part of every batch that a process takes: number ``index`` of ``of`` parts."""

    index: int = 0
    of: int = 1

    def slice(self, whole: int) -> slice:
        """This process's images in a batch of ``whole``; parts differ by at most one image."""
        return slice(whole * self.index // self.of, whole * (self.index + 1) // self.of)

    def for_training(self, whole: int) -> tuple[Shard, int]:
        """Return (the part to train on, number of images that all processes train on together).

        Every process needs an image. A batch with fewer images than there are processes is
        trained on whole by each of them, and the mean over all of these is the batch's own.
        """
        return (self, whole) if whole >= self.of else (ALL, whole * self.of)


ALL = Shard()


@dataclass(frozen=True, slots=True)
class Batch:
    """A process's part of a batch.

    Attributes:
        images: shape (B, ...).
        labels: int64, shape (B,).
        whole: number of images in the batch of all processes together.
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
        shift: largest shift in pixels along both axes; the border is filled with 0.
        mix: share of batches in which images are mixed with one another. This changes their
            content, so only label-free training towards a dense model's outputs uses it.
    """

    flip: bool = False
    shift: int = 0
    mix: float = 0.0

    def __bool__(self) -> bool:
        return self.flip or self.shift > 0 or self.mix > 0


class Feed(Protocol):
    """Labelled images, batch by batch."""

    def __len__(self) -> int:
        """Number of batches in an epoch of training."""
        ...

    def shuffle(self, epoch: int, first: int, share: Shard) -> Iterator[Batch]:
        """Yield the training batches of an epoch, starting with number ``first``."""
        ...

    @property
    def whole_length(self) -> int:
        """Number of batches in which every image appears once."""
        ...

    def in_order(self, share: Shard = ALL) -> Iterator[Batch]:
        """Yield every image once, in order and not augmented."""
        ...


class LabelledImages(Protocol):
    """Interface of ``secateurs.data.Split``."""

    @property
    def labels(self) -> ClassLabels:
        """The class of each image."""
        ...

    def __len__(self) -> int: ...

    def batch(self, indices: Any) -> tuple[Images, ClassLabels]:
        """Images and their labels, by position or slice."""
        ...


class ArrayPair:
    """Images and labels in two arrays."""

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
    """Batches from a split in memory."""

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
        # An incomplete batch is left to other epochs: batch normalisation needs full ones.
        return len(self._source) // self._batch_size

    @property
    def whole_length(self) -> int:
        return -(-len(self._source) // self._batch_size)

    def shuffle(self, epoch: int, first: int, share: Shard) -> Iterator[Batch]:
        order = np.random.default_rng([_ORDER, self._seed, epoch]).permutation(len(self._source))
        size = self._batch_size
        share, whole = share.for_training(size)
        for number in range(first, len(self)):
            rows = order[number * size : (number + 1) * size]
            images, labels = self._source.batch(rows[share.slice(size)])
            if self._augmentation:
                random = np.random.default_rng([_AUGMENTATION, self._seed, epoch, number])
                images = augment(images, self._augmentation, random, share, size)
            yield Batch(images, labels, whole)

    def in_order(self, share: Shard = ALL) -> Iterator[Batch]:
        for start in range(0, len(self._source), self._batch_size):
            whole = min(self._batch_size, len(self._source) - start)
            part = share.slice(whole)
            images, labels = self._source.batch(slice(start + part.start, start + part.stop))
            yield Batch(images, labels, whole)


class LoaderFeed:
    """Batches from a user's loader: any iterable of (images, labels)."""

    def __init__(
        self,
        source: Iterable[Any],
        name: str = "data",
        seeded: Seeded | None = None,
        *,
        wide: bool = False,
    ) -> None:
        """Wrap an iterable that can be iterated repeatedly.

        Args:
            source: iterable such as a ``torch.utils.data.DataLoader``.
            name: name of the data, for messages.
            seeded: makes a context in which random numbers depend on the batch only.
            wide: whether to keep images in double precision.
        """
        self._wide = wide
        self._source = source
        self._what = name
        self._seeded = seeded
        self._length = self._look_at()

    def __len__(self) -> int:
        return self._length

    @property
    def whole_length(self) -> int:
        return self._length

    def shuffle(self, epoch: int, first: int, share: Shard) -> Iterator[Batch]:
        for images, labels in itertools.islice(self._batches(epoch), first, None):
            mine, whole = share.for_training(len(labels))
            part = mine.slice(len(labels))
            yield Batch(images[part], labels[part], whole)

    def in_order(self, share: Shard = ALL) -> Iterator[Batch]:
        for images, labels in self._batches(0):
            part = share.slice(len(labels))
            yield Batch(images[part], labels[part], len(labels))

    def _batches(self, epoch: int) -> Iterator[tuple[Images, ClassLabels]]:
        for item in draw_batches(self._source, epoch, self._seeded):
            yield _as_batch(item, self._what, self._wide)

    def _look_at(self) -> int:
        """Inspect the data, and count the batches of an epoch.

        Raises:
            DataError: there are none, all are of one class, or they can be iterated only once.
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
                f"{self._what}: expected something that can be iterated again, such as a list or "
                f"a DataLoader; received a {type(self._source).__name__} that is used up"
            )
        return count


def _check_shift(shift: int, source: LabelledImages, name: str) -> None:
    """Refuse to shift images out of sight: a border as wide as an image leaves nothing of it."""
    sides = source.batch(slice(0, 1))[0].shape[2:] if shift else ()
    if sides and shift >= min(sides):
        raise DataError(
            f"shift: expected fewer pixels than the {name} images have ("
            f"{' x '.join(map(str, sides))}); received {shift}. Such as shift={min(sides) // 8}."
        )


def as_feed(
    source: Any,
    batch_size: int,
    seed: int = 0,
    augmentation: Augmentation = Augmentation(),
    name: str = "data",
    seeded: Seeded | None = None,
    *,
    wide: bool = False,
) -> Feed:
    """Convert a user's data to a feed.

    Args:
        source: a ``secateurs.data.Split``, a pair (images, labels) of arrays, or an iterable of
            such pairs, one per batch, that can be iterated repeatedly (a DataLoader).
        batch_size: batch size; a loader has its own.
        seed: seed of the order.
        augmentation: augmentation of training images; a loader does its own.
        name: name of the data for messages, such as "train".
        seeded: see ``LoaderFeed``.
        wide: whether to keep data in double precision, for models of that precision.

    Raises:
        DataError: the data are empty, of one class, or of another kind.
    """
    if isinstance(source, tuple) and len(source) == 2:
        source = ArrayPair(*source, name, wide=wide)
    if hasattr(source, "batch") and hasattr(source, "labels"):
        check_classes(set(np.unique(source.labels).tolist()), name)
        _check_shift(augmentation.shift, source, name)
        return ArrayFeed(source, batch_size, seed, augmentation)
    if isinstance(source, Iterable) and not isinstance(source, (str, bytes)):
        return LoaderFeed(source, name, seeded, wide=wide)
    raise DataError(
        f"{name}: expected a secateurs.data.Split, a pair (images, labels) or an iterable of such "
        f"pairs; received {type(source).__name__}"
    )


def is_labelled_images(source: Any) -> bool:
    """Whether data are a split, or two arrays of which the second holds one class per image."""
    if hasattr(source, "batch") and hasattr(source, "labels"):
        return True
    if not isinstance(source, tuple) or len(source) != 2:
        return False
    labels = getattr(source[1], "shape", None)
    kind = str(getattr(source[1], "dtype", ""))
    return labels is not None and len(labels) == 1 and "int" in kind


def consecutive(feed: Feed, first: int, count: int, share: Shard = ALL) -> Iterator[Batch]:
    """Yield ``count`` training batches from batch number ``first`` of all training, over epochs."""
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
    """Augment images at random; returns new ones.

    Args:
        images: the process's part of a batch, shape (B, C, H, W).
        augmentation: what to change.
        random: random generator, which draws for the whole batch so that its division among
            processes changes nothing.
        share: which part of the batch this is.
        whole: number of images in the whole batch.
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
    """The first batches of a feed as (images, labels); can be iterated repeatedly."""

    def __init__(self, feed: Feed, count: int) -> None:
        """Select batches for calibration.

        Args:
            feed: feed to iterate in order, not augmented.
            count: largest number of batches.
        """
        self._feed, self._count = feed, count

    def __iter__(self) -> Iterator[tuple[Images, ClassLabels]]:
        for batch in itertools.islice(self._feed.in_order(), self._count):
            yield batch.images, batch.labels


def check_labels(labels: ClassLabels, classes: int) -> None:
    """Raise ``DataError`` if a label is out of range for a model with this many outputs."""
    if labels.max(initial=0) >= classes or labels.min(initial=0) < 0:
        raise DataError(
            f"expected labels of 0 to {classes - 1}, as the model has {classes} outputs; received "
            f"labels of {labels.min()} to {labels.max()}"
        )


def mix(images: Images, augmentation: Augmentation, random: np.random.Generator) -> Images:
    """Mix images with one another in a share of calls: blend them, or swap in a patch.

    Args:
        images: a whole batch, shape (B, C, H, W).
        augmentation: its ``mix`` is the share of calls.
        random: random generator.

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
    side = float(random.random()) ** 0.5  # so that the patch's area is uniformly distributed
    rows, columns = int(height * side), int(width * side)
    top = int(random.integers(height - rows + 1))
    left = int(random.integers(width - columns + 1))
    patched = images.copy()
    place = (..., slice(top, top + rows), slice(left, left + columns))
    patched[place] = others[place]
    return patched


def check_classes(classes: set[int], name: str) -> None:
    """Raise ``DataError`` if there are fewer than two classes."""
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
    """Check that labels are integers, and convert them to int64.

    Raises:
        DataError: they are not; the message says how to convert them.
    """
    if value is None:
        raise DataError(f"{name}: expected labels beside the images; received None")
    labels = _as_numbers(value, f"{name}: labels")
    if labels.ndim == 2 and labels.shape[1] > 1 and labels.size and _one_hot(labels):
        raise DataError(
            f"{name}: expected labels that are classes, one whole number an image; received "
            f"one-hot labels of shape {labels.shape}. Pass labels.argmax(axis=1)."
        )
    if labels.dtype.kind == "f" and not (labels == np.floor(labels)).all():
        raise DataError(
            f"{name}: expected labels that are classes, whole numbers from 0; received "
            f"{labels.dtype} such as {labels.ravel()[np.argmax(labels != np.floor(labels))]}. For "
            'another task, pass it: task="regression", or loss= and metric=.'
        )
    return labels.astype(np.int64)


def _one_hot(labels: NDArray[Any]) -> bool:
    return bool(((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all())


def as_array(values: Any) -> NDArray[Any]:
    """Convert lists, arrays or tensors of any framework on any device to an array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if str(values.dtype) == "torch.bfloat16":
            values = values.float()
    array = np.asarray(values)
    # NumPy has no bfloat16 of its own, and few of its functions accept the extension type.
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _as_models_take(images: Images, wide: bool) -> Images:
    """Convert images to the precision of training: single, or double for double models."""
    if images.dtype == np.uint8:
        return images.astype(np.float64 if wide else np.float32)
    return images.astype(np.float32) if images.dtype == np.float64 and not wide else images


def known_length(source: object) -> int | None:
    """Length of something; None if it has none.

    A DataLoader over an ``IterableDataset`` defines a length but raises when it is asked for it.
    """
    try:
        return len(source) if isinstance(source, Sized) else None
    except TypeError:
        return None
