"""From scores and a budget to a cut. Pure arithmetic: no model is run, none is changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from secateurs.arguments import (
    BUDGET,
    LAYERS,
    NUMBER,
    SCORES,
    SENSITIVITY,
    TEXT,
    THRESHOLD,
    instance,
    layer_names,
    takes,
    whole_number,
)
from secateurs.channels.cut import Cut
from secateurs.channels.equations import Ids
from secateurs.channels.network import NETWORK, Network
from secateurs.errors import BudgetError
from secateurs.measurement.latency_model import LatencyModel
from secateurs.planning.budget import Budget
from secateurs.planning.removal_order import RemovalOrder, Scope
from secateurs.planning.units import Candidate, Limit, Unit

if TYPE_CHECKING:
    from secateurs.planning.damage_curves import Sensitivity

__all__ = ["Budget", "Scope", "plan"]


LATENCY_MODEL = instance(
    LatencyModel, "a LatencyModel", BudgetError, "secateurs.profile(network) measures one."
).or_none()


@takes(
    network=NETWORK,
    scores=SCORES,
    budget=BUDGET,
    amount=NUMBER.or_none(),
    threshold=THRESHOLD.or_none(),
    scope=TEXT,
    floor=NUMBER,
    multiple=whole_number(1).or_none(),
    skip=LAYERS,
    sensitivity=SENSITIVITY.or_none(),
    latency_model=LATENCY_MODEL,
)
def plan(
    network: Network,
    scores: Mapping[str, NDArray[np.float64]],
    budget: Budget | str | Mapping[str, Limit] | None = None,
    *,
    amount: float | None = None,
    threshold: float | None = None,
    scope: Scope = "group",
    floor: float = 0.1,
    multiple: int | None = None,
    skip: Sequence[str] = (),
    sensitivity: Sensitivity | None = None,
    latency_model: LatencyModel | None = None,
) -> Cut:
    """Choose the channels to remove: those of the lowest scores, until the budget is met.

    Exactly one of ``budget``, ``amount`` and ``threshold`` says how many.

    Args:
        network: as traced.
        scores: for each group, one a channel, as ``score`` returns them.
        budget: what may remain, as a ``Budget``, as text such as ``"macs=0.5,size_mb=15"`` or as a
            mapping such as ``{"macs": 0.5}``. Met as closely as the granularity of channels allows,
            never exceeded.
        amount: share of the channels to remove, in (0, 1), counted as a budget's ``channels``.
        threshold: remove every channel that scores below it.
        scope: 'group' takes the same share from every width; 'network' takes the lowest scores
            wherever they are, which needs scores that compare across layers.
        floor: never leave a group with less than this: a share of its channels, or a number if 1 or
            more.
        multiple: keep widths that are a multiple of this, the nearest. None keeps any width, but
            in networks with depthwise convolutions, where it is 8 (less for groups too narrow):
            runtimes that hold channels in blocks make such a network of other widths slower than
            the dense one. Under a budget of time None is the multiple that was measured to be fast
            where the model will run.
        skip: names of groups or layers to leave alone; ``*`` matches anything.
        sensitivity: as ``sensitivity`` measured it: every group is then cut as far as the same rise
            of the loss allows, each alone, in place of what ``scope`` says. Scores still rank the
            channels inside each group.
        latency_model: as ``profile`` measured it, for a budget of time; None has it measured, or
            read where it is kept.

    Returns:
        The cut; ``cut.explain()`` says what goes.

    Raises:
        BudgetError: no cut within the floors meets the budget; it says the nearest that can.
        ModelError: the model has no channel that can be pruned.

    Example:
        >>> import torch, secateurs as sec
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
        >>> network = sec.trace(model, torch.zeros(1, 4))
        >>> cut = sec.plan(network, sec.score(network), sec.Budget(params=0.6))
        >>> network.cost(cut).params <= 0.6 * network.params()
        True
    """
    _check_one(budget, amount, threshold)
    names = layer_names(getattr(network.source, "model", None), skip)
    wanted = None if budget is None else Budget.of(budget)
    if wanted is not None and wanted.is_timed:
        latency_model = latency_model or measure_times(network, wanted)
        multiple = latency_model.multiple if multiple is None else multiple
    order = RemovalOrder.of(network, scores, scope, floor, multiple, names, sensitivity)
    if threshold is not None:
        return order.cut_of(order.counts_below(threshold))
    if amount is not None:
        total = network.cost().channels
        wanted = Budget(channels=max(1, total - round(amount * total)) + 0.0)
    return _meet(order, wanted, latency_model)  # type: ignore[arg-type]


def _check_one(budget: object, amount: float | None, threshold: float | None) -> None:
    if sum(choice is not None for choice in (budget, amount, threshold)) != 1:
        raise BudgetError("expected exactly one of budget, amount and threshold")
    if amount is not None and not 0 < amount < 1:
        raise BudgetError(f"amount: expected a share in (0, 1); received {amount}")


def measure_times(network: Network, budget: Budget) -> LatencyModel:
    """The latency model of a network where a budget's times are meant for: kept, or measured."""
    from secateurs.measurement.profiling import profile_network  # it plans cuts to measure

    return profile_network(network, budget.conditions)


def _meet(order: RemovalOrder, budget: Budget, latency_model: LatencyModel | None) -> Cut:
    network = order.network
    units = budget.units(network, latency_model)
    limits = budget.absolute_for(network, units)
    allowed = dict(limits)  # what is predicted may be no more than this
    while True:
        holds = _within(units, allowed)
        counts = _shortest(order, holds)
        if counts is None:
            raise BudgetError(_nearest_budget(order, budget, units, limits))
        cut = order.cut_of(_given_back(order, counts, holds, _within(units, allowed, 0.999)))
        excess = {n: units[n].measure(network, cut) - limit for n, limit in limits.items()}
        if max(excess.values()) <= 0:
            return cut
        # What a prediction leaves out (a file's header) is known once the cut is.
        predicted = Candidate(network, network.alive(network.removed_by(cut)))
        for name, over in excess.items():
            if over > 0:
                allowed[name] = units[name].predict(predicted) - over


def _within(
    units: Mapping[str, Unit], limits: Mapping[str, float], share: float = 1.0
) -> Callable[[Candidate], bool]:
    """Whether what is predicted of a network is within this share of the limits."""

    def holds(candidate: Candidate) -> bool:
        return all(units[n].predict(candidate) <= limit * share for n, limit in limits.items())

    return holds


def _shortest(order: RemovalOrder, holds: Callable[[Candidate], bool]) -> Ids | None:
    """How many of each group go for the fewest in order that meet the budget; None if none do."""
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


def _given_back(
    order: RemovalOrder,
    counts: Ids,
    holds: Callable[[Candidate], bool],
    has_room: Callable[[Candidate], bool],
) -> Ids:
    """Put back what the budget has room for: the last step overshoots where channels are dear.

    Where less than a thousandth is left, nobody looks for it: each try costs a look at the whole
    network, and a network of thousands of groups would need thousands.
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
    """That a budget cannot be met, and the nearest one that can.

    Args:
        network: as traced.
        smallest: the cut that leaves least.
        budget: that was asked for.
        units: of its limits.
        limits: the same in absolute numbers.
    """
    least = {name: units[name].measure(network, smallest) for name in limits}
    missed = [name for name, limit in limits.items() if least[name] > limit]
    return (
        f"{network.name}: no cut within the floors meets "
        f"{', '.join(f'{name}={budget.limits[name]}' for name in missed)}; the nearest that can "
        f"be met is "
        f"{', '.join(f'{name}={units[name].show(least[name])}' for name in missed)}. "
        "Ask for that, or lower the floor."
    )
