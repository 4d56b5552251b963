"""Batches of any kind: tensors, tuples, dictionaries, lists of images, what a tokenizer gives."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secateurs.calibration.batches import LABELS
from secateurs.data.sets import Split
from secateurs.errors import DataError
from secateurs.training.feed import ALL, Batch, Images, Shard

Indices = NDArray[np.int64] | Sequence[int]
"""Which examples."""

_NO_LABELS = np.zeros(0, np.int64)


class AnyFeed:
    """Batches as their user has them; ``Batch.images`` holds one of them, whole.

    Args:
        source: an iterable of batches that can be gone through again; or a pair of arrays, a
            dictionary of arrays or a ``Split``, which are cut into batches.
        batch_size: of arrays; a loader has its own.
        seed: of the order of arrays.
        what: for messages.
        seeded: makes a context in which a loader's shuffling depends on the epoch alone.

    Raises:
        DataError: there is no batch, or they are gone once seen.
    """

    def __init__(
        self,
        source: object,
        batch_size: int,
        seed: int = 0,
        name: str = "data",
        seeded: Callable[[int], AbstractContextManager[object]] | None = None,
    ) -> None:
        self._arrays = _as_arrays(source)
        self._source: Iterable[object] = source if isinstance(source, Iterable) else ()
        self._what, self._seed = name, seed
        self._seeded = seeded or (lambda epoch: nullcontext())
        if self._arrays is not None:
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
        """Batches in which every example is seen once."""
        return self._length

    def shuffle(self, epoch: int, first: int, share: Shard) -> Iterator[Batch]:
        """The batches of an epoch of training, from the ``first`` on."""
        batches = itertools.islice(self._batches(epoch, shuffle=True), first, None)
        return (self._part(batch, share) for batch in batches)

    def in_order(self, share: Shard = ALL) -> Iterator[Batch]:
        """Every example once."""
        return (self._part(batch, share) for batch in self._batches(0, shuffle=False))

    def _batches(self, epoch: int, *, shuffle: bool) -> Iterator[object]:
        if self._arrays is None:
            with self._seeded(epoch):  # samplers draw when the first batch is asked for
                items = iter(self._source)
                first = next(items, None)
            yield from items if first is None else itertools.chain([first], items)
            return
        count = length_of(self._arrays)
        order = np.arange(count)
        if shuffle:
            order = np.random.default_rng([5, self._seed, epoch]).permutation(count)
        for start in range(0, count, self._size):
            yield rows_of(self._arrays, order[start : start + self._size])

    def _part(self, batch: object, share: Shard) -> Batch:
        whole = length_of(batch)
        if share.of > 1:
            part = share.slice(whole)
            batch = rows_of(batch, np.arange(part.start, part.stop))
        return Batch(cast(Images, batch), _NO_LABELS, whole)  # whatever it is: see the class

    def _count_batches(self) -> int:
        if self._arrays is not None:
            count = -(-length_of(self._arrays) // max(1, self._size))
        elif isinstance(self._source, Sized):
            count = len(self._source)
        else:
            count = sum(1 for _ in self._batches(0, shuffle=False))
        if not count or next(iter(self._batches(0, shuffle=False)), None) is None:
            raise DataError(
                f"{self._what}: expected at least one batch, from something that can be gone "
                "through again, such as a list or a DataLoader; received none"
            )
        return count


def rows_of(batch: object, rows: Indices) -> object:
    """Some examples of a batch."""
    if isinstance(batch, Mapping):
        return {key: rows_of(value, rows) for key, value in batch.items()}
    if isinstance(batch, tuple):
        return tuple(rows_of(value, rows) for value in batch)
    if isinstance(batch, list):  # of images or targets, one an example
        return [batch[row] for row in np.asarray(rows)]
    if isinstance(batch, torch.Tensor):
        return batch[torch.as_tensor(np.asarray(rows), device=batch.device)]
    return batch[rows] if isinstance(batch, np.ndarray) else batch


def on_device(batch: object, device: torch.device) -> object:
    """The batch as tensors where the model is; floating-point ones in single precision."""
    if isinstance(batch, Mapping):
        return {key: on_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(on_device(value, device) for value in batch)
    if isinstance(batch, np.ndarray) and batch.dtype.kind in "biuf":
        batch = torch.from_numpy(np.ascontiguousarray(batch))
    if isinstance(batch, torch.Tensor):
        batch = batch.float() if batch.dtype == torch.float64 else batch
        return batch.to(device, non_blocking=True)
    return batch


def split_of(batch: object) -> tuple[object, object]:
    """(inputs, targets or None) of a batch."""
    if isinstance(batch, Mapping):
        key = next((name for name in LABELS if name in batch), None)
        inputs = {name: value for name, value in batch.items() if name != key}
        return inputs, None if key is None else batch[key]
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    if isinstance(batch, tuple | list) and len(batch) > 2:
        return tuple(batch[:-1]), batch[-1]
    if isinstance(batch, tuple | list) and len(batch) == 1:
        return batch[0], None
    return batch, None


def call_model(model: nn.Module, inputs: object) -> object:
    """The model's outputs for inputs of any kind."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def takes_targets(model: nn.Module, batch: object) -> bool:
    """Whether a dictionary's targets are arguments of the model, which then gives its own loss."""
    if not isinstance(batch, Mapping):
        return False
    key = next((name for name in LABELS if name in batch), None)
    return key is not None and key in inspect.signature(model.forward).parameters


def _as_arrays(source: object) -> object:
    """Whole data in arrays, as one large batch; None where they come in batches already."""
    if isinstance(source, Split):
        return source.batch(slice(None))
    pair = isinstance(source, tuple) and len(source) >= 2 and all(map(_is_array, source))
    named = isinstance(source, Mapping) and source and all(map(_is_array, source.values()))
    if isinstance(source, tuple) and len(source) == 2 and isinstance(source[0], Mapping):
        return {**source[0], "labels": source[1]}
    return source if pair or named else None


def _is_array(value: object) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and len(value.shape) > 0


def length_of(batch: object) -> int:
    """Examples in a batch."""
    if isinstance(batch, Mapping):
        batch = next(iter(batch.values()), ())
    if isinstance(batch, tuple) or (isinstance(batch, Sequence) and _holds_parts(batch)):
        batch = batch[0] if len(batch) else ()
        return length_of(batch) if isinstance(batch, Mapping) else len(batch)
    return len(batch) if isinstance(batch, Sized) else 1


def _holds_parts(batch: Sequence[object]) -> bool:
    """Whether a list is [inputs, targets], as a DataLoader gives it, and not one of examples."""
    return len(batch) == 2 and all(_is_array(part) for part in batch)
