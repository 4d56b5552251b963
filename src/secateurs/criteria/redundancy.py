"""Criteria that find channels with equal information, and keep one of each set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.arguments import DATA_GIVEN, NUMBER, takes
from secateurs.calibration.needs import Need
from secateurs.calibration.statistics import Gram
from secateurs.channels.arrays import Array
from secateurs.channels.equations import Ids
from secateurs.channels.network import NETWORK, Network
from secateurs.criteria.group_data import GroupData
from secateurs.criteria.registry import criterion
from secateurs.criteria.similarity import ROWS, stack_filters, to_cosines_
from secateurs.errors import DataError


@criterion(Need.WEIGHTS, with_data=Need.GRAMS)
def cosine(facts: GroupData) -> Array:
    """Dissimilarity of a channel's output to the kept channels; keeps one of each similar set.

    Formula: of all pairs, take the most similar by |cos|, drop the one of smaller norm, repeat;
    s_j = 1 - |cos| of the pair in which channel j was dropped; the last one left scores 1. So
    ``plan(threshold=1 - t, scope="network")`` drops channels until no pair is more similar than
    t; ``redundant(network, t)`` names them. With calibration data, the cosine is that of the values
    that consumers read, less their means. Without data it is that of the filters, which is the
    expected cosine of their outputs on random inputs.
    Cost: without data one read of the weights, with data a forward pass; C^2 products for a group
    of C channels, all in memory at once only if there are more than C values of each channel.
    When it hurts: two similar channels may both be needed if the next layer uses their difference.
    Without a repair that adds the removed channel's weights to the kept one's, removing even an
    exact copy does damage.
    Source: Ayinde & Zurada, Building Efficient ConvNets using Redundant Feature Pruning, 2018.
    """
    if facts.gathered.grams is not None:
        return _score_values_by_similarity(facts.grams)
    return score_filters_by_similarity(stack_filters(facts))


@takes(network=NETWORK, similarity=NUMBER, data=DATA_GIVEN)
def redundant(
    network: Network, similarity: float = 0.9, *, data: Any = None
) -> dict[str, NDArray[np.int64]]:
    """Find channels that are similar to another channel which is kept.

    Args:
        network: as traced.
        similarity: |cosine| above which one of two channels is removed, in (0, 1).
        data: calibration images; without them filters are compared, see ``cosine``.

    Returns:
        Group name -> indices of channels that can be removed, as ``network.cut`` takes them.

    Raises:
        DataError: ``similarity`` is not in (0, 1).

    Example:
        >>> import torch, secateurs as sec
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
        >>> network = sec.trace(model, torch.zeros(1, 4))
        >>> sec.redundant(network, 0.999)
        {}
    """
    from secateurs.criteria.scoring import score

    if not 0 < similarity < 1:
        raise DataError(f"redundant: expected a similarity in (0, 1); received {similarity}")
    scores = score(network, "cosine", data=data)
    found = {name: np.flatnonzero(lowest < 1 - similarity) for name, lowest in scores.items()}
    return {name: channels for name, channels in found.items() if len(channels)}


def score_by_similarity_(products: Array) -> Array:
    """1 - |cos| to the nearest kept channel at the time each is dropped; see ``cosine``.

    ``products`` is overwritten, since for many channels it takes most of the memory.
    """
    norms = np.sqrt(np.maximum(np.diag(products), 0))
    if np.isnan(products.min(initial=0)):
        return np.full(len(norms), np.nan)
    similar = np.abs(to_cosines_(products), out=products)
    return _drop_most_similar(norms, lambda rows: similar[rows])


def score_filters_by_similarity(filters: Array) -> Array:
    """The same for filters, shape (channels, weights), without a matrix of all pairs."""
    if len(filters) <= ROWS:
        return score_by_similarity_(filters @ filters.T)
    norms = np.linalg.norm(filters, axis=1)
    if np.isnan(norms).any():
        return np.full(len(norms), np.nan)
    directions = filters / np.where(norms > 0, norms, 1)[:, None]

    def similar(rows: Ids) -> Array:
        cosines = directions[rows] @ directions.T
        np.abs(cosines, out=cosines)
        return np.minimum(cosines, 1, out=cosines)

    return _drop_most_similar(norms, similar)


def _score_values_by_similarity(grams: Sequence[Gram]) -> Array:
    """The same for values, with no other matrix of all pairs than the one that may be held."""
    squares = np.sum([gram.centred_squares for gram in grams], axis=0)
    if len(squares) <= ROWS:
        return score_by_similarity_(np.sum([gram.centred for gram in grams], axis=0))
    norms = np.sqrt(np.maximum(squares, 0))
    if np.isnan(norms).any():
        return np.full(len(norms), np.nan)
    safe = np.where(norms > 0, norms, 1)

    def similar(rows: Ids) -> Array:
        cosines = np.abs(sum(gram.centred_rows(rows) for gram in grams))
        cosines /= safe[rows, None]
        cosines /= safe
        return np.minimum(cosines, 1, out=cosines)

    return _drop_most_similar(norms, similar)


class _Nearest:
    """The most similar kept channels of each channel.

    The largest similarity of a channel can only fall as others are dropped. So a similarity whose
    partner was dropped is kept as an upper bound, and revised only when it is the highest of all:
    first by the next of a few recorded partners, then, if all of these are gone, by computing the
    row again. Most rows are never recomputed, and no matrix of all pairs is needed.
    """

    def __init__(self, norms: Array, similar: Callable[[Ids], Array]) -> None:
        count = len(norms)
        # Zero filters are a multiple (0 times) of any other.
        self._empty = norms <= 1e-12 * norms.max(initial=0)
        self._similar = similar
        self._stays = np.ones(count, bool)
        few = min(_PARTNERS, count)
        self._partners: Ids = np.zeros((count, few), np.int64)
        self._likeness = np.zeros((count, few))
        self._next: Ids = np.zeros(count, np.int64)
        self._bound = np.zeros(count)
        for start in range(0, count, ROWS):
            self._compare(np.arange(start, min(start + ROWS, count)))

    def _compare(self, rows: Ids) -> None:
        found = self._similar(rows)
        found[self._empty[rows]] = 1
        found[:, self._empty] = 1
        found[:, ~self._stays] = -1
        found[np.arange(len(rows)), rows] = -1
        few = self._partners.shape[1]
        # Among equally similar ones the first, as far as these few reach.
        best = np.sort(np.argpartition(found, -few, axis=1)[:, -few:], axis=1)
        likeness = np.take_along_axis(found, best, axis=1)
        order = np.argsort(-likeness, axis=1, kind="stable")
        self._partners[rows] = np.take_along_axis(best, order, axis=1)
        self._likeness[rows] = np.take_along_axis(likeness, order, axis=1)
        self._next[rows] = 0
        self._bound[rows] = self._likeness[rows, 0]

    def most_similar_pair(self) -> tuple[int, int, float]:
        """(a channel, its partner, their similarity)."""
        while True:
            one = int(self._bound.argmax())
            partner = int(self._partners[one, self._next[one]])
            if self._stays[partner]:
                return one, partner, float(self._bound[one])
            self._look_further(one)

    def _look_further(self, row: int) -> None:
        stays = np.flatnonzero(self._stays[self._partners[row]])
        if len(stays):
            self._next[row] = stays[0]
            self._bound[row] = self._likeness[row, stays[0]]
            return
        alone = np.flatnonzero(self._stays & ~self._stays[self._partners].any(axis=1))
        self._compare(alone[np.argsort(-self._bound[alone], kind="stable")[:_AT_ONCE]])

    def drop(self, channel: int) -> None:
        """Drop a channel."""
        self._stays[channel] = False
        self._bound[channel] = -1


_PARTNERS = 16
"""Number of most similar channels recorded for each channel."""

_AT_ONCE = 64
"""Rows recomputed at a time: one by one, each would read all filters."""


def _drop_most_similar(norms: Array, similar: Callable[[Ids], Array]) -> Array:
    nearest = _Nearest(norms, similar)
    scores = np.ones(len(norms))
    for _ in range(len(norms) - 1):
        one, other, alike = nearest.most_similar_pair()
        dropped = one if norms[one] < norms[other] else other
        scores[dropped] = 1 - alike
        nearest.drop(dropped)
    return scores
