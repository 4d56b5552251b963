"""Calibration data of any kind, and losses that take the model itself.

Most criteria see arrays: images that the model takes, labels that its outputs are held against. A
detector takes lists of images of any size and gives its losses itself, while it trains; so do the
models of Transformers that are shown their labels. Their batches stay what they are, and go through
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
"""Which examples."""


@dataclass(frozen=True, slots=True)
class StepLoss:
    """The loss of a task whose model has to be there: its own, or of a step of the user's.

    Passed in the place of a function of (outputs, labels). Who has no model to hand calls it as
    one, and is told so.

    Attributes:
        task: with a ``train_step``, a ``predict``, or a model whose outputs hold their loss.
    """

    task: LearningTask

    def __call__(self, outputs: object, targets: object) -> Any:
        """Refuse: there is no loss of outputs alone.

        Raises:
            DataError: always.
        """
        del outputs, targets
        raise DataError(
            f"task {self.task.name!r}: expected a loss of (outputs, targets); received one that "
            "trains by its model's own. Pass loss=, a function (outputs, targets) -> one loss for "
            "each example; or take what needs none, such as criterion='l1'."
        )


@dataclass(frozen=True, eq=False, slots=True)
class ExampleBatch(CalibrationBatch):
    """Some examples, inputs and targets together, as a step of training takes them.

    Attributes:
        images: the batch: a tuple, a list, a dictionary, of whatever.
        labels: none; targets are in the batch.
    """

    labels: None = None

    def __len__(self) -> int:
        return length_of(self.images)

    def rows(self, chosen: NDArray[np.int64] | slice) -> ExampleBatch:
        """Some of its examples."""
        every = np.arange(len(self))
        return ExampleBatch(rows_of(self.images, every[chosen].tolist()))


def as_given(batch: CalibrationBatch) -> Any:
    """A batch as ``read_batches`` takes it again."""
    return batch.images if isinstance(batch, ExampleBatch) else (batch.images, batch.labels)


def read_batches(
    data: Any, example_inputs: Any, caller: str, loss: Loss | None, *, labels: bool | None = None
) -> Iterator[CalibrationBatch]:
    """Calibration data, batch by batch: arrays, or where the loss takes the model, whatever it is.

    Args:
        data: as for ``secateurs.calibration.batches.iterate_batches``; or any batches.
        example_inputs: what the network was traced with.
        caller: what needs the data, for messages.
        loss: that they are for.
        labels: whether labels are needed; None: where there is no loss of the user's.

    Raises:
        DataError: there are none, or they are not what is expected.
    """
    if isinstance(loss, StepLoss):
        return iterate_examples(data, caller)
    needed = loss is None if labels is None else labels
    return iterate_batches(data, example_inputs, caller, labels=needed)


def iterate_examples(data: Any, caller: str) -> Iterator[ExampleBatch]:
    """Batches of any kind, as they are; whole arrays are cut into batches.

    Raises:
        DataError: there is no batch, or one without examples.
    """
    if data is None:
        raise DataError(f"{caller}: expected calibration data; received none. {FIX}.")
    number = -1
    for number, given in enumerate(_split(data, caller)):
        # A loader's own function makes lists: [inputs, targets].
        batch = ExampleBatch(tuple(given) if is_pair_in_list(given) else given)
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
    """The first batches of any data, of ``count`` examples together, and one example's inputs.

    Args:
        source: as ``iterate`` takes it: arrays, or batches of any kind.
        count: examples; of the last batch only so many are taken.

    Raises:
        DataError: there is none.
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
    """Whole data in arrays, as one large batch; None where they come in batches already."""
    if isinstance(source, Split):
        return source.batch(slice(None))
    pair = isinstance(source, tuple) and len(source) >= 2 and all(map(_is_array, source))
    pair = pair or _is_pair_of_several(source)
    named = isinstance(source, Mapping) and source and all(map(_is_array, source.values()))
    if isinstance(source, tuple) and len(source) == 2 and isinstance(source[0], Mapping):
        return {**source[0], "labels": source[1]}
    return source if pair or named or _is_array(source) else None


def _is_pair_of_several(source: object) -> bool:
    """Whether this is (inputs, targets), one of them in one array and the other in several."""
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
    """Batches that can be gone through again; none of what is used up by a look."""
    if isinstance(source, str | bytes | Mapping) or not isinstance(source, Iterable):
        return ()
    return source if isinstance(source, Sized) else ()


def rows_of(batch: object, rows: IndexSequence) -> object:
    """Some examples of a batch."""
    if isinstance(batch, Mapping):
        return {key: rows_of(value, rows) for key, value in batch.items()}
    if isinstance(batch, tuple):
        return tuple(rows_of(value, rows) for value in batch)
    if isinstance(batch, list):  # of images or targets, one an example
        return [batch[row] for row in np.asarray(rows)]
    return batch[np.asarray(rows)] if _is_array(batch) else batch  # type: ignore[index]


def length_of(batch: object) -> int:
    """Examples in a batch."""
    if isinstance(batch, Mapping):
        batch = next(iter(batch.values()), ())
    if isinstance(batch, tuple) or is_pair_in_list(batch):
        batch = batch[0] if len(batch) else ()
        return length_of(batch) if isinstance(batch, Mapping) else _length(batch)
    return _length(batch)


def _length(batch: object) -> int:
    return len(batch) if isinstance(batch, Sized) else 1


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


def _is_array(value: object) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and len(value.shape) > 0


def is_pair_in_list(batch: object) -> TypeGuard[list[object]]:
    """Whether a list is [inputs, targets], as a DataLoader gives it, and not one of examples."""
    return isinstance(batch, list) and len(batch) == 2 and all(_is_array(part) for part in batch)
