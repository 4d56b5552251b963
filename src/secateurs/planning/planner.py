"""From scores and a budget to a cut. Pure arithmetic: no model is run, none is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from secateurs.planning.profiling import profile_network
from secateurs.planning.removal_order import RemovalOrder, finest_multiple
from secateurs.planning.units import Limit
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
        network: as traced.
        scores: for each group, one a channel, as ``score`` gives them.
        budget: what may remain: a ``Budget``, ``"macs=0.5,size_mb=15"`` or a mapping; never
            exceeded. Or:
        amount: share of the channels to remove, in (0, 1), counted as a budget's ``channels``.
        threshold: remove every channel that scores below it.
        scope: 'group' takes the same share from every width; 'network' the lowest scores anywhere.
        floor: never leave a group with less: a share of its channels, or a number if 1 or more.
        multiple: keep widths that are a multiple of this, the nearest. None is 8 (less for narrow
            groups), at which runtimes are faster; any width for an amount, a threshold or a budget
            of channels without depthwise convolutions; the one measured under a budget of time.
        skip: names of groups or layers to leave alone; ``*`` matches anything.
        sensitivity: as measured, in place of ``scope``: every group is cut as far as the same rise
            of the loss allows; scores still rank its channels.
        latency_model: as ``profile`` measured it; None has it measured, or read where it is kept.

    Returns:
        The cut; ``cut.explain()`` says what goes.

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
    names = layer_names(getattr(network.source, "model", None), skip)
    wanted = None if budget is None else Budget.of(budget)
    if wanted and wanted.wants_speed:
        latency_model = latency_model or profile_network(network, wanted.conditions)
    multiple = _multiple_for(network, wanted, multiple, latency_model)
    order = RemovalOrder.of(
        network, scores, scope, floor, multiple, names, sensitivity, latency_model
    )
    if threshold is not None:
        return order.cut_of(order.counts_below(threshold))
    return cut_within(order, wanted or _budget_of(amount, network), latency_model)


def _multiple_for(
    network: Network,
    budget: Budget | None,
    multiple: int | None,
    latency_model: LatencyModel | None,
) -> int | None:
    """The multiple as asked for; any width where channels are counted one by one."""
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
