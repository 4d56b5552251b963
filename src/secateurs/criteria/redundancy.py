"""Criteria that look for channels that say the same thing, and keep one of each such set."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.arguments import DATA_GIVEN, NUMBER, takes
from secateurs.calibration.needs import Need
from secateurs.channels.arrays import Array
from secateurs.channels.equations import Ids
from secateurs.channels.network import NETWORK, Network
from secateurs.criteria.group_data import GroupData
from secateurs.criteria.registry import criterion
from secateurs.criteria.similarity import stack_filters, to_cosines_
from secateurs.errors import DataError


@criterion(Need.WEIGHTS, with_data=Need.GRAMS)
def cosine(facts: GroupData) -> Array:
    """How unlike all that stays a channel's output is: keeps one of each similar set.

    Formula: of all pairs, take the most similar by |cos|, drop the one of smaller norm, repeat;
    s_j = 1 - |cos| of the pair in which channel j was dropped; the last one left scores 1. So
    ``plan(threshold=1 - t, scope="network")`` drops channels until no pair is more similar than
    t; ``redundant(network, t)`` names them. What is compared: with calibration data, the values
    that consumers read, less their means; without, what the filters give on random inputs, where
    the cosine of two outputs is in expectation the cosine of the two filters, so that is taken.
    Cost: without data one read of the weights, with data a forward pass; C^2 products for a group
    of C channels.
    When it hurts: two channels alike can both be needed where the next layer takes their
    difference; without a repair that lets the one that stays speak for both, even exact copies
    cannot go for free.
    Source: Ayinde & Zurada, Building Efficient ConvNets using Redundant Feature Pruning, 2018.
    """
    if facts.gathered.grams is not None:
        products = np.zeros((len(facts), len(facts)))
        for gram in facts.grams:
            products += gram.scatter
    else:
        filters = stack_filters(facts)
        products = filters @ filters.T
    return score_by_similarity_(products)


@takes(network=NETWORK, similarity=NUMBER, data=DATA_GIVEN)
def redundant(
    network: Network, similarity: float = 0.9, *, data: Any = None
) -> dict[str, NDArray[np.int64]]:
    """The channels that another one that stays is at least this similar to.

    Args:
        network: as traced.
        similarity: |cosine| above which one of two channels goes, in (0, 1).
        data: calibration images; without them filters are compared, see ``cosine``.

    Returns:
        Group name -> indices of channels that can go; as ``network.cut`` takes them.

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
    """1 - |cos| with what stays, at the moment each is dropped; see ``cosine``.

    The products are used up: of many channels they are most of the memory.
    """
    norms = np.sqrt(np.maximum(np.diag(products), 0))
    if np.isnan(products.min(initial=0)):
        return np.full(len(norms), np.nan)
    similar = np.abs(to_cosines_(products), out=products)
    # Nothing at all is a multiple of anything.
    empty = norms <= 1e-12 * norms.max(initial=0)
    similar[empty] = similar[:, empty] = 1
    np.fill_diagonal(similar, -1)
    scores = np.ones(len(norms))
    partner: Ids = similar.argmax(axis=1)
    for _ in range(len(norms) - 1):
        best = similar[np.arange(len(norms)), partner]
        one = int(best.argmax())
        other = int(partner[one])
        dropped = one if norms[one] < norms[other] else other
        scores[dropped] = 1 - best[one]
        similar[dropped] = similar[:, dropped] = -1
        stale = partner == dropped
        partner[stale] = similar[stale].argmax(axis=1)
    return scores
