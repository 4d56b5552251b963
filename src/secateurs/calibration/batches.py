"""Calibration data as users pass them, converted to checked batches of NumPy arrays.

Nothing here depends on a framework: tensors of any are converted to arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.data.sets import Split
from secateurs.errors import DataError

AT_A_TIME = 128
"""Batch size if the data are whole arrays."""

LABELS = ("labels", "label", "targets", "target")
"""Keys of the targets in a dictionary; the first one present is used."""

MASKS = ("attention_mask", "padding_mask", "decoder_attention_mask", "decoder_padding_mask")
"""Names of padding masks: 1 where a token is, 0 for padding."""

FIX = "Pass data=(images, labels), two arrays, or an iterable of such batches"


_LISTS = (
    "expected a model that takes arrays; received one that takes a list of images, as detectors "
    "do. Pass task='detection' and batches (images, targets); leave the data out; or choose "
    "channels by what the detector computes, without labels: prune(..., calibration=images)."
)


@dataclass(frozen=True, eq=False, slots=True)
class CalibrationBatch:
    """Some images in the model's input format, with labels if there are any.

    Attributes:
        images: an array, or a tuple or dictionary of arrays, with the images along axis 0.
        labels: one entry for each image, or None.
    """

    images: Any
    labels: NDArray[Any] | None

    def __len__(self) -> int:
        return len(self.arrays[0])

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """Every array of the images: one, or those of a tuple or dictionary."""
        return _arrays(self.images)

    @property
    def present_places(self) -> dict[int, NDArray[np.bool_]]:
        """Length of sequences -> mask of the places that are not padding, (examples, length).

        Read from the masks that are passed to the model with its texts; empty if there are none, or
        none marks any padding. Two masks of the same length that differ are both ignored, because
        values of that length could belong to either.

        Example:
            >>> texts = {"input_ids": np.array([[7, 5, 0]])}
            >>> texts["attention_mask"] = np.array([[1, 1, 0]])
            >>> CalibrationBatch(texts, None).present_places
            {3: array([[ True,  True, False]])}
        """
        if not isinstance(self.images, Mapping):
            return {}
        found: dict[int, NDArray[np.bool_]] = {}
        unclear = set()
        for name in MASKS:
            mask = self.images.get(name)
            if mask is None or np.ndim(mask) != 2:
                continue
            present = np.asarray(mask) > 0
            length = present.shape[1]
            if length in found and not np.array_equal(found[length], present):
                unclear.add(length)
            found[length] = present
        return {n: one for n, one in found.items() if n not in unclear and not one.all()}

    def rows(self, chosen: NDArray[np.int64] | slice) -> CalibrationBatch:
        """Select some of its images."""
        return CalibrationBatch(
            _each(self.images, lambda array: array[chosen]),
            None if self.labels is None else self.labels[chosen],
        )


def iterate_batches(
    data: Any, example_inputs: Any, caller: str, *, labels: bool
) -> Iterator[CalibrationBatch]:
    """Iterate over calibration data in checked batches.

    Args:
        data: (images, labels) as two arrays or tensors, images alone, a ``secateurs.data.Split``,
            or an iterable of batches, each (images, labels) or images alone.
        example_inputs: inputs that the network was traced with; images must have their form.
        caller: name of what needs the data, for messages.
        labels: whether labels are needed.

    Raises:
        DataError: the data are empty, hold NaN, lack labels that are needed, or do not have the
            form of the example inputs.
    """
    if data is None:
        raise DataError(
            f"{caller}: expected calibration data; received none. {FIX}"
            f"{'' if labels else '; labels may be left out'}."
        )
    if any(isinstance(one, list) for one in _arrays(example_inputs)):
        raise DataError(f"{caller}: {_LISTS}")
    like = _each(example_inputs, as_array)
    number = -1
    for number, given in enumerate(_split_batches(data, like)):
        yield _check(given, like, f"{caller}: calibration batch {number}", labels)
    if number < 0:
        raise DataError(f"{caller}: expected calibration data; received no batch. {FIX}.")


def as_array(value: Any) -> NDArray[Any]:
    """Convert a tensor of any framework to an array."""
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # NumPy has no such type
            value = value.float()
    try:
        return np.asarray(value)
    except ValueError as error:  # lists of several lengths
        raise DataError(
            f"expected an array of numbers; received a {type(value).__name__} of entries of "
            f"several shapes. Pad them to one length, or pass them batch by batch."
        ) from error


def match_types(made: Any, like: Any, caller: str) -> Any:
    """Images that a user's function made, as arrays of the types that the model takes.

    Args:
        made: what it returned.
        like: the images that it was given.
        caller: name of what needs them, for messages.

    Raises:
        DataError: it returned something of another form.
    """
    made = _each(made, as_array)
    pairs = list(zip(_arrays(made), _arrays(like), strict=False))
    alike = len(_arrays(made)) == len(_arrays(like)) and all(a.shape == b.shape for a, b in pairs)
    if not alike or isinstance(made, Mapping) != isinstance(like, Mapping):
        raise DataError(
            f"{caller}: expected augmentation= to return images of shape {_shapes(like)}, as it "
            f"was given; received {_shapes(made)}"
        )
    if isinstance(like, Mapping):
        return {key: made[key].astype(like[key].dtype) for key in like}
    if isinstance(like, tuple):
        return tuple(a.astype(b.dtype) for a, b in pairs)
    return made.astype(like.dtype)


def _shapes(images: Any) -> str:
    return ", ".join(str(np.shape(array)) for array in _arrays(images))


def _each(value: Any, function: Any) -> Any:
    """Apply a function to an array, or to each in a tuple, list or dictionary."""
    if isinstance(value, Mapping):
        return {key: function(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(function(item) for item in value)
    return function(value)


def _arrays(images: Any) -> list[NDArray[Any]]:
    if isinstance(images, Mapping):
        return list(images.values())
    return list(images) if isinstance(images, (tuple, list)) else [images]


def _split_batches(data: Any, like: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (images, labels or None) of each batch, unchecked."""
    if isinstance(data, Split):
        for start in range(0, len(data), AT_A_TIME):
            yield data.batch(slice(start, start + AT_A_TIME))
    elif isinstance(data, Mapping):
        yield from _slice(*_separate_labels(data, like))
    elif _is_array(data):
        yield from _slice(data, None)
    elif isinstance(data, tuple) and len(data) == 2 and _is_pair(data, like):
        yield from _slice(*data)
    elif _are_inputs(data, like):
        yield from _slice(data, None)
    elif isinstance(data, Iterable):
        for batch in data:
            yield _split(batch, like)
    else:
        raise DataError(f"expected calibration data; received {type(data).__name__}. {FIX}.")


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _are_inputs(data: Any, like: Any) -> bool:
    """Whether data are one array for each of several inputs, not a sequence of batches."""
    if not (isinstance(data, tuple) and isinstance(like, tuple) and len(data) == len(like) > 1):
        return False
    if not all(map(_is_array, data)) or len({tuple(one.shape)[:1] for one in data}) > 1:
        return False
    return all(tuple(one.shape)[1:] == each.shape[1:] for one, each in zip(data, like, strict=True))


def _is_pair(data: Any, like: Any) -> bool:
    """Whether data are (images, labels), not two batches, nor one batch of two inputs."""
    images, labels = data
    if isinstance(images, (tuple, list, Mapping)):
        return not isinstance(labels, (tuple, list, Mapping))
    two_inputs = isinstance(like, tuple) and len(like) == 2
    return _is_array(images) and (labels is None or _is_array(labels)) and not two_inputs


def _split(batch: Any, like: Any) -> tuple[Any, Any]:
    """Split one batch of an iterable into (images, labels or None)."""
    if isinstance(batch, Mapping):
        return _separate_labels(batch, like)
    if isinstance(batch, (tuple, list)) and len(batch) == 2 and _is_pair(batch, like):
        return batch[0], batch[1]
    if isinstance(batch, (tuple, list)) and len(batch) == 1:
        return batch[0], None
    return batch, None


def _separate_labels(batch: Mapping[Any, Any], like: Any) -> tuple[Any, Any]:
    """Separate a dictionary's labels; they stay inside too if the model was traced with them."""
    key = next((name for name in LABELS if name in batch), None)
    if key is None or (isinstance(like, Mapping) and key in like):
        return batch, None if key is None else batch[key]
    return {name: value for name, value in batch.items() if name != key}, batch[key]


def _slice(images: Any, labels: Any) -> Iterator[tuple[Any, Any]]:
    images = _each(images, as_array)
    labels = None if labels is None else as_array(labels)
    if not _arrays(images):
        raise DataError(f"expected calibration data; received an empty dictionary. {FIX}.")
    counts = {len(array) if array.ndim else None for array in _arrays(images)}
    if len(counts) > 1:
        raise DataError(
            "calibration data: expected arrays with one entry for each image; received "
            f"shapes {_shapes(images)}. {FIX}."
        )
    count = counts.pop() or 0
    if labels is not None and (labels.ndim == 0 or len(labels) != count):
        received = len(labels) if labels.ndim else "one number as"
        raise DataError(
            f"calibration data: expected as many labels as images; received {received} labels "
            f"for {count} images"
        )
    for start in range(0, count, AT_A_TIME):
        rows = slice(start, start + AT_A_TIME)
        marks = None if labels is None else labels[rows]
        yield _each(images, lambda array, rows=rows: array[rows]), marks


def _check(given: tuple[Any, Any], like: Any, where: str, needs_labels: bool) -> CalibrationBatch:
    images = _with_names(_each(given[0], as_array), like, where)
    marks = None if given[1] is None else as_array(given[1])
    received, expected = _arrays(images), _arrays(like)
    named = isinstance(like, Mapping)
    if len(received) != len(expected) or (named and set(images) != set(like)):
        raise DataError(_other_inputs(like, images, where))
    if named:
        received = [images[key] for key in like]
    for array, example in zip(received, expected, strict=True):
        _check_images(array, example, where)
    if marks is not None:
        _check_labels(marks, len(received[0]), where)
    elif needs_labels:
        raise DataError(
            f"{where}: expected labels; received images alone. {FIX}, or a loss= that needs none."
        )
    return CalibrationBatch(images, marks)


def _with_names(images: Any, like: Any, where: str) -> Any:
    """A single array under the name of the single input that the network was traced with."""
    if not isinstance(like, Mapping) or isinstance(images, Mapping):
        return images
    received = _arrays(images)
    if len(_arrays(like)) > 1 or len(received) != 1:
        raise DataError(
            f"{where}: expected a dictionary of {', '.join(map(str, like))}, as the network "
            f"was traced with; received {_describe(images)}. Pass data=({{"
            + ", ".join(f"{name!r}: ..." for name in like)
            + "}, labels)."
        )
    return dict(zip(like, received, strict=True))


def _check_labels(marks: NDArray[Any], count: int, where: str) -> None:
    if marks.dtype.kind not in "biuf":
        raise DataError(
            f"{where}: expected labels that are numbers; received {marks.dtype}. Number the "
            "classes from 0."
        )
    if marks.ndim == 0 or len(marks) != count:
        raise DataError(
            f"{where}: expected {count} labels, one an image; received shape {marks.shape}"
        )
    if marks.dtype.kind == "f" and not np.isfinite(marks).all():
        raise DataError(f"{where}: expected finite labels; received NaN or infinity")


def _other_inputs(like: Any, images: Any, where: str) -> str:
    """The error message for other inputs than those the network was traced with."""

    def name(inputs: Any) -> str:
        names = f" ({', '.join(map(str, inputs))})" if isinstance(inputs, Mapping) else ""
        return f"{len(_arrays(inputs))} inputs{names}"

    message = (
        f"{where}: expected {name(like)}, as the network was traced with; received {name(images)}"
    )
    masks = [mask for mask in MASKS if isinstance(images, Mapping) and mask in images]
    if masks and not (isinstance(like, Mapping) and set(masks) <= set(like)):
        message += (
            f". Trace it with one of these texts, a padded one if there is any: {TRACE_PADDED}. "
            f"{masks[0]} marks the padding"
        )
    return message


TRACE_PADDED = "secateurs.trace(model, {name: value[[row, row]] for name, value in texts.items()})"
"""Code that traces a network with a padded text, for messages."""


def _describe(images: Any) -> str:
    if isinstance(images, Mapping):
        return f"a dictionary of {', '.join(map(str, images))}"
    shapes = ", ".join(str(array.shape) for array in _arrays(images))
    return f"{'arrays' if len(_arrays(images)) > 1 else 'an array'} of shape {shapes}"


def _check_images(array: NDArray[Any], example: NDArray[Any], where: str) -> None:
    if array.ndim != example.ndim or array.shape[1:] != example.shape[1:] or not len(array):
        shape = ", ".join(["N", *map(str, example.shape[1:])])
        raise DataError(
            f"{where}: expected images of shape ({shape}), like the example inputs the network "
            f"was traced with; received {array.shape}"
        )
    if example.dtype.kind == "f" and array.dtype.kind != "f":
        raise DataError(
            f"{where}: expected floating-point images, normalised as in training; received "
            f"{array.dtype}. Convert them: images.astype(np.float32) / 255."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0])
        raise DataError(f"{where}: expected finite images; image {bad} holds NaN or infinity")
