"""What one round of a study removes. Pure arithmetic, as ``plan`` is."""

from __future__ import annotations

import glob
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.cut import Cut
from secateurs.channels.file_size import predicted_file_size
from secateurs.channels.network import Group, Network
from secateurs.errors import BudgetError, ModelError
from secateurs.planning.planner import Budget, plan
from secateurs.settings.configuration import Pruning

Scores = Mapping[str, NDArray[np.float64]]
Limits = Mapping[str, float]


def limits_of(dense: Network, budget: Budget | None) -> dict[str, float]:
    """A budget in absolute numbers (sizes in bytes), given the dense network."""
    if budget is None:
        return {}
    cost = dense.cost()
    return budget.absolute(
        {
            "channels": cost.channels,
            "params": cost.params,
            "macs": cost.macs,
            "size_mb": predicted_file_size(dense, Cut()),
        }
    )


def fits(network: Network, so_far: Cut, limits: Limits, cut: Cut | None = None) -> bool:
    """Whether a network, after ``cut``, is within the limits; never where there are none.

    Args:
        network: as it is now.
        so_far: what has gone since the dense model; the file says it too.
        limits: as ``limits_of`` gives them.
        cut: of ``network``; None looks at it as it is.
    """
    cut = cut or Cut()
    cost = network.cost(cut)
    takes = {"channels": cost.channels, "params": cost.params, "macs": cost.macs}
    if "size_mb" in limits:
        takes["size_mb"] = predicted_file_size(network, so_far.then(cut))
    return bool(limits) and all(takes[name] <= limit for name, limit in limits.items())


def plan_round(
    network: Network, scores: Scores, pruning: Pruning, so_far: Cut, limits: Limits
) -> Cut:
    """The cut of a round: a share of the channels that remain, and no more than the budget asks.

    Args:
        network: of the model as it is now.
        scores: of its channels.
        pruning: how much, from where, down to which floors; these are of the dense model.
        so_far: what has gone since the dense model.
        limits: absolute ones, at which cutting ends; may be empty.

    Returns:
        The cut, of at least one channel; an empty one where every group is at its floor.
    """
    floors = {group.name: _floor(network, group, pruning, so_far) for group in network.groups}
    at_floor = [group.name for group in network.groups if len(group) <= floors[group.name]]
    if len(at_floor) == len(network.groups):
        return Cut()
    skip = [*pruning.skip, *map(glob.escape, at_floor)]
    try:
        cut = _step(network, scores, pruning, skip)
    except ModelError:
        if not at_floor:
            raise
        return Cut()  # what is not at its floor is skipped
    cut = _within_floors(network, cut, scores, floors)
    if not fits(network, so_far, limits, cut):
        return cut
    tight = dict(limits)
    if "size_mb" in limits:  # a plan reckons with a file that tells of its own cut alone
        earlier = predicted_file_size(network, so_far.then(cut)) - predicted_file_size(network, cut)
        tight["size_mb"] -= earlier
    exact = _down_to(network, scores, pruning, skip, tight)
    exact = _within_floors(network, exact, scores, floors)
    return exact if fits(network, so_far, limits, exact) else cut


def _step(network: Network, scores: Scores, pruning: Pruning, skip: list[str]) -> Cut:
    channels = sum(len(group) for group in network.groups)
    options = {"scope": pruning.scope, "floor": 1, "multiple": pruning.multiple, "skip": skip}
    # A share of few channels is rounded to one, not to none.
    amount = max(pruning.step, 1 / channels)
    try:
        return plan(network, scores, amount=amount, **options)  # type: ignore[arg-type]
    except BudgetError:  # near the floors there is less to take
        return plan(network, scores, threshold=math.inf, **options)  # type: ignore[arg-type]


def _down_to(
    network: Network, scores: Scores, pruning: Pruning, skip: list[str], limits: Limits
) -> Cut:
    """The smallest cut that meets the limits; an empty one where there is none."""
    absolute = {name: max(limit, 2.0) for name, limit in limits.items() if name != "size_mb"}
    size = f"{limits['size_mb'] / 1e3:.3f} kB" if "size_mb" in limits else None
    try:
        return plan(
            network,
            scores,
            Budget(**absolute, size_mb=size),
            scope=pruning.scope,
            floor=1,
            multiple=pruning.multiple,
            skip=skip,
        )
    except BudgetError:
        return Cut()


def _floor(network: Network, group: Group, pruning: Pruning, so_far: Cut) -> int:
    """The fewest channels the group may be left with."""
    member = group.members[0]
    length = network.tensors[member.tensor].shape[member.axis]
    earlier = so_far.tensors.get(member.tensor)
    dense_length = length if earlier is None else earlier.shape[member.axis]
    # Groups are renamed as heads or convolution groups go; the axes they lie along are not.
    dense_width = round(len(group) * dense_length / length)
    least = round(pruning.floor) if pruning.floor >= 1 else math.ceil(pruning.floor * dense_width)
    whole = math.ceil(max(1, least) / pruning.multiple) * pruning.multiple
    return min(whole, dense_width)


def _within_floors(network: Network, cut: Cut, scores: Scores, floors: Mapping[str, int]) -> Cut:
    """The cut without the channels, the best first, that would leave a group below its floor."""
    chosen: dict[str, NDArray[np.int64]] = {}
    for name, channels in cut.channels.items():
        removed = np.asarray(channels.removed, np.int64)
        order = np.argsort(scores[name][removed], kind="stable")
        chosen[name] = np.sort(removed[order[: max(0, channels.of - floors[name])]])
    return network.cut(chosen)
