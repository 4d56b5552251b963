"""Scores that a Keras language model gives for the next token of texts, token by token."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.errors import ModelError
from secateurs.keras.internals import graph_of
from secateurs.keras.model.example_inputs import check_model, pack_inputs


def next_scores(model: keras.Model) -> Callable[[NDArray[np.int64]], NDArray[np.float32]]:
    """Return a function from texts so far, shape (texts, positions), to scores of the next token.

    Its result has shape (texts, vocabulary).

    Args:
        model: unchanged; run in inference mode. It takes tokens, or tokens and masks by name. If
            its number of positions is fixed, texts are padded with zeros at the end.

    Raises:
        ModelError: by the function, if the model does not return scores for each position.
    """
    model = check_model(model)

    def score(texts: NDArray[np.int64]) -> NDArray[np.float32]:
        filled = [_fill(one, texts) for one in graph_of(model).inputs]
        given = pack_inputs(model, filled)
        outputs = keras.tree.flatten(model.predict_on_batch(given))
        shapes = [np.shape(one) for one in outputs]
        if not shapes or len(shapes[0]) != 3 or len(outputs[0]) != len(texts):
            raise ModelError(
                f"{model.name}: expected a language model, of tokens (texts, positions) to scores "
                f"(texts, positions, vocabulary); received outputs of shapes {shapes}"
            )
        found: NDArray[np.float32] = np.asarray(outputs[0], np.float32)[:, texts.shape[1] - 1]
        return found

    return score


def _fill(wanted: keras.KerasTensor, texts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The tokens, or their mask, padded to the number of positions that an input takes."""
    array = np.ones_like(texts) if "mask" in wanted.name else texts
    places = wanted.shape[1] if len(wanted.shape) > 1 else None
    if places is None:
        return array
    return np.pad(array, ((0, 0), (0, places - texts.shape[1])))
