"""Scores that a PyTorch language model gives for the next token of texts, token by token."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secateurs.errors import ModelError
from secateurs.pytorch.model.copies import share_tensors
from secateurs.pytorch.model.example_inputs import check_model
from secateurs.pytorch.model.outputs import named_outputs

_CACHES = ("cache", "past_key_values")
"""Names of Transformers' argument for the keys and values of earlier positions."""


def next_scores(model: nn.Module) -> Callable[[NDArray[np.int64]], NDArray[np.float32]]:
    """Return a function from texts so far, shape (texts, positions), to scores of the next token.

    Its result has shape (texts, vocabulary). Each call has to extend the texts of the previous call
    by one token: a Transformers model caches keys and values and computes the last position only.

    Args:
        model: in any mode; unchanged, since a copy that shares its tensors is run.

    Raises:
        ModelError: by the function, if the model does not return scores for each position.
    """
    return _NextScores(check_model(model))


class _NextScores:
    def __init__(self, model: nn.Module) -> None:
        self._model = share_tensors(model).eval()
        known = inspect.signature(model.forward).parameters
        self._cache = next((name for name in _CACHES if name in known), None)
        self._kept: Any = None

    @torch.inference_mode()
    def __call__(self, texts: NDArray[np.int64]) -> NDArray[np.float32]:
        place = next((one.device for one in self._model.parameters()), torch.device("cpu"))
        tokens = torch.from_numpy(np.ascontiguousarray(texts)).to(place)
        given = self._run(tokens)
        scores = next((one for _, one in named_outputs(given) if one.is_floating_point()), None)
        if scores is None or scores.dim() != 3 or len(scores) != len(texts):
            raise ModelError(
                f"{type(self._model).__name__}: expected a language model, of tokens (texts, "
                "positions) to scores (texts, positions, vocabulary); received "
                f"{'no scores' if scores is None else f'scores of shape {tuple(scores.shape)}'}"
            )
        found: NDArray[np.float32] = scores[:, -1].float().cpu().numpy()
        return found

    def _run(self, tokens: torch.Tensor) -> object:
        if self._cache is None:
            return self._model(tokens)
        rows = tokens if self._kept is None else tokens[:, -1:]
        given = self._model(rows, use_cache=True, **{self._cache: self._kept})
        self._kept = getattr(given, self._cache, None)
        return given
