"""Scoring every channel of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.network import Group, Network
from secateurs.criteria.facts import Facts
from secateurs.criteria.registry import Criterion, find
from secateurs.errors import ModelError, SecateursError


class Scores(Mapping[str, NDArray[np.float64]]):
    """A score for each channel of each group; the lowest is pruned first.

    Attributes:
        criterion: the name of what made them.
    """

    def __init__(self, values: Mapping[str, NDArray[np.float64]], criterion: str) -> None:
        self._values = dict(values)
        self.criterion = criterion

    def __getitem__(self, group: str) -> NDArray[np.float64]:
        return self._values[group]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        channels = sum(len(values) for values in self._values.values())
        return f"<Scores by {self.criterion}: {channels} channels in {len(self)} groups>"


def score(
    network: Network,
    criterion: str | Callable[[Facts], Any] = "l1",
    *,
    data: Any = None,
    seed: int = 0,
) -> Scores:
    """Score every channel that can be pruned.

    Args:
        network: as ``trace`` made it; weights are read as they are now.
        criterion: a name (``secateurs criteria`` lists them) or a function of ``Facts`` that
            returns one number for each channel.
        data: calibration data, for criteria that need it.
        seed: for criteria that draw lots.

    Raises:
        UnknownNameError: no criterion has this name.
        ModelError: weights hold NaN; the message names the layer.
        SecateursError: a function of the user's returned the wrong number of scores.
    """
    found = find(criterion)
    seeds = np.random.default_rng(seed).spawn(len(network.groups))
    values = {
        group.name: _checked(found, group, found.function(Facts(network, group, generator)))
        for group, generator in zip(network.groups, seeds, strict=True)
    }
    return Scores(values, found.name)


def _checked(criterion: Criterion, group: Group, values: Any) -> NDArray[np.float64]:
    scores = np.asarray(values, np.float64)
    if scores.shape != (len(group),):
        raise SecateursError(
            f"{criterion.name}: expected {len(group)} scores for {group.name}, one a channel; "
            f"received an array of shape {scores.shape}"
        )
    if np.isnan(scores).any():
        raise ModelError(
            f"{group.name}: expected finite weights; its channel "
            f"{int(np.flatnonzero(np.isnan(scores))[0])} "
            f"scores NaN by {criterion.name}. The weights hold NaN: load a sound checkpoint."
        )
    return scores
