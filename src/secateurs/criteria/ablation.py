"""Criteria that remove each channel and measure the effect."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from secateurs.arguments import takes, whole_number
from secateurs.calibration.ablation import ABLATION, Ablation
from secateurs.calibration.needs import Need
from secateurs.channels.arrays import Array
from secateurs.channels.network import NETWORK, Network
from secateurs.criteria.group_data import GroupData
from secateurs.criteria.registry import criterion


@criterion(Need.ABLATION)
def oracle(facts: GroupData) -> Array:
    """Measured change of the loss when the channel is removed.

    Formula: s_j = mean over images of L_n(without channel j) - L_n. If it is negative, the network
    is better without the channel. A removed channel is read as zero everywhere, as after a cut.
    Cost: by far the most expensive criterion, since it is exact: for every channel, a forward pass
    of the layers after it. ``oracle(network, data)`` reuses the activations before the channel and
    the linearity of its first consumer, and skips images on which the channel is zero;
    ``mode="racing"`` costs less again.
    When it hurts: channels are removed one at a time, so two that can replace each other both seem
    unimportant. Without repair and retraining, it overstates channels that the others could
    compensate for.
    Source: "oracle pruning" in Molchanov et al., ICLR 2017, and in "Compressing a Keras CNN".
    """
    estimate: Array = facts.ablation.estimate[facts.group.name]
    return estimate


@criterion(Need.ABLATION)
def critical(facts: GroupData) -> Array:
    """Largest loss of accuracy of any class when the channel is removed.

    Formula: s_j = max over classes c of D_jc; D_jc = accuracy on c - accuracy on c without channel
    j. As accuracy moves in steps, ties are broken by the class's change of loss. As a selection,
    ``critical_channels(network, ablation, best=t)``: keep the union, over classes, of the t
    channels of each group with the largest D_jc, and remove all others at once.
    Cost: that of ``oracle``, in the same pass, which covers all classes. Needs labels.
    When it hurts: with few images of a class, D_jc rests on a handful of predictions; a channel
    that helps every class a little is critical to none.
    Source: Dimovska & Johnston, A Novel Pruning Method for Convolutional Neural Networks Based off
    Identifying Critical Filters, PEARC 2019.
    """
    ablation = facts.ablation
    damage = ablation.damage(facts.group.name)
    largest: Array = damage[:, ablation.images > 0].max(axis=1)
    return largest


@takes(network=NETWORK, ablation=ABLATION, best=whole_number(1))
def critical_channels(
    network: Network, ablation: Ablation, best: int = 3
) -> Mapping[str, NDArray[np.int64]]:
    """Select the channels to remove so that only those critical to some class are kept.

    Args:
        network: as traced.
        ablation: ablation of the network, in exact mode, with labels.
        best: number of channels that each class keeps in each group; classes share many of them.

    Returns:
        Group name -> indices of the channels to remove, as ``network.cut`` takes them.

    Example:
        >>> import torch, secateurs as sec
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
        >>> network = sec.trace(model, torch.zeros(1, 4))
        >>> data = torch.randn(16, 4), torch.arange(16) % 2
        >>> gone = sec.critical_channels(network, sec.ablate(network, data), best=1)
        >>> len(gone["0"]) >= 6
        True
    """
    gone = {
        group.name: np.setdiff1d(np.arange(len(group)), ablation.critical(group.name, best))
        for group in network.groups
    }
    return {name: channels for name, channels in gone.items() if len(channels)}
