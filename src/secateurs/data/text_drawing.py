"""Texts that a language model writes itself, to calibrate by.

A text at hand is narrow: units that it has no use for look superfluous, and weights are fitted to
what it says. What a model writes by itself is as broad as what it has read, and nobody has to look
for it.

Source: Liu et al., *LLM-QAT: Data-Free Quantization Aware Training for Large Language Models*, 2023
(data drawn from the model itself, the first token by lot).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.arguments import format_value, is_whole
from secateurs.backends import backend_of
from secateurs.errors import DataError


def draw_texts(
    model: Any,
    texts: int = 24,
    length: int = 512,
    *,
    start: int | None = None,
    temperature: float = 1.0,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Texts that a language model writes token by token, each drawn by the model's own chances.

    Args:
        model: gives scores (texts, places, words) of the next token, for tokens (texts, places).
            Unchanged. One of Transformers is asked for one token at a time; others, which keep
            nothing of the places before, are given the whole text so far for each token.
        texts: how many.
        length: tokens of each; the model may end a text and begin another within it.
        start: the token that all begin with, such as ``model.config.bos_token_id``; None draws the
            first token of each by lot.
        temperature: of the chances; below one, texts are plainer and more alike.
        seed: of what is drawn.

    Returns:
        Tokens, shape (texts, length): calibration data, alone or beside texts at hand.

    Raises:
        DataError: an argument cannot be used.
        ModelError: it is no language model.

    Example:
        ``calibration = np.concatenate([book, draw_texts(model, 12, 512, start=1)])``
    """
    _check(texts, length, start, temperature, seed)
    random = np.random.default_rng(seed)
    backend = backend_of(model)
    found = np.zeros((texts, length), np.int64)
    words = backend.next_scores(model)(found[:1, :1]).shape[-1]
    if start is not None and start >= words:
        raise DataError(f"start: expected a token below {words}; received {start}")
    found[:, 0] = random.integers(words, size=texts) if start is None else start
    score = backend.next_scores(model)
    for place in range(1, length):
        scores = score(found[:, :place]).astype(np.float64)
        # The largest of scores and Gumbel noise is drawn by the softmax of the scores.
        found[:, place] = (scores / temperature + random.gumbel(size=scores.shape)).argmax(axis=-1)
    return found


def _check(texts: int, length: int, start: int | None, temperature: float, seed: int) -> None:
    for name, value, least in (("texts", texts, 1), ("length", length, 2), ("seed", seed, 0)):
        if not is_whole(value, least):
            raise DataError(
                f"{name}: expected a whole number of at least {least}; received "
                f"{format_value(value)}"
            )
    if start is not None and not is_whole(start, 0):
        raise DataError(f"start: expected a token's number; received {format_value(start)}")
    is_number = isinstance(temperature, (int, float)) and not isinstance(temperature, bool)
    if not is_number or not 0 < temperature < np.inf:
        raise DataError(
            f"temperature: expected a positive number; received {format_value(temperature)}"
        )
