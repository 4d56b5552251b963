"""Removal of channels in a given order until a budget is met, by arithmetic alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from secateurs.channels.cut import Cut
from secateurs.channels.equations import Ids
from secateurs.channels.network import Network
from secateurs.errors import BudgetError
from secateurs.measurement.latency_model import LatencyModel
from secateurs.planning.budget import Budget
from secateurs.planning.removal_order import RemovalOrder
from secateurs.planning.units import Candidate, Limit, Unit


def cut_within(order: RemovalOrder, budget: Budget, latency_model: LatencyModel | None) -> Cut:
    """The cut within a budget that removes the fewest channels in order.

    Args:
        order: order in which channels are removed.
        budget: budget of units that can be predicted.
        latency_model: for limits of time; else None.

    Raises:
        BudgetError: no cut within the floors meets it; the message says the nearest that can be.
    """
    network = order.network
    units = budget.units(network, latency_model)
    limits = budget.absolute_for(network, units)
    allowed = dict(limits)  # largest predicted costs
    while True:
        holds = _within(units, allowed)
        counts = _shortest(order, holds)
        if counts is None:
            raise BudgetError(_nearest_budget(order, budget, units, limits))
        cut = order.cut_of(_give_back(order, counts, holds, _within(units, allowed, 0.999)))
        excess = {n: units[n].measure(network, cut) - limit for n, limit in limits.items()}
        if max(excess.values()) <= 0:
            return cut
        # What a prediction leaves out (a file's header) is known once the cut is. The allowed
        # prediction is lowered by that excess, and the search repeated.
        predicted = Candidate(network, network.alive(network.removed_by(cut)))
        for name, over in excess.items():
            if over > 0:
                allowed[name] = units[name].predict(predicted) - over


def _within(
    units: Mapping[str, Unit], limits: Mapping[str, float], share: float = 1.0
) -> Callable[[Candidate], bool]:
    """A check whether a network's predicted costs are within this share of the limits."""

    def holds(candidate: Candidate) -> bool:
        return all(units[n].predict(candidate) <= limit * share for n, limit in limits.items())

    return holds


def _shortest(order: RemovalOrder, holds: Callable[[Candidate], bool]) -> Ids | None:
    """Channels removed from each group by the shortest order that meets the budget, or None."""
    if not holds(order.candidate(order.counts(len(order)))):
        return None
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        if holds(order.candidate(order.counts(middle))):
            high = middle
        else:
            low = middle + 1
    return order.counts(high)


def _give_back(
    order: RemovalOrder,
    counts: Ids,
    holds: Callable[[Candidate], bool],
    has_room: Callable[[Candidate], bool],
) -> Ids:
    """Put channels back as far as the budget allows: the last step overshoots where each is costly.

    The search stops once less than a thousandth of the budget is left. Each attempt evaluates the
    whole network, and a network with thousands of groups would need thousands of attempts.
    """
    open_groups = list(range(len(order.groups)))
    while open_groups:
        for number in list(open_groups):
            if not has_room(order.candidate(counts)):
                return counts
            fewer = order.put_back(counts, number)
            if fewer[number] < counts[number] and holds(order.candidate(fewer)):
                counts = fewer
            else:
                open_groups.remove(number)
    return counts


def _nearest_budget(
    order: RemovalOrder,
    budget: Budget,
    units: Mapping[str, Unit],
    limits: Mapping[str, float],
) -> str:
    smallest = order.cut_of(order.counts(len(order)))
    return nearest_budget_message(order.network, smallest, budget, units, limits)


def nearest_budget_message(
    network: Network,
    smallest: Cut,
    budget: Budget,
    units: Mapping[str, Unit],
    limits: Mapping[str, float],
) -> str:
    """The message that a budget cannot be met, with the nearest one that can.

    Args:
        network: as traced.
        smallest: the cut that leaves least.
        budget: the requested budget.
        units: units of its limits.
        limits: its limits as absolute numbers.
    """
    least = {name: units[name].measure(network, smallest) for name in limits}
    missed = [name for name, limit in limits.items() if least[name] > limit]
    asked = ", ".join(f"{name}={_brief(budget.limits[name])}" for name in missed)
    nearest = ", ".join(f"{name}={units[name].show(least[name])}" for name in missed)
    return (
        f"{network.name}: no cut within the floors meets {asked}; the nearest that can be met is "
        f"{nearest}. Ask for that, or lower the floor."
    )


def _brief(limit: Limit) -> str:
    """Format a limit; computed ones have more digits than anyone asked for."""
    return f"{limit:.6g}" if isinstance(limit, float) else str(limit)
