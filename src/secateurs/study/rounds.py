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
from secateurs.planning.budget import UNITS
from secateurs.planning.measured import plan_measured
from secateurs.planning.planner import plan
from secateurs.planning.removal_order import multiple_of
from secateurs.settings.pruning import Pruning
from secateurs.study.goals import Goals

ScoresByGroup = Mapping[str, NDArray[np.float64]]

_HALVINGS = 4


def plan_round(
    network: Network, scores: ScoresByGroup, pruning: Pruning, so_far: Cut, goals: Goals
) -> Cut:
    """The cut of a round: a share of the channels that remain, and no more than the budget asks.

    Args:
        network: of the model as it is now.
        scores: of its channels.
        pruning: how much, from where, down to which floors; these are of the dense model.
        so_far: what has gone since the dense model.
        goals: at which cutting ends; may be empty.

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
    if not goals.fits(network, so_far, cut):
        return cut
    exact = _within_floors(
        network, _down_to(network, scores, pruning, skip, so_far, goals), scores, floors
    )
    if goals.fits(network, so_far, exact):
        return exact
    if len(goals.foreseen) == len(goals.limits):
        return cut
    return _least_that_fits(network, scores, pruning, skip, so_far, goals, floors) or cut


def plan_round_by_curves(
    network: Network,
    orders: Mapping[str, NDArray[np.int64]],
    losses: Mapping[str, NDArray[np.float64]],
    pruning: Pruning,
    so_far: Cut,
    goals: Goals,
) -> Cut:
    """The cut of a round by what each group loses at each width, where that is least.

    Args:
        network: of the model as it is now.
        orders: group -> its channels, the first to go first.
        losses: group -> its loss at every width from 0 to all channels.
        pruning: how much and down to which floors; these are of the dense model.
        so_far: what has gone since the dense model.
        goals: at which cutting ends; where there are none, a share of the channels goes.

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
            **goals.planning_options(network, _next_limits(network, pruning.step, so_far, goals)),
            floor=1,
            multiple=pruning.multiple,
            skip=skip,
        )
    except BudgetError:  # near the floors there is less to take
        return plan_round(network, ranks, pruning, so_far, goals)
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


def _next_limits(network: Network, step: float, so_far: Cut, goals: Goals) -> dict[str, float]:
    """What may remain after this round: a step less, and no less than is asked for in the end."""
    if not goals.foreseen:
        channels = UNITS["channels"].measure(network, Cut())
        # A share of few channels is one of them.
        return {"channels": min((1 - step) * channels, channels - 1)}
    present = {name: goals.measure(name, network, Cut(), so_far) for name in goals.foreseen}
    # A plan knows of its own cut alone; a file tells of the earlier ones too.
    wanted = {
        name: max(goals.limits[name], (1 - step) * now) - goals.earlier_share(name, network, so_far)
        for name, now in present.items()
    }
    if "channels" in wanted:
        wanted["channels"] = min(wanted["channels"], present["channels"] - 1)
    return wanted


def _step(
    network: Network, scores: ScoresByGroup, pruning: Pruning, skip: list[str], share: float = 1.0
) -> Cut:
    """The cut of a step of the channels, or of a share of a step."""
    channels = sum(len(group) for group in network.groups)
    options = {"scope": pruning.scope, "floor": 1, "multiple": pruning.multiple, "skip": skip}
    # A share of few channels is rounded to one, not to none.
    amount = max(share * pruning.step, 1 / channels)
    try:
        return plan(network, scores, amount=amount, **options)  # type: ignore[arg-type]
    except BudgetError:  # near the floors there is less to take
        return plan(network, scores, threshold=math.inf, **options)  # type: ignore[arg-type]


def _down_to(
    network: Network,
    scores: ScoresByGroup,
    pruning: Pruning,
    skip: list[str],
    so_far: Cut,
    goals: Goals,
) -> Cut:
    """The smallest cut that meets what can be foreseen; an empty one where there is none."""
    if not goals.foreseen:
        return Cut()
    # A plan knows of its own cut alone; a file, for one, tells of the earlier ones too.
    tight = {
        name: goals.limits[name] - goals.earlier_share(name, network, so_far)
        for name in goals.foreseen
    }
    try:
        return plan(
            network,
            scores,
            **goals.planning_options(network, tight),
            scope=pruning.scope,
            floor=1,
            multiple=pruning.multiple,
            skip=skip,
        )
    except BudgetError:
        return Cut()


def _least_that_fits(
    network: Network,
    scores: ScoresByGroup,
    pruning: Pruning,
    skip: list[str],
    so_far: Cut,
    goals: Goals,
    floors: Mapping[str, int],
) -> Cut:
    """The smallest share of a step that meets goals which only a model can tell: by bisection."""
    low, high, best = 0.0, 1.0, Cut()
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        step = _step(network, scores, pruning, skip, middle)
        cut = _within_floors(network, step, scores, floors)
        if goals.fits(network, so_far, cut):
            high, best = middle, cut
        else:
            low = middle
    return best


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


def _within_floors(
    network: Network, cut: Cut, scores: ScoresByGroup, floors: Mapping[str, int]
) -> Cut:
    """The cut without the channels, the best first, that would leave a group below its floor."""
    chosen: dict[str, NDArray[np.int64]] = {}
    for name, channels in cut.channels.items():
        removed = np.asarray(channels.removed, np.int64)
        order = np.argsort(scores[name][removed], kind="stable")
        chosen[name] = np.sort(removed[order[: max(0, channels.of - floors[name])]])
    return network.cut(chosen)
