"""What a PyTorch language model expects after texts, token by token."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secateurs.errors import ModelError
from secateurs.pytorch.model.example_inputs import check_model
from secateurs.pytorch.model.outputs import named_outputs

_CACHES = ("cache", "past_key_values")
"""What Transformers calls the keys and values of the places before, now and formerly."""


def next_scores(model: nn.Module) -> Callable[[NDArray[np.int64]], NDArray[np.float32]]:
    """A function of texts so far, (texts, places), that gives scores of the next: (texts, words).

    Each call's texts are to be those of the call before with one more token: a model of
    Transformers keeps what it needs of the places before, and looks at the last alone.

    Args:
        model: in any mode; it is in its own again after each call.

    Raises:
        ModelError: from the function, where the model gives no scores for each place.
    """
    return _Reading(check_model(model))


class _Reading:
    def __init__(self, model: nn.Module) -> None:
        self._model = model
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
                "places) to scores (texts, places, words); received "
                f"{'no scores' if scores is None else f'scores of shape {tuple(scores.shape)}'}"
            )
        found: NDArray[np.float32] = scores[:, -1].float().cpu().numpy()
        return found

    def _run(self, tokens: torch.Tensor) -> object:
        modes = [(module, module.training) for module in self._model.modules()]
        self._model.eval()
        try:
            if self._cache is None:
                return self._model(tokens)
            rows = tokens if self._kept is None else tokens[:, -1:]
            given = self._model(rows, use_cache=True, **{self._cache: self._kept})
            self._kept = getattr(given, self._cache, None)
            return given
        finally:
            for module, training in modes:
                module.training = training
