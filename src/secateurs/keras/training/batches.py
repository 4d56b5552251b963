"""The data of a training: batches of images as a Keras model takes them, labels as classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.errors import DataError
from secateurs.keras.internals import graph_of
from secateurs.keras.statistics.loss import as_classes
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
    """Batches of a feed, whose images have channels first, with the channels last."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def __len__(self) -> int:
        return len(self._feed)

    @property
    def whole_length(self) -> int:
        """Batches in which every image is seen once."""
        return self._feed.whole_length

    def shuffle(self, epoch: int, first: int, share: Shard) -> Iterator[Batch]:
        """The batches of an epoch of training, from the ``first`` on."""
        return map(_channels_last, self._feed.shuffle(epoch, first, share))

    def in_order(self, share: Shard = ALL) -> Iterator[Batch]:
        """Every image once, not augmented."""
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
    """Data as batches for a model.

    Splits of ours have channels first, and augmentation counts on it; so arrays for a model that
    has them last are turned, and every batch is turned back.

    Args:
        model: whose images these are.
        source: a Split, a pair (images, labels), or an iterable of such pairs.
        batch_size: of arrays; a loader has its own.
        classes: how many the model scores.
        part: for messages, such as "train".
        seed: of the order.
        augmentation: of the images of arrays.

    Raises:
        DataError: the data are empty, of one class, or nothing of the kind, or do not fit the
            model.
    """
    wanted = tuple(graph_of(model).inputs[0].shape[1:])
    last = len(wanted) == 3 and _has_channels_last(wanted, source)
    if last and isinstance(source, tuple) and len(source) == 2:
        source = (np.moveaxis(np.asarray(source[0]), -1, 1), source[1])
    feed = as_feed(_with_classes(source, classes), batch_size, seed, augmentation, part)
    feed = ChannelsLastFeed(feed) if last else feed
    given = first_images(feed, 1).shape[1:]
    if not _fits(wanted, given):
        raise DataError(
            f"{part}: expected images of shape {wanted}, as {model.name} takes; received "
            f"{tuple(given)}"
        )
    return feed


def turn_for(model: keras.Model, source: LabelledImages) -> tuple[object, object]:
    """(images, labels) of a split of ours, the channels where the model has them."""
    images, labels = source.batch(slice(None))
    wanted = tuple(graph_of(model).inputs[0].shape[1:])
    if images.ndim == 4 and not _fits(wanted, images.shape[1:]):
        images = np.ascontiguousarray(np.moveaxis(images, 1, -1))
    return images, labels


def first_images(feed: Feed, count: int) -> NDArray[np.generic]:
    """The first images, at most as many as the first batch has."""
    return np.ascontiguousarray(next(feed.in_order()).images[:count])


def _has_channels_last(wanted: tuple[int | None, ...], source: object) -> bool:
    """Whether images come with channels first (as our splits), or can, and the model's are last."""
    if hasattr(source, "batch") and hasattr(source, "labels"):
        given = source.batch(slice(0, 1))[0].shape[1:]
        return not _fits(wanted, given) and _fits(wanted, (*given[1:], given[0]))
    if not (isinstance(source, tuple) and len(source) == 2):
        return False  # a loader gives images as the model takes them
    images = np.asarray(source[0])
    return images.ndim == 4 and keras.config.image_data_format() == "channels_last"


def _fits(wanted: Sequence[int | None], given: Sequence[int]) -> bool:
    return len(wanted) == len(given) and all(
        want in (None, have) for want, have in zip(wanted, given, strict=True)
    )


def _with_classes(source: object, classes: int) -> object:
    """Data whose labels are numbers of classes, where they come as rows with a single one."""
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
    """A loader whose labels come as rows."""

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
