"""From error curves and a budget to a cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.blocks import BlockCut
from secateurs.channels.cut import Cut
from secateurs.channels.network import Group, Network
from secateurs.errors import BudgetError
from secateurs.measurement.latency_model import LatencyModel
from secateurs.planning.allocation import Problem, allocate, choices_of
from secateurs.planning.budget import UNITS, Budget
from secateurs.planning.profiling import profile_network
from secateurs.planning.removal_order import list_allowed, multiple_of
from secateurs.planning.units import Unit
from secateurs.planning.widths import WidthCosts
from secateurs.planning.within_budget import nearest_budget_message

FLOOR = 1 / 16
"""Of a group's channels, where nothing else is said: the least that is measured."""

PRICED = {"channels": "channels", "params": "params", "macs": "macs", "size_mb": "bytes"}
"""Units that widths alone give a price -> what that is called there."""

_ATTEMPTS = 20
_HALVINGS = 9


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
    """The cut within a budget that loses least, by what each group loses at each width.

    Args:
        network: as traced.
        orders: group -> its channels, the first to go first.
        losses: group -> its loss at every width from 0 to all channels, as ``curves_from`` makes.
        budget: what may remain; never exceeded. Limits of time are met as predicted, by the
            largest share of the MACs that is within them.
        floor: never leave a group with less: a share of its channels, or a number if 1 or more.
        multiple: as for ``plan``.
        skip: names of groups or layers to leave alone; ``*`` matches anything.
        latency_model: as for ``plan``.
        blocks: residual block that may go whole -> its loss when it alone is gone; None: no block.

    Raises:
        BudgetError: no cut within the floors meets the budget; the message says the nearest.
    """
    if budget.is_timed:
        latency_model = latency_model or profile_network(network, budget.conditions)
        multiple = latency_model.multiple if multiple is None else multiple
    groups = list_allowed(network, skip)
    units = budget.units(network, latency_model)
    limits = budget.absolute_for(network, units)
    may_go = BlockChoices.of(network, groups, blocks or {})
    costs = WidthCosts(network, groups, budget.file, may_go.cuts)
    curves = [*(losses[group.name] for group in groups), *may_go.curves]
    choices = [*_choices_of_groups(network, groups, floor, multiple), *may_go.choices]

    def within(targets: Mapping[str, float]) -> Cut | None:
        try:
            widths = allocate(Problem(curves, choices, costs, targets, may_go.around))
        except BudgetError:
            return None
        return _cut(network, groups, orders, widths, may_go.names)

    priced = {name: limit for name, limit in limits.items() if name in PRICED}
    others = {name: limit for name, limit in limits.items() if name not in PRICED}
    cut = (
        _within_others(network, within, priced, others, units)
        if others
        else _within_priced(network, within, priced, units)
    )
    if cut is None:
        smallest = _cut(network, groups, orders, np.array([c[0] for c in choices]), may_go.names)
        raise BudgetError(nearest_budget_message(network, smallest, budget, units, limits))
    return cut


def _choices_of_groups(
    network: Network, groups: Sequence[Group], floor: float, multiple: int | None
) -> list[NDArray[np.int64]]:
    return [choices_of(len(g), floor, multiple_of(network, g, multiple)) for g in groups]


def _within_priced(
    network: Network,
    within: Callable[[Mapping[str, float]], Cut | None],
    limits: Mapping[str, float],
    units: Mapping[str, Unit],
) -> Cut | None:
    """The cut within limits that widths give a price; None where none is.

    A file has a header that says what was cut, so it is known once the cut is.
    """
    targets = {PRICED[name]: limit for name, limit in limits.items()}
    for _ in range(_ATTEMPTS):
        cut = within(targets)
        if cut is None:
            return None
        taken = {name: units[name].measure(network, cut) for name in limits}
        over = {name: limit / taken[name] for name, limit in limits.items() if taken[name] > limit}
        if not over:
            return cut
        for name, factor in over.items():
            targets[PRICED[name]] *= min(0.999, factor)
    return None


def _within_others(
    network: Network,
    within: Callable[[Mapping[str, float]], Cut | None],
    priced: Mapping[str, float],
    others: Mapping[str, float],
    units: Mapping[str, Unit],
) -> Cut | None:
    """The cut of the largest share of the MACs that is within the other limits too."""
    dense = float(network.macs())
    ceiling = min(dense, priced.get("macs", dense))
    low, high, best = 0.0, 1.0, None
    for attempt in range(_HALVINGS):
        share = (low + high) / 2 if attempt else high
        asked = {**priced, "macs": share * ceiling}
        cut = _within_priced(network, within, asked, {**units, "macs": UNITS["macs"]})
        is_within = cut is not None and all(
            units[name].measure(network, cut) <= limit for name, limit in others.items()
        )
        if is_within:
            best = cut
        if is_within or cut is None:  # too narrow for the floors, or with room to spare
            low = share
        else:
            high = share
        if low == 1.0:
            break
    return best


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
    """Blocks among what is chosen, behind the groups.

    Attributes:
        names: of the blocks.
        cuts: what takes each out.
        curves: what each loses when it is gone, and when it stays.
        choices: that there are for each: to go and to stay.
        around: for each group, and each block, the place of the block that it goes with, or -1.
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
        """From the loss that each block would be."""
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
