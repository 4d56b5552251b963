"""One call of ``fit`` with given learning rates and seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.keras.internals import seed_, sync_
from secateurs.keras.training.optimizers import assign_, averaging_part, values_of
from secateurs.keras.training.random_numbers import seed_generators

_DROPOUT = 5
"""Key that separates the random stream of dropout from those of other uses of the seed."""

Examples = Iterator[tuple[Any, Any]] | Iterator[tuple[Any]]
"""Iterator over batches: (inputs, targets), or (inputs,) alone."""


def fit(
    model: keras.Model,
    examples: Examples,
    rates: Sequence[float],
    tick: Callable[[], None],
    seeds: Sequence[int],
) -> float:
    """Train for one batch at each learning rate.

    Args:
        model: compiled model; trained in place.
        examples: at least as many batches as learning rates.
        rates: learning rate of each batch.
        tick: called after each batch.
        seeds: seeds of dropout and other random layers.

    Returns:
        The mean loss.
    """
    random = np.random.default_rng([_DROPOUT, *seeds])
    each = _Rates(rates, tick, random)
    with seed_generators(*seeds):  # data sets draw from them too, as batches are requested
        history = model.fit(
            examples,
            steps_per_epoch=len(rates),
            epochs=1,
            shuffle=False,  # the feed shuffles
            verbose=0,
            callbacks=[each],
        )
    if averaging_part(model.optimizer).use_ema:
        # ``fit`` ends by overwriting the weights with their average, but training will continue.
        assign_(model.trainable_variables, each.trained)
    logs = history.history  # a custom training step may name its loss differently
    return float(logs["loss" if "loss" in logs else next(iter(logs))][0])


class _Rates(keras.callbacks.Callback):  # type: ignore[misc]
    """Callback that sets the seed and each batch's learning rate, and reports each batch."""

    def __init__(
        self, rates: Sequence[float], tick: Callable[[], None], random: np.random.Generator
    ) -> None:
        super().__init__()
        self._rates = rates
        self._random = random
        self._tick = tick
        self._set: float | None = None
        self.trained: list[NDArray[np.generic]] = []

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        del logs
        # Not earlier: the first ``fit`` of a model draws random numbers while it infers shapes.
        seed_(self.model, self._random)

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        del logs
        rate = self._rates[batch]
        optimizer = self.model.optimizer
        if rate == self._set or not hasattr(optimizer._learning_rate, "assign"):
            return  # a user's schedule continues by itself
        if self._set is not None:
            sync_(self.model)
        optimizer.learning_rate = self._set = rate

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        del epoch, logs
        if averaging_part(self.model.optimizer).use_ema:
            sync_(self.model)
            self.trained = values_of(self.model.trainable_variables)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        del batch, logs
        self._tick()
