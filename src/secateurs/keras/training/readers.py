"""Batches of a user's task, of any structure and framework, as a Keras model takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

import keras
import numpy as np

from secateurs.calibration.examples import rows_of, split_of
from secateurs.data.sets import Split
from secateurs.errors import DataError
from secateurs.keras.internals import graph_of
from secateurs.keras.training.batches import turn_for
from secateurs.keras.training.random_numbers import seed_generators
from secateurs.training.any_feed import AnyFeed
from secateurs.training.feed import Feed
from secateurs.training.objectives import label_batch
from secateurs.training.task import LearningTask


class TaskReader:
    """Reads a task's batches for a model.

    Args:
        model: model whose inputs say which parts of a batch it takes.
        task: task that says which parts are inputs and which are targets.
    """

    def __init__(self, model: keras.Model, task: LearningTask) -> None:
        self._model, self._task = model, task

    def feed(self, source: object, part: str, batch_size: int, seed: int) -> Feed:
        """Return the batches of a split.

        Args:
            source: a Split, whole arrays, or a loader of batches.
            part: name of the split, for messages.
            batch_size: batch size for arrays; a loader has its own.
            seed: seed of the order.

        Raises:
            DataError: the source holds no batches.
        """
        if isinstance(source, Split):
            source = turn_for(self._model, source)
        whole = _as_one_batch(source)
        if whole is not None:
            return AnyFeed(whole, batch_size, seed, part)
        kind = _SizedInArrays if isinstance(source, Sized) else _InArrays
        return AnyFeed(
            kind(source),
            batch_size,
            seed,
            part,
            lambda epoch, number: seed_generators(seed, epoch, number),
        )

    def read_first(self, feed: Feed, part: str, count: int) -> object:
        """Return the inputs of the first examples of a split.

        Raises:
            DataError: the model takes another number of inputs.
        """
        batch = next(feed.in_order())
        inputs, _ = self.split(rows_of(batch.images, range(min(count, batch.whole))))
        _check_inputs(self._model, inputs, part)
        return inputs

    def split(self, batch: object) -> tuple[Any, Any]:
        """Split a batch into (inputs, targets), as arrays in the structure the model takes."""
        inputs, targets = split_of(label_batch(self._task, batch))
        inputs = self._choose_inputs(inputs) if isinstance(inputs, Mapping) else _as_list(inputs)
        return as_arrays(inputs), as_arrays(targets)

    def _choose_inputs(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Select the named inputs that the model takes; all of them if it takes none by name."""
        names = [str(tensor.name) for tensor in graph_of(self._model).inputs]
        taken = {name: inputs[name] for name in names if name in inputs}
        return taken or inputs


def as_arrays(batch: Any) -> Any:
    """Convert a batch to NumPy arrays in the same structure; lists become tuples."""
    if isinstance(batch, Mapping):
        return {key: as_arrays(value) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return tuple(as_arrays(value) for value in batch)
    if batch is None or isinstance(batch, np.ndarray | str):
        return batch
    return np.asarray(keras.ops.convert_to_numpy(batch)) if hasattr(batch, "shape") else batch


def as_tensors(value: Any) -> Any:
    """Convert arrays to the backend's tensors in the same structure."""
    return keras.tree.map_structure(
        lambda one: one if one is None else keras.ops.convert_to_tensor(one), value
    )


class _InArrays:
    """Loader that converts another loader's batches to arrays, from tensors of any framework."""

    def __init__(self, source: object) -> None:
        if not isinstance(source, Iterable) or isinstance(source, str | bytes):
            raise DataError(f"expected batches, or arrays; received {type(source).__name__}")
        self._source = source

    def __iter__(self) -> Iterator[object]:
        for batch in self._source:
            yield as_arrays(batch)


class _SizedInArrays(_InArrays):
    """The same for a loader with a known number of batches."""

    def __len__(self) -> int:
        return len(self._source)  # type: ignore[arg-type]


def _as_one_batch(source: object) -> object:
    """Return whole arrays as one large batch; None if the source is a loader."""
    if isinstance(source, Mapping) or getattr(source, "shape", None):
        return as_arrays(source)
    if not isinstance(source, tuple) or len(source) < 2:
        return None
    inputs, targets = source[0], source[-1]
    is_one = all(_is_data(part) for part in (inputs, targets))
    return as_arrays(source) if is_one else None


def _is_data(part: object) -> bool:
    """Return whether this is an array, or a dictionary, tuple or list of arrays."""
    if isinstance(part, Mapping):
        part = list(part.values())
    if isinstance(part, list | tuple):
        return bool(part) and all(getattr(one, "shape", None) for one in part)
    return bool(getattr(part, "shape", None))


def _as_list(inputs: object) -> object:
    return list(inputs) if isinstance(inputs, tuple) else inputs


def _check_inputs(model: keras.Model, inputs: Any, part: str) -> None:
    expected = graph_of(model).inputs
    given = keras.tree.flatten(inputs)
    if len(given) != len(expected):
        raise DataError(
            f"{part}: expected {len(expected)} inputs "
            f"({', '.join(tensor.name for tensor in expected)}), as {model.name} takes; received "
            f"{len(given)}. A batch is (inputs, targets); several inputs come by name or in a "
            "tuple."
        )
