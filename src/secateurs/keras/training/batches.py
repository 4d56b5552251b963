"""Training data: batches of images in the model's layout, with class labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.data.sets import Split
from secateurs.errors import DataError
from secateurs.keras.internals import graph_of
from secateurs.keras.statistics.loss import as_classes
from secateurs.keras.training.random_numbers import seed_generators
from secateurs.training.feed import (
    ALL,
    Augmentation,
    Batch,
    Feed,
    LabelledImages,
    Shard,
    as_feed,
)


class ChannelsLastFeed:
    """Feed that converts the images of another feed from channels first to channels last."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def __len__(self) -> int:
        return len(self._feed)

    @property
    def whole_length(self) -> int:
        """Number of batches in which every image is seen once."""
        return self._feed.whole_length

    def shuffle(self, epoch: int, first: int, share: Shard) -> Iterator[Batch]:
        """Iterate over the batches of a training epoch, starting at batch ``first``."""
        return map(_channels_last, self._feed.shuffle(epoch, first, share))

    def in_order(self, share: Shard = ALL) -> Iterator[Batch]:
        """Iterate over every image once, without augmentation."""
        return map(_channels_last, self._feed.in_order(share))


def _channels_last(batch: Batch) -> Batch:
    return replace(batch, images=np.ascontiguousarray(np.moveaxis(batch.images, 1, -1)))


def feed_of(
    model: keras.Model,
    source: object,
    batch_size: int,
    classes: int,
    part: str,
    seed: int,
    augmentation: Augmentation,
) -> Feed:
    """Return a feed of batches for a model.

    ``Split`` has channels first, and augmentation relies on it. So arrays for a model with channels
    last are converted to channels first, and each batch is converted back.

    Args:
        model: model to train.
        source: a Split, a pair (images, labels), or an iterable of such pairs.
        batch_size: batch size for arrays; a loader has its own.
        classes: number of classes that the model scores.
        part: name of the split for error messages, such as "train".
        seed: seed of the order.
        augmentation: augmentation of the images of arrays.

    Raises:
        DataError: the data are empty, have a single class, are of an unknown kind, or do not fit
            the model.
    """
    if isinstance(source, Split):
        source = replace(source, channels_last=False)
    wanted = tuple(graph_of(model).inputs[0].shape[1:])
    last = len(wanted) == 3 and _has_channels_last(wanted, source)
    if last and isinstance(source, tuple) and len(source) == 2:
        source = (np.moveaxis(np.asarray(source[0]), -1, 1), source[1])
    feed = as_feed(
        _with_classes(source, classes),
        batch_size,
        seed,
        augmentation,
        part,
        lambda epoch, number: seed_generators(seed, epoch, number),
    )
    feed = ChannelsLastFeed(feed) if last else feed
    given = first_images(feed, 1).shape[1:]
    if not _fits(wanted, given):
        raise DataError(
            f"{part}: expected images of shape {wanted}, as {model.name} takes; received "
            f"{tuple(given)}"
        )
    return feed


def turn_for(model: keras.Model, source: LabelledImages) -> tuple[object, object]:
    """Return (images, labels) of a ``Split`` in the model's layout."""
    images, labels = source.batch(slice(None))
    wanted = tuple(graph_of(model).inputs[0].shape[1:])
    if images.ndim == 4 and not _fits(wanted, images.shape[1:]):
        images = np.ascontiguousarray(np.moveaxis(images, 1, -1))
    return images, labels


def first_images(feed: Feed, count: int) -> NDArray[np.generic]:
    """Return the first ``count`` images, or the first batch if it has fewer."""
    return np.ascontiguousarray(next(feed.in_order()).images[:count])


def has_channels_last(model: keras.Model, shape: tuple[int, int, int]) -> bool:
    """Return whether a model takes images of shape (C, H, W) with their channels last.

    Where both layouts fit its input, it is Keras's own setting that decides.
    """
    inputs = getattr(graph_of(model), "inputs", None) or ()
    wanted = tuple(inputs[0].shape[1:]) if inputs else ()
    channels, *sides = shape
    first, last = _fits(wanted, shape), _fits(wanted, (*sides, channels))
    is_usual: bool = keras.config.image_data_format() == "channels_last"
    return last if first != last else is_usual


def _has_channels_last(wanted: tuple[int | None, ...], source: object) -> bool:
    """Return whether the model has channels last, and the images can be fed with channels first."""
    if hasattr(source, "batch") and hasattr(source, "labels"):
        given = source.batch(slice(0, 1))[0].shape[1:]
        return not _fits(wanted, given) and _fits(wanted, (*given[1:], given[0]))
    if not (isinstance(source, tuple) and len(source) == 2):
        return False  # a loader yields images in the model's layout
    images = np.asarray(source[0])
    return images.ndim == 4 and keras.config.image_data_format() == "channels_last"


def _fits(wanted: Sequence[int | None], given: Sequence[int]) -> bool:
    return len(wanted) == len(given) and all(
        want in (None, have) for want, have in zip(wanted, given, strict=True)
    )


def _with_classes(source: object, classes: int) -> object:
    """Return the data with one-hot labels converted to class indices."""
    if isinstance(source, tuple) and len(source) == 2:
        return source[0], _as_numbers_of_classes(source[1], classes)
    if hasattr(source, "batch") or not isinstance(source, Iterable):
        return source
    if isinstance(source, (str, bytes, Iterator)):
        return source
    return _Relabelled(source, classes)


def _as_numbers_of_classes(labels: object, classes: int) -> NDArray[np.generic]:
    numbers = np.asarray(as_classes(np.asarray(labels), classes, (None,)))
    if numbers.ndim == 2:
        raise DataError(
            f"expected labels from 0 to {classes - 1}, one an image, or rows of {classes} with a "
            f"single 1; received shape {numbers.shape}. Pass labels.argmax(axis=1), or train with "
            "fit, between cuts by secateurs.prune."
        )
    return numbers


class _Relabelled:
    """Loader that converts the one-hot labels of another loader to class indices."""

    def __init__(self, source: Iterable[object], classes: int) -> None:
        self._source, self._classes = source, classes

    def __iter__(self) -> Iterator[object]:
        for item in self._source:
            if isinstance(item, (tuple, list)) and len(item) == 2:
                yield item[0], _as_numbers_of_classes(item[1], self._classes)
            else:
                yield item

    def __getattr__(self, name: str) -> object:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._source)  # type: ignore[arg-type]
