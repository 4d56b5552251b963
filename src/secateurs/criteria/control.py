"""The random control."""

from __future__ import annotations

from secateurs.calibration.needs import Need
from secateurs.channels.arrays import Array
from secateurs.criteria.group_data import GroupData
from secateurs.criteria.registry import criterion


@criterion(Need.NOTHING)
def random(facts: GroupData) -> Array:
    """Random number for each channel: the control that every other criterion has to beat.

    Formula: s_j uniform in [0, 1), from the seed.
    Cost: none.
    When it hurts: without fine-tuning. After enough fine-tuning it is often hard to beat.
    Source: Mittal et al., Recovering from Random Pruning, WACV 2018.
    """
    return facts.random.random(len(facts))
