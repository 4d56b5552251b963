"""From error curves and a budget to a cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.cut import Cut
from secateurs.channels.file_size import file_bytes
from secateurs.channels.network import Group, Network
from secateurs.errors import BudgetError
from secateurs.planning.allocation import Problem, allocate, choices_of
from secateurs.planning.planner import Budget, allowed_groups, measures, nearest_budget_message
from secateurs.planning.widths import WidthCosts

FLOOR = 1 / 16
"""Of a group's channels, where nothing else is said: the least that is measured."""

_ATTEMPTS = 20


def plan_measured(
    network: Network,
    orders: Mapping[str, NDArray[np.int64]],
    losses: Mapping[str, NDArray[np.float64]],
    budget: Budget,
    *,
    floor: float = FLOOR,
    multiple: int = 1,
    skip: Sequence[str] = (),
) -> Cut:
    """The cut within a budget that loses least, by what each group loses at each width.

    Args:
        network: as traced.
        orders: group -> its channels, the first to go first.
        losses: group -> its loss at every width from 0 to all channels, as ``curves_from`` makes.
        budget: what may remain; never exceeded.
        floor: never leave a group with less: a share of its channels, or a number if 1 or more.
        multiple: round the widths that stay to a multiple of this.
        skip: names of groups or layers to leave alone; ``*`` matches anything.

    Raises:
        BudgetError: no cut within the floors meets the budget; the message says the nearest.
    """
    groups = allowed_groups(network, skip)
    choices = [choices_of(len(group), floor, multiple) for group in groups]
    costs = WidthCosts(network, groups)
    dense = measures(network, network.cost(), Cut())
    limits = budget.absolute(dense)
    targets = {("bytes" if unit == "size_mb" else unit): limit for unit, limit in limits.items()}
    for _ in range(_ATTEMPTS):
        problem = Problem([losses[group.name] for group in groups], choices, costs, targets)
        try:
            widths = allocate(problem)
        except BudgetError:
            least = np.array([choice[0] for choice in choices])
            cut = _cut(network, groups, orders, least)
            raise BudgetError(nearest_budget_message(network, cut, budget, limits)) from None
        cut = _cut(network, groups, orders, widths)
        over = _over(network, cut, limits)
        if not over:
            return cut
        for unit, factor in over.items():
            targets[unit] *= factor
    raise BudgetError(nearest_budget_message(network, cut, budget, limits))


def _cut(
    network: Network,
    groups: Sequence[Group],
    orders: Mapping[str, NDArray[np.int64]],
    widths: NDArray[np.int64],
) -> Cut:
    return network.cut(
        {
            group.name: np.sort(orders[group.name][: len(group) - int(width)])
            for group, width in zip(groups, widths, strict=True)
            if width < len(group)
        }
    )


def _over(network: Network, cut: Cut, limits: Mapping[str, float]) -> dict[str, float]:
    """Unit -> by what factor to ask for less, where a cut is above a limit.

    A file has a header that says what was cut, so it is known once the cut is.
    """
    taken = measures(network, network.cost(cut), cut)
    taken["size_mb"] = file_bytes(network, cut)
    return {
        ("bytes" if unit == "size_mb" else unit): min(0.999, limit / taken[unit])
        for unit, limit in limits.items()
        if taken[unit] > limit
    }
