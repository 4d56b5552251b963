"""Criteria from the values that consumers read, summed over calibration images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from secateurs.calibration.needs import Need
from secateurs.calibration.statistics import (
    ActivationStatistics,
    CalibrationStatistics,
    ChannelIndex,
    ZeroCounts,
    channel_index,
)
from secateurs.channels.arrays import Array
from secateurs.channels.network import Group, Network
from secateurs.criteria.group_data import GroupData
from secateurs.criteria.registry import criterion

SumOf = Callable[[ActivationStatistics, ChannelIndex], Array]

HARDLY_EVER = 0.005
"""Share of exact zeros below which values do not usefully come from a ReLU."""


def no_zeros(network: Network, gathered: CalibrationStatistics) -> str:
    """Explain why counting zeros may mean little for this network; '' if it does not."""
    readings = gathered.readings or ()
    zeros = [part for reading in readings for part in reading.own_zeros]
    sparse = [
        part for part in zeros if part.zeros.sum() >= HARDLY_EVER * part.count * len(part.units)
    ]

    def is_among(group: Group, some: Sequence[ZeroCounts]) -> bool:
        return any(len(channel_index(network, group, part.units)) for part in some)

    read = [group for group in network.groups if is_among(group, zeros)]
    smooth = [group.name for group in read if not is_among(group, sparse)]
    if not smooth:
        return ""
    more = f" and {len(smooth) - 4} more" if len(smooth) > 4 else ""
    return (
        "apoz counts values that are exactly zero, but there are hardly any in "
        f"{', '.join(smooth[:4])}{more} ({len(smooth)} of {len(read)} groups): the values do not "
        "come directly from a ReLU (GELU, SiLU and leaky ReLU give no zeros). Its scores there "
        "are nearly all 1, so the ranking is close to random. Use 'mean_activation', "
        "'std_activation' or 'fisher'."
    )


@criterion(Need.ACTIVATIONS, caution=no_zeros)
def apoz(facts: GroupData) -> Array:
    """Share of a channel's values that are not zero: 1 - APoZ (average percentage of zeros).

    Formula: s_j = 1 - share of the values h_j, over images and positions, that are exactly zero.
    h_j are the activations before pooling, padding, resizing, concatenation and batch
    normalisation. A sum counts as an activation, unless all its operands were pooled; so does the
    output of a second ReLU after a pool: a DenseNet's first channels are counted at the ReLU of
    each dense layer, not at the stem's (which differs by up to 0.5). If several layers read channel
    j at different places, the mean over those places.
    Cost: one forward pass over the calibration images; no labels.
    When it hurts: activations other than ReLU are hardly ever exactly zero (a warning says so); a
    channel that is rarely active may be the one that identifies a rare class.
    Source: Hu et al., Network Trimming, 2016; the second criterion of "Compressing a Keras CNN".
    """
    shares = []
    for reading, _ in facts.readings:
        for zeros in reading.own_zeros:
            part = channel_index(facts.network, facts.group, zeros.units)
            values = part.total(np.full(len(zeros.units), zeros.count))
            shares.append((part.total(zeros.count - zeros.zeros), values))
    return _mean_of_shares(facts, shares)


@criterion(Need.ACTIVATIONS)
def mean_activation(facts: GroupData) -> Array:
    """Mean absolute value of a channel.

    Formula: s_j = mean |h_j| over images and positions; after a ReLU, simply the mean. If several
    layers read channel j at different places, the mean over those places.
    Cost: one forward pass over the calibration images; no labels.
    When it hurts: a channel with a large constant value scores high, though a bias could replace
    it; scores of layers with different scales cannot be compared.
    Source: Polyak & Wolf, Channel-level Acceleration of Deep Face Representations, 2015.
    """
    return _mean(facts, lambda reading, part: part.total(reading.absolute))


@criterion(Need.ACTIVATIONS)
def std_activation(facts: GroupData) -> Array:
    """Standard deviation of a channel's values.

    Formula: s_j = standard deviation of h_j over images and positions. If several layers read
    channel j at different places, the root of the mean variance.
    Cost: one forward pass over the calibration images; no labels.
    When it hurts: a channel that hardly varies still contributes its mean: unless the next layer's
    bias is repaired, removing it shifts all later activations. Scores of layers with different
    scales cannot be compared.
    Source: Polyak & Wolf, 2015; the standard deviation of "Compressing a Keras CNN".
    """

    def variance(reading: ActivationStatistics, part: ChannelIndex) -> Array:
        values = part.total(np.full(len(reading.units), reading.count))
        values = np.where(values > 0, values, 1)
        spread = part.total(reading.squares) - part.total(reading.total) ** 2 / values
        return np.maximum(spread, 0)

    return np.sqrt(_mean(facts, variance))


@criterion(Need.ACTIVATIONS)
def fluctuation(facts: GroupData) -> Array:
    """Fluctuation of a channel about its mean, weighted by its readers (FLAP).

    Formula: s_j = sum over consumers of Var(h_j) * ||W[:, j]||^2, then standardised within the
    group: (s - mean) / standard deviation.
    Cost: one forward pass over the calibration images; no labels.
    When it hurts: it assumes that the channel's mean is added to the next layer's bias; without
    that repair, channels that matter by a constant value score too low.
    Source: An et al., Fluctuation-based Adaptive Structured Pruning for Large Language Models, AAAI
    2024.
    """
    raw = np.zeros(len(facts))
    for reading, part in facts.readings:
        raw += part.total(reading.variance * reading.reader_norm)
    spread = raw.std()
    scores: Array = (raw - raw.mean()) / (spread if spread > 0 else 1)
    return scores


def _mean(facts: GroupData, sums: SumOf) -> Array:
    """Mean over readings of (sum of each channel's values / their number).

    Channels that nothing reads score as if they were zero.
    """
    shares = []
    for reading, part in facts.readings:
        values = part.total(np.full(len(reading.units), reading.count))
        shares.append((sums(reading, part), values))
    return _mean_of_shares(facts, shares)


def _mean_of_shares(facts: GroupData, shares: Sequence[tuple[Array, Array]]) -> Array:
    """Mean of (sums / values) for each channel, over the readings in which it has values."""
    means, places = np.zeros((2, len(facts)))
    for sums, values in shares:
        means += sums / np.where(values > 0, values, 1)
        places += values > 0
    return means / np.where(places > 0, places, 1)
