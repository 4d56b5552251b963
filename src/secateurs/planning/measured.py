"""Planning of a cut from error curves and a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from math import lcm

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.blocks import BlockCut
from secateurs.channels.cut import Cut
from secateurs.channels.equations import Ids
from secateurs.channels.network import Group, Network
from secateurs.errors import BudgetError
from secateurs.measurement.latency_model import LatencyModel
from secateurs.planning.allocation import Problem, allocate, choices_of
from secateurs.planning.budget import UNITS, Budget
from secateurs.planning.profiling import profile_network
from secateurs.planning.removal_order import finest_multiple, list_allowed, multiples_of
from secateurs.planning.timed_units import TimedUnit
from secateurs.planning.units import Unit
from secateurs.planning.widths import MILLISECONDS, WidthCosts
from secateurs.planning.within_budget import nearest_budget_message

FLOOR = 1 / 16
"""Default floor: the least share of a group's channels at which losses are measured."""

PRICED = {"channels": "channels", "params": "params", "macs": "macs", "size_mb": "bytes"}
"""Units whose cost follows from widths -> their names in ``WidthCosts``; time needs a latency
model."""

_ATTEMPTS = 20

_FINER = (1, 2, 4, 16)
"""Divisors of the measured multiples, tried in turn until some widths meet the budget."""


def plan_measured(
    network: Network,
    orders: Mapping[str, NDArray[np.int64]],
    losses: Mapping[str, NDArray[np.float64]],
    budget: Budget,
    *,
    floor: float = FLOOR,
    multiple: int | None = None,
    skip: Sequence[str] = (),
    latency_model: LatencyModel | None = None,
    blocks: Mapping[str, float] | None = None,
) -> Cut:
    """Find the cut within a budget that loses least, by each group's loss at each width.

    With a latency model, loss is weighed against saved milliseconds: under limits of time, and
    under other limits too, where it selects a fast cut among those within them.

    Args:
        network: as traced.
        orders: group -> its channels in the order of removal.
        losses: group -> its loss at every width from 0 to all channels, as from ``curves_from``.
        budget: limits; never exceeded. Limits of time are met as predicted.
        floor: least width of a group: a share of its channels, or a number if 1 or more.
        multiple: as for ``plan``.
        skip: names of groups or layers to leave alone; ``*`` matches anything.
        latency_model: as for ``plan``.
        blocks: residual block that may be removed whole -> loss when it alone is; None for none.

    Raises:
        BudgetError: no cut within the floors meets the budget; the message says the nearest.
    """
    if budget.wants_speed:
        latency_model = latency_model or profile_network(network, budget.conditions)
    groups = list_allowed(network, skip)
    units = budget.units(network, latency_model)
    limits = budget.absolute_for(network, units)
    may_go = BlockChoices.of(network, groups, blocks or {})
    costs = WidthCosts(network, groups, budget.file, may_go.cuts, latency_model)
    saves = None if latency_model is None or budget.is_timed else MILLISECONDS
    curves = [*(losses[group.name] for group in groups), *may_go.curves]
    if "channels" in limits and latency_model is None:
        multiple = finest_multiple(network, multiple)
    multiples = multiples_of(network, groups, multiple, latency_model)

    for finer in _FINER if multiple is None and latency_model is not None else _FINER[:1]:
        steps = _finer_steps(network, groups, multiples, finer)
        widths_of = map(choices_of, map(len, groups), repeat(floor), steps)
        choices = [*widths_of, *may_go.choices]
        problem = Problem(curves, choices, costs, {}, may_go.around, saves)
        within = partial(_allocate, problem, network, groups, orders, may_go.names)
        cut = _within_limits(network, within, limits, units, latency_model)
        if cut is not None:
            return cut
    smallest = _cut(network, groups, orders, np.array([c[0] for c in choices]), may_go.names)
    raise BudgetError(nearest_budget_message(network, smallest, budget, units, limits))


def _allocate(
    problem: Problem,
    network: Network,
    groups: Sequence[Group],
    orders: Mapping[str, NDArray[np.int64]],
    blocks: Sequence[str],
    targets: Mapping[str, float],
) -> Cut | None:
    try:
        widths = allocate(replace(problem, limits=targets))
    except BudgetError:
        return None
    return _cut(network, groups, orders, widths, blocks)


def _finer_steps(
    network: Network, groups: Sequence[Group], multiples: Ids, finer: int
) -> list[int]:
    """Divide the multiples by a number, as far as operations allow."""
    needed = map(network.multiple_of, groups)
    return [lcm(max(1, m // finer), n) for m, n in zip(multiples.tolist(), needed, strict=True)]


def _within_limits(
    network: Network,
    within: Callable[[Mapping[str, float]], Cut | None],
    limits: Mapping[str, float],
    units: Mapping[str, Unit],
    latency_model: LatencyModel | None,
) -> Cut | None:
    """Find a cut within the limits; None if there is none.

    Widths alone do not determine a file's size, since its header describes the cut. So the cut is
    measured, and if it exceeds a limit, the target is lowered by that factor.
    """
    images = 1 if latency_model is None else latency_model.images
    asked = dict(limits)
    for _ in range(_ATTEMPTS):
        cut = within(_targets(asked, images))
        if cut is None:
            return None
        taken = {name: units[name].measure(network, cut) for name in limits}
        over = {name: limit / taken[name] for name, limit in limits.items() if taken[name] > limit}
        if not over:
            return cut
        for name, factor in over.items():
            asked[name] *= min(0.999, factor)
    return None


def _targets(limits: Mapping[str, float], images: int) -> dict[str, float]:
    """Largest costs of widths; of limits on the same cost, the lowest counts."""
    targets: dict[str, float] = {}
    for name, limit in limits.items():
        unit = UNITS[name]
        if isinstance(unit, TimedUnit):
            price, most = MILLISECONDS, unit.milliseconds(limit, images)
        else:
            price, most = PRICED[name], limit
        targets[price] = min(most, targets.get(price, most))
    return targets


def _cut(
    network: Network,
    groups: Sequence[Group],
    orders: Mapping[str, NDArray[np.int64]],
    widths: NDArray[np.int64],
    blocks: Sequence[str],
) -> Cut:
    of_groups, of_blocks = widths[: len(groups)], widths[len(groups) :]
    return network.cut(
        {
            group.name: np.sort(orders[group.name][: len(group) - int(width)])
            for group, width in zip(groups, of_groups, strict=True)
            if width < len(group)
        },
        [name for name, stays in zip(blocks, of_blocks, strict=True) if not stays],
    )


@dataclass(frozen=True, eq=False, slots=True)
class BlockChoices:
    """Residual blocks as further choices behind the groups'.

    Attributes:
        names: names of the blocks.
        cuts: records of their removal.
        curves: for each block, its loss when removed and when kept.
        choices: for each block, the widths 0 (removed) and 1 (kept).
        around: for each group and block, the place of the block that it is removed with, or -1.
    """

    names: list[str]
    cuts: list[BlockCut]
    curves: list[NDArray[np.float64]]
    choices: list[NDArray[np.int64]]
    around: NDArray[np.int64] | None

    @classmethod
    def of(
        cls, network: Network, groups: Sequence[Group], losses: Mapping[str, float]
    ) -> BlockChoices:
        """Make the choices from the loss that each block's removal costs."""
        if not losses:
            return cls([], [], [], [], None)
        cuts = [block.cut for block in network.blocks if block.name in losses]
        around = np.full(len(groups) + len(cuts), -1)
        places = {group.name: place for place, group in enumerate(groups)}
        for number, cut in enumerate(cuts):
            for group in network.groups_inside(cut):
                if group.name in places:
                    around[places[group.name]] = len(groups) + number
        return cls(
            [cut.owner for cut in cuts],
            cuts,
            [np.array([losses[cut.owner], 0.0]) for cut in cuts],
            [np.array([0, 1]) for _ in cuts],
            around,
        )
