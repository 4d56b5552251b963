"""Texts as batches for a language model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.arguments import format_value, is_labels, is_whole
from secateurs.errors import DataError

Tokenizer = Callable[..., Mapping[str, Any]]
"""A Transformers tokenizer: (texts, padding=, truncation=, max_length=) -> name -> token rows."""


def from_texts(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    *,
    length: int | None = None,
    labels: Sequence[int] | None = None,
) -> dict[str, NDArray[np.int64]]:
    """Tokenize texts to arrays by name, for ``calibration=``, ``data=`` and ``iterate``.

    Args:
        texts: at least one text.
        tokenizer: a Transformers tokenizer with a padding token.
        length: number of tokens of each text; None uses the longest text's. Longer ones are cut.
        labels: class of each text, for classification; None for none.

    Returns:
        The tokenizer's outputs, such as ``input_ids`` and ``attention_mask``, each of shape
        (texts, length), and ``labels`` if given.

    Raises:
        DataError: there are no texts, or the tokenizer cannot be used.
    """
    if not is_labels(texts) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"texts: expected a list of texts; received {format_value(texts)}")
    if length is not None and not is_whole(length, 1):
        raise DataError(f"length: expected a whole number; received {format_value(length)}")
    if labels is not None and not is_labels(labels):
        raise DataError(f"labels: expected whole numbers; received {format_value(labels)}")
    if labels is not None and len(labels) != len(texts):
        raise DataError(
            f"texts: expected as many labels as texts; received {len(labels)} for {len(texts)}"
        )
    padding = "longest" if length is None else "max_length"
    try:
        given = tokenizer(list(texts), padding=padding, truncation=True, max_length=length)
        arrays = {name: np.asarray(rows, np.int64) for name, rows in given.items()}
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise DataError(
            f"texts: expected a tokenizer of Transformers, with a padding token "
            f"(tokenizer.pad_token = tokenizer.eos_token); it raised {type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error
    return arrays if labels is None else arrays | {"labels": np.asarray(labels, np.int64)}
