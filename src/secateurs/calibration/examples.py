"""Calibration data of any kind, and losses that need the model itself.

Most criteria see arrays: images that the model takes, labels that its outputs are compared with. A
detector takes lists of images of any size and computes its losses itself in training mode; so do
Transformers models that are given labels. Batches of such data stay as they are, and are processed
one example at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from secateurs.calibration.batches import (
    AT_A_TIME,
    FIX,
    LABELS,
    CalibrationBatch,
    iterate_batches,
)
from secateurs.data.sets import Split
from secateurs.errors import DataError

if TYPE_CHECKING:
    from secateurs.backends import Loss
    from secateurs.training.task import LearningTask

IndexSequence = NDArray[np.int64] | Sequence[int]
"""Indices of examples."""


@dataclass(frozen=True, slots=True)
class StepLoss:
    """Loss of a task that needs the model: the model's own loss, or a user's training step.

    It is passed in place of a function of (outputs, labels). Code without access to the model calls
    it like one, and receives an error that explains this.

    Attributes:
        task: task with a ``train_step``, a ``predict``, or a model whose outputs hold their loss.
    """

    task: LearningTask

    def __call__(self, outputs: object, targets: object) -> Any:
        """Raise, because the loss cannot be computed from outputs alone.

        Raises:
            DataError: always.
        """
        del outputs, targets
        raise DataError(
            f"task {self.task.name!r}: expected a loss of (outputs, targets); received a task "
            "that trains with the model's own loss. Pass loss=, a function (outputs, targets) -> "
            "one loss for each example; or use a criterion that needs none, such as "
            "criterion='l1'."
        )


@dataclass(frozen=True, eq=False, slots=True)
class ExampleBatch(CalibrationBatch):
    """Some examples with inputs and targets together, as a training step takes them.

    Attributes:
        images: the batch: a tuple, list or dictionary of anything.
        labels: None; targets are in the batch.
    """

    labels: None = None

    def __len__(self) -> int:
        return length_of(self.images)

    def rows(self, chosen: NDArray[np.int64] | slice) -> ExampleBatch:
        """Select some of its examples."""
        every = np.arange(len(self))
        return ExampleBatch(rows_of(self.images, every[chosen].tolist()))


def as_given(batch: CalibrationBatch) -> Any:
    """Convert a batch back to the form that ``read_batches`` takes."""
    return batch.images if isinstance(batch, ExampleBatch) else (batch.images, batch.labels)


def read_batches(
    data: Any, example_inputs: Any, caller: str, loss: Loss | None, *, labels: bool | None = None
) -> Iterator[CalibrationBatch]:
    """Iterate over calibration data: as arrays, or unchanged if the loss needs the model.

    Args:
        data: as for ``secateurs.calibration.batches.iterate_batches``; or any batches.
        example_inputs: inputs that the network was traced with.
        caller: name of what needs the data, for messages.
        loss: loss that the data are for.
        labels: whether labels are needed; None: if there is no loss of the user's.

    Raises:
        DataError: the data are empty, or do not have the expected form.
    """
    if isinstance(loss, StepLoss):
        return iterate_examples(data, caller)
    needed = loss is None if labels is None else labels
    return iterate_batches(data, example_inputs, caller, labels=needed)


def iterate_examples(data: Any, caller: str) -> Iterator[ExampleBatch]:
    """Iterate over batches of any kind, unchanged; whole arrays are cut into batches.

    Raises:
        DataError: there is no batch, or an empty one.
    """
    if data is None:
        raise DataError(f"{caller}: expected calibration data; received none. {FIX}.")
    number = -1
    for number, given in enumerate(_split(data, caller)):
        # DataLoader's default collate function returns lists: [inputs, targets].
        batch = ExampleBatch(tuple(given) if is_pair_in_list(given) else as_detections(given))
        if not len(batch):
            raise DataError(
                f"{caller}: calibration batch {number}: expected examples; received "
                f"{type(given).__name__} without"
            )
        yield batch
    if number < 0:
        raise DataError(f"{caller}: expected calibration data; received no batch. {FIX}.")


def _split(data: Any, caller: str) -> Iterator[Any]:
    whole = as_arrays(data)
    if whole is not None:
        for start in range(0, length_of(whole), AT_A_TIME):
            yield rows_of(whole, range(start, min(start + AT_A_TIME, length_of(whole))))
    elif isinstance(data, Iterable) and not isinstance(data, str | bytes | Mapping):
        yield from data
    else:
        raise DataError(
            f"{caller}: expected batches, or arrays; received {type(data).__name__}. {FIX}."
        )


def first_batches(source: Any, count: int) -> tuple[list[Any], Any]:
    """The first batches of any data, with ``count`` examples in total, and one example's inputs.

    Args:
        source: data as for ``iterate``: arrays, or batches of any kind.
        count: number of examples; the last batch is cut to fit.

    Raises:
        DataError: there is no batch.
    """
    found: list[Any] = []
    seen = 0
    for batch in iterate_examples(source, "data"):
        found.append(
            batch.images
            if seen + len(batch) <= count
            else rows_of(batch.images, range(count - seen))
        )
        seen += len(batch)
        if seen >= count:
            break
    inputs = split_of(rows_of(found[0], [0]))[0]
    return found, (inputs,) if isinstance(inputs, list) else inputs  # a list is one argument


def as_arrays(source: object) -> object:
    """Whole data in arrays as one large batch; None if they come in batches already."""
    if isinstance(source, Split):
        return source.batch(slice(None))
    pair = isinstance(source, tuple) and len(source) >= 2 and all(map(_is_array, source))
    pair = pair or _is_pair_of_several(source)
    named = isinstance(source, Mapping) and source and all(map(_is_array, source.values()))
    if isinstance(source, tuple) and len(source) == 2 and isinstance(source[0], Mapping):
        return {**source[0], "labels": source[1]}
    return source if pair or named or _is_array(source) else None


def _is_pair_of_several(source: object) -> bool:
    """Whether this is (inputs, targets) with one of them a single array and the other several."""
    if not isinstance(source, tuple) or len(source) != 2 or not any(map(_is_array, source)):
        return False
    lengths = set()
    for part in source:
        several = list(part.values()) if isinstance(part, Mapping) else part
        arrays = [part] if _is_array(part) else several
        if not isinstance(arrays, list | tuple) or not arrays or not all(map(_is_array, arrays)):
            return False
        if isinstance(part, list):  # of examples
            return False
        lengths |= {len(one) for one in arrays}
    return len(lengths) == 1


def batches_again(source: object) -> Iterable[object]:
    """Batches that can be iterated repeatedly; () for iterators that a look would exhaust."""
    if isinstance(source, str | bytes | Mapping) or not isinstance(source, Iterable):
        return ()
    return source if isinstance(source, Sized) else ()


def rows_of(batch: object, rows: IndexSequence) -> object:
    """Select some examples of a batch."""
    batch = as_detections(batch)
    if isinstance(batch, Mapping):
        return {key: rows_of(value, rows) for key, value in batch.items()}
    if isinstance(batch, tuple):
        return tuple(rows_of(value, rows) for value in batch)
    if isinstance(batch, list):  # one image or target per example
        return [batch[row] for row in np.asarray(rows)]
    return batch[np.asarray(rows)] if _is_array(batch) else batch  # type: ignore[index]


def length_of(batch: object) -> int:
    """Number of examples in a batch."""
    batch = as_detections(batch)
    if isinstance(batch, Mapping):
        batch = next(iter(batch.values()), ())
    if isinstance(batch, tuple) or is_pair_in_list(batch):
        first = batch[0] if len(batch) else []
        # Several inputs come in a tuple of their own: its length is their number.
        return length_of(first) if isinstance(first, Mapping | tuple) else _length(first)
    return _length(batch)


def _length(batch: object) -> int:
    return len(batch) if isinstance(batch, Sized) else 1


def split_of(batch: object) -> tuple[object, object]:
    """Split a batch into (inputs, targets or None)."""
    batch = as_detections(batch)
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


def _is_array(value: object) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and len(value.shape) > 0


def as_detections(batch: object) -> object:
    """A batch of detections as (list of images, list of targets); any other unchanged.

    The collate function of torchvision's references, ``tuple(zip(*batch))``, makes tuples of both,
    and a tuple of tensors would be several inputs. Targets in dictionaries, as many as images, tell
    them apart.

    Example:
        >>> images = (np.zeros((3, 8, 8)), np.zeros((3, 6, 8)))
        >>> found = as_detections([images, ({"boxes": []}, {"boxes": []})])
        >>> [type(part).__name__ for part in found], length_of(found)
        (['list', 'list'], 2)
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        return batch
    images, targets = batch
    if not isinstance(images, tuple | list) or not isinstance(targets, tuple | list):
        return batch
    are_alike = 0 < len(images) == len(targets)
    if not are_alike or not all(isinstance(target, Mapping) for target in targets):
        return batch
    return (list(images), list(targets)) if all(map(_is_array, images)) else batch


def is_pair_in_list(batch: object) -> TypeGuard[list[object]]:
    """Whether a list is [inputs, targets], as from a DataLoader, and not a list of examples."""
    return isinstance(batch, list) and len(batch) == 2 and all(_is_array(part) for part in batch)
