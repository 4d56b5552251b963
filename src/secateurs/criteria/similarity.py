"""Criteria that compare each filter with the others of its group, from weights alone."""

from __future__ import annotations

import itertools

import numpy as np
from scipy.spatial.distance import cdist

from secateurs.calibration.needs import Need
from secateurs.channels.arrays import Array
from secateurs.criteria.group_data import GroupData
from secateurs.criteria.registry import criterion


@criterion(Need.WEIGHTS)
def geometric_median(facts: GroupData) -> Array:
    """Distance of a filter from all others: others can stand in for one near the middle (FPGM).

    Formula: s_j = sum_i ||F_i - F_j||_2, on filters with their signs; coupled filters are one long
    filter.
    Cost: one read of the weights, and C^2 / 2 distances for a group of C channels.
    When it hurts: a filter near the middle of all is not near the span of any few; where the others
    are large and few, it drops small filters as ``l2`` would. Across layers it does not compare.
    Source: He et al., Filter Pruning via Geometric Median, CVPR 2019.
    """
    filters = stack_filters(facts)
    distances: Array = np.zeros(len(filters))
    starts = range(0, len(filters), ROWS)  # in blocks: all distances would be C^2 numbers
    for one, other in itertools.combinations_with_replacement(starts, 2):
        left, right = slice(one, one + ROWS), slice(other, other + ROWS)
        # From differences: the expanded square loses half of the digits for similar filters.
        gaps = cdist(filters[left], filters[right])
        distances[left] += gaps.sum(1)
        if one != other:
            distances[right] += gaps.sum(0)
    return distances


@criterion(Need.WEIGHTS)
def lamp(facts: GroupData) -> Array:
    """A filter's share of all that is at least as large in its layer: layers become comparable.

    Formula: s_j = ||F_j||^2 / sum of ||F_v||^2 over all v with ||F_v|| >= ||F_j||.
    Cost: one read of the weights.
    When it hurts: within a group it ranks as ``l2`` does, so it only matters across layers
    (``scope="network"``); made for single weights, on channels it is often no better than random.
    The largest filter of every group scores 1, so a global threshold never empties a layer.
    Source: Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021.
    """
    squares = np.sum([np.einsum("cn,cn->c", rows, rows) for rows in facts.filters], axis=0)
    order = np.argsort(squares, kind="stable")
    rising = squares[order]
    from_here_up = np.cumsum(rising[::-1])[::-1]
    # Equal filters share one denominator regardless of order: the sum from the first of them.
    first = np.searchsorted(rising, rising, side="left")
    shares = np.empty(len(facts))
    shares[order] = rising / np.where(from_here_up[first] > 0, from_here_up[first], 1)
    return shares


@criterion(Need.WEIGHTS)
def whc(facts: GroupData) -> Array:
    """Large filters unlike the others: norm times dissimilarity, weighted by the others' norms.

    Formula: s_j = ||F_j|| * sum_{i != j} ||F_i|| (1 - |cos(F_i, F_j)|).
    Cost: one read of the weights, and C^2 / 2 cosines for a group of C channels.
    When it hurts: norms of different layers do not compare, and here they enter squared; rank
    within groups.
    Source: Chen & Wang, WHC: Weighted Hybrid Criterion for Filter Pruning on Convolutional Neural
    Networks, ICASSP 2023.
    """
    filters = stack_filters(facts)
    norms = np.linalg.norm(filters, axis=1)
    directions = filters / np.where(norms > 0, norms, 1)[:, None]
    scores: Array = np.empty(len(filters))
    for start in range(0, len(filters), ROWS):  # in blocks: all cosines would be C^2 numbers
        rows = slice(start, start + ROWS)
        unlike = 1 - np.minimum(np.abs(directions[rows] @ directions.T), 1)
        scores[rows] = unlike @ norms
    scores *= norms
    return scores


ROWS = 512
"""Number of filters compared with all others at a time."""


def stack_filters(facts: GroupData) -> Array:
    """Concatenate all weights that make each channel into one signed filter, in float64."""
    return np.concatenate([rows.astype(np.float64) for rows in facts.filters], axis=1)


def to_cosines_(products: Array) -> Array:
    """Convert inner products of all pairs to cosines, in place; zero vectors get cosine 0."""
    norms = np.sqrt(np.maximum(np.diag(products), 0))
    safe = np.where(norms > 0, norms, 1)
    products /= safe[:, None]
    products /= safe
    return np.clip(products, -1, 1, out=products)
