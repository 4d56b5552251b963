"""Planning of a cut from scores and a budget. Pure arithmetic: no model is run or changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
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
from secateurs.calibration.racing import Scope
from secateurs.channels.cut import Cut
from secateurs.channels.garbage import pause_garbage_collection
from secateurs.channels.network import NETWORK, Network
from secateurs.errors import BudgetError
from secateurs.measurement.latency_model import LatencyModel
from secateurs.planning.budget import Budget
from secateurs.planning.profiling import MULTIPLES, profile_network
from secateurs.planning.removal_order import RemovalOrder, finest_multiple
from secateurs.planning.timed_units import Predictor
from secateurs.planning.units import Candidate, Limit
from secateurs.planning.within_budget import cut_within

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
@pause_garbage_collection()
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

    Args:
        network: as returned by ``trace``.
        scores: for each group, one score per channel, as ``score`` returns them.
        budget: limits of what remains: a ``Budget``, ``"macs=0.5,size_mb=15"`` or a mapping; never
            exceeded. Instead of a budget:
        amount: share of the channels to remove, in (0, 1), counted as a budget's ``channels``; or
        threshold: score below which every channel is removed.
        scope: 'group' removes the same share of every width, 'network' the lowest scores overall.
        floor: least width of a group: a share of its channels, or a number if 1 or more.
        multiple: number that widths are rounded to multiples of. None is 8 (less for narrow
            groups), at which runtimes are faster; any width for an amount, a threshold or a budget
            of channels without depthwise convolutions; with a runtime or a time, as measured.
        skip: names of groups or layers to leave alone; ``*`` matches anything.
        sensitivity: measured curves, in place of ``scope``: every group is cut as far as the same
            rise of the loss allows; scores still rank its channels.
        latency_model: as ``profile`` returned it; None measures one if needed, or reads the cache.

    Returns:
        The cut; ``cut.explain()`` lists what is removed.

    Raises:
        BudgetError: no cut within the floors meets the budget; it says the nearest that can.

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
    wanted = None if budget is None else Budget.of(budget)
    latency_model = latency_model or _measure_for(network, wanted)
    multiple = _multiple_for(network, wanted, multiple, latency_model)
    rank = _ranking(network, scores, scope, floor, skip, sensitivity, latency_model)
    if wanted and wanted.runtime and not wanted.is_timed and latency_model:
        return _fastest(rank, multiple, wanted, latency_model)
    order = rank(multiple=multiple)
    if threshold is not None:
        return order.cut_of(order.counts_below(threshold))
    return cut_within(order, wanted or _budget_of(amount, network), latency_model)


def _ranking(
    network: Network,
    scores: Mapping[str, NDArray[np.float64]],
    scope: Scope,
    floor: float,
    skip: Sequence[str],
    sensitivity: Sensitivity | None,
    latency_model: LatencyModel | None,
) -> Callable[..., RemovalOrder]:
    """A function (multiple, by_time=True, whole=False) -> the order of removal."""
    return partial(
        RemovalOrder.of,
        network,
        scores,
        scope,
        floor,
        skip=layer_names(getattr(network.source, "model", None), skip),
        sensitivity=sensitivity,
        latency_model=latency_model,
    )


def _measure_for(network: Network, budget: Budget | None) -> LatencyModel | None:
    """The latency model that a budget needs, if any."""
    return profile_network(network, budget.conditions) if budget and budget.wants_speed else None


def _fastest(
    rank: Callable[..., RemovalOrder],
    multiple: int | None,
    budget: Budget,
    latency_model: LatencyModel,
) -> Cut:
    """Of several orders that meet the same limits, the cut with the least predicted time.

    Orders are tried at the measured multiples and at the widest one, each ranked by time or not,
    and with grids that lose whole heads first or channels of each head as well.
    """
    found: list[tuple[float, Cut]] = []
    refused: list[BudgetError] = []
    for order in _orders(rank, multiple, latency_model):
        try:
            cut = cut_within(order, budget, latency_model)
        except BudgetError as error:
            refused.append(error)
            continue
        candidate = Candidate.after(order.network, cut)
        found.append((Predictor(order.network, latency_model).milliseconds(candidate), cut))
    if not found:
        raise refused[0]
    return min(found, key=lambda pair: pair[0])[1]


def _orders(
    rank: Callable[..., RemovalOrder], multiple: int | None, latency_model: LatencyModel
) -> Iterator[RemovalOrder]:
    """The different orders that ``_fastest`` compares."""
    widest = MULTIPLES[-1]
    widths = [(multiple, latency_model)]
    if multiple is None:
        # As if it was measured: groups narrower than two such multiples use smaller ones.
        as_measured = replace(latency_model, multiple=widest, by_kind={})
        widths += [(widest, latency_model), (None, as_measured)]
    seen = set()
    for (steps, known), by_time, whole in product(widths, (True, False), (False, True)):
        order = rank(multiple=steps, latency_model=known, by_time=by_time, whole=whole)
        key = (order.multiples.tobytes(), order.group_of.tobytes())
        if key not in seen:
            seen.add(key)
            yield order


def _multiple_for(
    network: Network,
    budget: Budget | None,
    multiple: int | None,
    latency_model: LatencyModel | None,
) -> int | None:
    """The requested multiple; any width where channels are counted one by one."""
    by_channels = budget is None or "channels" in budget.limits
    return finest_multiple(network, multiple) if by_channels and not latency_model else multiple


def _budget_of(amount: float | None, network: Network) -> Budget:
    if amount is None:
        raise BudgetError("plan: expected a budget or an amount; received neither")
    total = network.cost().channels
    return Budget(channels=max(1, total - round(amount * total)) + 0.0)


def _check_one(budget: object, amount: float | None, threshold: float | None) -> None:
    if sum(choice is not None for choice in (budget, amount, threshold)) != 1:
        raise BudgetError("expected exactly one of budget, amount and threshold")
    if amount is not None and not 0 < amount < 1:
        raise BudgetError(f"amount: expected a share in (0, 1); received {amount}")
