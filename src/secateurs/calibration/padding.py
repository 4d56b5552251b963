"""Choice of the texts that a language model is traced with: two, and padded ones if there are any.

A language model may skip a mask that hides nothing, so a pass without padding can run other
operations than one with padding. If both occur in the data, the trace with padding fits both. It
may also skip what a single text does not need, such as positions that are expanded to all texts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.calibration.batches import MASKS, as_array
from secateurs.calibration.examples import as_arrays, batches_again, rows_of, split_of

_BATCHES_LOOKED_AT = 64


def example_with_padding(example_inputs: Any, data: Any) -> Any:
    """The example inputs, or one row of the calibration data if that has padding they lack.

    Args:
        example_inputs: as passed to ``trace``.
        data: calibration data of any kind. Texts in dictionaries are inspected: whether they have a
            mask that the example inputs lack, or one that hides something only here.

    Example:
        >>> texts = {"input_ids": np.ones((2, 3))}
        >>> texts["attention_mask"] = np.array([[1, 1, 1], [1, 1, 0]])
        >>> example_with_padding({"input_ids": np.ones((1, 3))}, texts)["attention_mask"].tolist()
        [[1, 1, 0]]
    """
    known = example_inputs if isinstance(example_inputs, Mapping) else {}
    if len(hidden_rows(known)):
        return example_inputs
    lacking = None
    for inputs in itertools.islice(_iterate_named_inputs(data), _BATCHES_LOOKED_AT):
        masks = [name for name in MASKS if name in inputs]
        if not masks:
            return example_inputs
        if not _are_of_one_kind(known, inputs):
            return example_inputs
        rows = hidden_rows(inputs)
        if len(rows):
            return rows_of(inputs, rows[:1])
        if lacking is None and not all(name in known for name in masks):
            lacking = rows_of(inputs, [0])
    return example_inputs if lacking is None else lacking


def two_texts(example_inputs: Any) -> Any:
    """The example inputs; a single row of integers, such as the tokens of a text, becomes two.

    Args:
        example_inputs: as passed to ``trace``.

    Example:
        >>> two_texts({"input_ids": np.array([[5, 7]])})["input_ids"].tolist()
        [[5, 7], [5, 7]]
        >>> two_texts(np.zeros((1, 3))).shape
        (1, 3)
    """
    named = isinstance(example_inputs, Mapping)
    values = list(example_inputs.values()) if named else [example_inputs]
    rows = [getattr(value, "shape", ())[:1] for value in values]
    single = bool(rows) and all(tuple(row) == (1,) for row in rows)
    if not single or not any(is_text(value) for value in values):
        return example_inputs
    return rows_of(example_inputs, [0, 0])


def is_text(value: Any) -> bool:
    """Whether an array can hold the tokens of texts: integers, in rows."""
    return len(value.shape) == 2 and "int" in str(value.dtype)


def hidden_rows(inputs: Mapping[str, Any]) -> NDArray[np.int64]:
    """Indices of the texts in which a mask hides something, ascending."""
    hidden: set[int] = set()
    for name in MASKS:
        mask = inputs.get(name)
        if mask is not None and np.ndim(mask) == 2:
            hidden.update(np.flatnonzero((as_array(mask) == 0).any(axis=1)).tolist())
    return np.array(sorted(hidden), np.int64)


def _are_of_one_kind(known: Mapping[str, Any], inputs: Mapping[str, Any]) -> bool:
    """Whether data provide every named input of the model, in the same shapes."""
    return all(
        name in inputs and np.shape(inputs[name])[1:] == np.shape(value)[1:]
        for name, value in known.items()
    )


def _iterate_named_inputs(data: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the named inputs of each batch; nothing for data that can be iterated only once."""
    whole = as_arrays(data)
    for batch in [whole] if whole is not None else batches_again(data):
        inputs, _ = split_of(batch)
        if not isinstance(inputs, Mapping):
            return
        yield inputs
