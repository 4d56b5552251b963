"""Which texts a model is traced with: one that is filled up, where calibration data hold some.

A language model that is given a mask which hides nothing may leave it out, so a pass without
filling is another than one with. Where both are seen, the one with filling is right for both.
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
    """The example inputs; or one row of the calibration data, where these say more of padding.

    Args:
        example_inputs: as given to ``trace``.
        data: calibration data of any kind. Texts in dictionaries, with a mask that the example
            inputs lack, or that hides something here and hides nothing there, are looked at.

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


def hidden_rows(inputs: Mapping[str, Any]) -> NDArray[np.int64]:
    """The rows of texts of which a mask hides something, in order."""
    hidden: set[int] = set()
    for name in MASKS:
        mask = inputs.get(name)
        if mask is not None and np.ndim(mask) == 2:
            hidden.update(np.flatnonzero((as_array(mask) == 0).any(axis=1)).tolist())
    return np.array(sorted(hidden), np.int64)


def _are_of_one_kind(known: Mapping[str, Any], inputs: Mapping[str, Any]) -> bool:
    """Whether data give all that the model was shown by name, in the same shapes."""
    return all(
        name in inputs and np.shape(inputs[name])[1:] == np.shape(value)[1:]
        for name, value in known.items()
    )


def _iterate_named_inputs(data: Any) -> Iterator[Mapping[str, Any]]:
    """The inputs of each batch that come by name; none of data that can be seen only once."""
    whole = as_arrays(data)
    for batch in [whole] if whole is not None else batches_again(data):
        inputs, _ = split_of(batch)
        if not isinstance(inputs, Mapping):
            return
        yield inputs
