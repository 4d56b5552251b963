"""What one round of a study removes. Pure arithmetic, as ``plan`` is."""

from __future__ import annotations

import glob
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.cut import Cut
from secateurs.channels.network import Group, Network
from secateurs.errors import BudgetError, ModelError
from secateurs.planning.budget import UNITS, Budget
from secateurs.planning.measured import plan_measured
from secateurs.planning.planner import plan
from secateurs.planning.removal_order import multiple_of
from secateurs.settings.pruning import Pruning

Scores = Mapping[str, NDArray[np.float64]]
Limits = Mapping[str, float]


def limits_of(dense: Network, budget: Budget | None) -> dict[str, float]:
    """A budget in absolute numbers (sizes in bytes), given the dense network."""
    return {} if budget is None else budget.absolute_for(dense)


def fits(network: Network, so_far: Cut, limits: Limits, cut: Cut | None = None) -> bool:
    """Whether a network, after ``cut``, is within the limits; never where there are none.

    Args:
        network: as it is now.
        so_far: what has gone since the dense model; the file says it too.
        limits: as ``limits_of`` gives them.
        cut: of ``network``; None looks at it as it is.
    """
    cut = cut or Cut()
    return bool(limits) and all(
        UNITS[name].measure(network, cut, so_far) <= limit for name, limit in limits.items()
    )


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
    # A plan knows of its own cut alone; a file, for one, tells of the earlier ones too.
    tight = {
        name: limit
        - (UNITS[name].measure(network, cut, so_far) - UNITS[name].measure(network, cut))
        for name, limit in limits.items()
    }
    exact = _down_to(network, scores, pruning, skip, tight)
    exact = _within_floors(network, exact, scores, floors)
    return exact if fits(network, so_far, limits, exact) else cut


def plan_round_by_curves(
    network: Network,
    orders: Mapping[str, NDArray[np.int64]],
    losses: Mapping[str, NDArray[np.float64]],
    pruning: Pruning,
    so_far: Cut,
    limits: Limits,
) -> Cut:
    """The cut of a round by what each group loses at each width, where that is least.

    Args:
        network: of the model as it is now.
        orders: group -> its channels, the first to go first.
        losses: group -> its loss at every width from 0 to all channels.
        pruning: how much and down to which floors; these are of the dense model.
        so_far: what has gone since the dense model.
        limits: absolute ones, at which cutting ends; where there are none, a share of the channels
            goes.

    Returns:
        The cut, of at least one channel; an empty one where every group is at its floor.
    """
    floors = {group.name: _floor(network, group, pruning, so_far) for group in network.groups}
    open_groups = [group for group in network.groups if len(group) > floors[group.name]]
    if not open_groups:
        return Cut()
    skip = [*pruning.skip, *(glob.escape(name) for name in floors if _is_closed(name, open_groups))]
    ranks = {name: _ranks(order) for name, order in orders.items()}
    try:
        cut = plan_measured(
            network,
            orders,
            losses,
            Budget.from_absolute(_next_limits(network, pruning.step, so_far, limits)),
            floor=1,
            multiple=pruning.multiple,
            skip=skip,
        )
    except BudgetError:  # near the floors there is less to take
        return plan_round(network, ranks, pruning, so_far, limits)
    except ModelError:
        return Cut()  # what is not at its floor is skipped
    return _within_floors(network, cut, ranks, floors)


def _is_closed(name: str, open_groups: Sequence[Group]) -> bool:
    return all(group.name != name for group in open_groups)


def _ranks(order: NDArray[np.int64]) -> NDArray[np.float64]:
    """The place of each channel in the order."""
    places = np.empty(len(order))
    places[order] = np.arange(len(order))
    return places


def _next_limits(network: Network, step: float, so_far: Cut, limits: Limits) -> dict[str, float]:
    """What may remain after this round: a step less, and no less than is asked for in the end."""
    units = {name: UNITS[name] for name in limits} or {"channels": UNITS["channels"]}
    present = {name: unit.measure(network, Cut(), so_far) for name, unit in units.items()}
    # A plan knows of its own cut alone; a file tells of the earlier ones too.
    extra = {name: present[name] - unit.measure(network, Cut()) for name, unit in units.items()}
    wanted = {
        name: max(limits.get(name, 0.0), (1 - step) * now) - extra[name]
        for name, now in present.items()
    }
    if "channels" in wanted:  # a share of few channels is one of them
        wanted["channels"] = min(wanted["channels"], present["channels"] - 1)
    return wanted


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
    try:
        return plan(
            network,
            scores,
            Budget.from_absolute(limits),
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
    multiple = multiple_of(network, group, pruning.multiple)
    whole = math.ceil(max(1, least) / multiple) * multiple
    return min(whole, dense_width)


def _within_floors(network: Network, cut: Cut, scores: Scores, floors: Mapping[str, int]) -> Cut:
    """The cut without the channels, the best first, that would leave a group below its floor."""
    chosen: dict[str, NDArray[np.int64]] = {}
    for name, channels in cut.channels.items():
        removed = np.asarray(channels.removed, np.int64)
        order = np.argsort(scores[name][removed], kind="stable")
        chosen[name] = np.sort(removed[order[: max(0, channels.of - floors[name])]])
    return network.cut(chosen)
