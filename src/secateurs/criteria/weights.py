"""Criteria from each channel's weights alone: no data, no forward pass."""

from __future__ import annotations

import numpy as np

from secateurs.calibration.needs import Need
from secateurs.channels.arrays import Array
from secateurs.channels.network import Role
from secateurs.criteria.group_data import GroupData
from secateurs.criteria.registry import criterion
from secateurs.errors import ModelError


@criterion(Need.WEIGHTS)
def l1(facts: GroupData) -> Array:
    """Sum of the absolute weights of a filter.

    Formula: s_j = sum |F_j|, over all filters that make channel j where several are coupled.
    Cost: one read of the weights.
    When it hurts: filters of different sizes do not compare, so across layers wide layers always
    win; rank within groups, or use ``l1_mean``. Scaling a filter up and its readers down changes
    the rank but not the network.
    Source: Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017.
    """
    return _total([np.abs(rows).sum(axis=1) for rows in facts.filters])


@criterion(Need.WEIGHTS)
def l1_mean(facts: GroupData) -> Array:
    """Mean absolute weight of a filter: L1 normalised by the filter's size.

    Formula: s_j = sum |F_j| / numel(F_j).
    Cost: one read of the weights.
    When it hurts: layers differ in the scale of their weights for reasons other than importance
    (batch normalisation undoes any scale), and it compares them nonetheless.
    Source: the normalised L1 of "Compressing a Keras CNN"; Li et al., ICLR 2017.
    """
    filters = facts.filters
    mean: Array = l1(facts) / sum(rows.shape[1] for rows in filters)
    return mean


@criterion(Need.WEIGHTS)
def l2(facts: GroupData) -> Array:
    """Euclidean norm of a filter.

    Formula: s_j = sqrt(sum F_j^2), over all filters that make channel j.
    Cost: one read of the weights.
    When it hurts: as ``l1``; a few large weights count for more.
    Source: He et al., Soft Filter Pruning, IJCAI 2018.
    """
    squares: Array = np.sqrt(_total([np.einsum("cn,cn->c", rows, rows) for rows in facts.filters]))
    return squares


@criterion(Need.WEIGHTS)
def linf(facts: GroupData) -> Array:
    """Largest absolute weight of a filter.

    Formula: s_j = max |F_j|.
    Cost: one read of the weights.
    When it hurts: one outlier saves an otherwise empty filter.
    Source: the max norm of "Pruning ResNets for Fun and Profit".
    """
    largest: Array = np.stack([np.abs(rows).max(axis=1) for rows in facts.filters]).max(axis=0)
    return largest


@criterion(Need.WEIGHTS)
def bn_scale(facts: GroupData) -> Array:
    """Size of the factor that normalisation gives a channel.

    Formula: s_j = mean |gamma_j|, over the normalisation layers that channel j runs through. A
    group that runs through none scores 1, which is what no factor is.
    Cost: one read of the factors.
    When it hurts: unless the network was trained with a penalty on the factors they say little; the
    next layer's weights can undo any factor. In a network that normalises only some of its groups,
    the scores of the others mean nothing: leave those out (``skip=``).
    Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV
    2017.
    """
    if not any(group.with_role(Role.SCALE) for group in facts.network.groups):
        raise ModelError(
            f"bn_scale: expected normalisation layers with scale factors; {facts.network.name} "
            "has none along channels that can be pruned. Use another criterion, such as 'l1'."
        )
    scales = facts.scales
    if not scales:
        return np.ones(len(facts))
    mean: Array = np.abs(np.concatenate(scales, axis=1)).mean(axis=1)
    return mean


def _total(parts: list[Array]) -> Array:
    total: Array = np.sum(np.stack(parts), axis=0)
    return total
