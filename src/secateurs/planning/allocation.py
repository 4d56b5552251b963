"""Choice of a width for each group: least loss for what is saved, by error curves.

A curve gives a group's loss at every width when only that group is cut. The search is greedy: it
repeatedly takes the step with the least loss per saved cost, given the present widths of all other
groups (the cost of a channel depends on how wide its producers' inputs and its readers' outputs
still are). Then widths are raised again as far as the budget has room, and groups exchange width as
long as an exchange reduces the loss.

Source: NetAdapt (Yang et al., ECCV 2018) goes greedily by measured loss for saved cost; structured
pruning with error databases (Frantar & Alistarh, *Optimal Brain Compression*, NeurIPS 2022).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.arrays import Floats
from secateurs.errors import BudgetError
from secateurs.planning.widths import WidthCosts

WidthArray = NDArray[np.int64]

SIXTEENTHS = (1, 2, 4)
"""Sizes of one greedy step, in sixteenths of a group's choices. With small steps only, curves that
are steep at first and flat later would never be descended."""

_EPSILON = 1e-12
MOST_SWAPS = 200
MOST_GROUPS_TO_FILL = 40
"""With more groups, freed budget is not refilled once per group, and only exchanges that look good
at present prices are tried: the number of pairs grows with the square of the number of groups."""

EXCHANGES_TRIED = 32
LOWER_WIDTHS = 24
"""Number of widths tried for a group that gives up width, in geometric steps."""


@dataclass(frozen=True, eq=False, slots=True)
class Problem:
    """The problem of choosing widths.

    Attributes:
        curves: for each group, its loss at every width from 0 to all channels, shape
            (channels + 1,); non-increasing in the width.
        choices: for each group, the widths it may have, ascending; the last is all channels.
        costs: costs at any widths.
        limits: unit -> largest cost, absolute.
        around: for each group, the place of the block that it is removed with, or -1. Blocks have
            places of their own after the groups'; their widths are 1 and 0.
        saves: unit of the savings by which steps are ranked (loss per saving), whatever the limits
            are of; None ranks by savings in the limited units.
    """

    curves: Sequence[Floats]
    choices: Sequence[WidthArray]
    costs: WidthCosts
    limits: Mapping[str, float]
    around: WidthArray | None = None
    saves: str | None = None
    _units: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_units", tuple(self.limits))

    def loss(self, widths: WidthArray) -> float:
        """Sum of the groups' losses."""
        return float(self.losses(widths[None])[0])

    def losses(self, many: WidthArray) -> Floats:
        """Summed losses of many choices, shape (choices, groups) -> (choices,)."""
        columns = [curve[many[:, place]] for place, curve in enumerate(self.curves)]
        if self.around is not None:  # of a removed block, only the block's own loss counts
            for place in np.flatnonzero(self.around >= 0):
                columns[place] = columns[place] * many[:, self.around[place]]
        total: Floats = np.sum(columns, axis=0)
        return total

    def places(self, widths: WidthArray) -> Iterator[tuple[int, WidthArray, int]]:
        """Yield (place, its choices, index of its present choice), except inside removed blocks."""
        for place, choice in enumerate(self.choices):
            block = -1 if self.around is None else int(self.around[place])
            if block < 0 or widths[block]:
                yield place, choice, int(np.searchsorted(choice, widths[place]))

    def excess(self, many: WidthArray) -> Floats:
        """Sum of each choice's excesses over the limits, relative to them; 0 if it fits."""
        costs = self.costs.costs(many, self._units)
        over = [np.maximum(costs[unit] / self.limits[unit] - 1, 0) for unit in self._units]
        total: Floats = np.sum(over, axis=0)
        return np.where(total < 1e-9, 0, total)

    def use(self, many: WidthArray) -> Floats:
        """Cost of each choice in the unit that is saved, or the sum of its shares of the limits."""
        if self.saves is not None:
            return self.costs.costs(many, [self.saves])[self.saves]
        costs = self.costs.costs(many, self._units)
        total: Floats = np.sum([costs[unit] / self.limits[unit] for unit in self._units], axis=0)
        return total

    def at_most(self, widths: WidthArray) -> Problem:
        """The same problem with one more limit: the saved unit's cost at these widths."""
        if self.saves is None:
            return self
        taken = float(self.use(widths[None])[0])
        return replace(self, limits={**self.limits, self.saves: taken}, saves=None)


def allocate(problem: Problem) -> WidthArray:
    """Find widths of least summed loss within the limits, by greedy steps and exchanges.

    Where savings are ranked in another unit than the limits', the greedy steps minimise loss per
    saving in that unit, and exchanges do not raise its cost.

    Args:
        problem: curves, choices, costs and limits.

    Returns:
        The width of each group.

    Raises:
        BudgetError: no choice of widths meets the limits.
    """
    widths = np.array([choice[-1] for choice in problem.choices])
    widths = _fill(problem, _narrow(problem, widths))
    problem = problem.at_most(widths)
    for _ in range(MOST_SWAPS):
        better = _swap(problem, widths)
        if better is None:
            break
        widths = better
    return _whole_in_gone_blocks(problem, widths)


def _whole_in_gone_blocks(problem: Problem, widths: WidthArray) -> WidthArray:
    """Restore the full width of groups that are removed with their block."""
    there = {place for place, _, _ in problem.places(widths)}
    full = [choice[-1] for choice in problem.choices]
    return np.array([w if p in there else full[p] for p, w in enumerate(widths.tolist())])


def _narrow(problem: Problem, widths: WidthArray) -> WidthArray:
    """Take greedy steps down until the limits are met."""
    while (now := float(problem.excess(widths[None])[0])) > 0:
        options = _steps_down(problem, widths)
        if not len(options):
            raise BudgetError("no cut within the floors meets the budget")
        if problem.saves is None:
            saved = now - problem.excess(options)
        else:
            saved = problem.use(widths[None]) - problem.use(options)
        saved = np.maximum(saved, 0)
        lost = problem.losses(options) - problem.loss(widths) + _EPSILON
        with np.errstate(divide="ignore"):
            price = np.where(saved > 0, lost / saved, np.inf)
        if np.isinf(price).all():  # no single step saves anything: both sides of a grid must go
            price = lost
        widths = options[int(price.argmin())]
    return widths


def _steps_down(problem: Problem, widths: WidthArray) -> WidthArray:
    """The widths one step away, each with one group narrower; shape (options, groups)."""
    options = []
    for place, choice, at in problem.places(widths):
        step = max(1, len(choice) // 16)
        targets = {max(0, at - step * many) for many in SIXTEENTHS} - {at}
        options += [_with_width(widths, place, int(choice[target])) for target in targets]
    return np.array(options)


def _with_width(widths: WidthArray, place: int, width: int) -> WidthArray:
    changed = widths.copy()
    changed[place] = width
    return changed


def _fill(problem: Problem, widths: WidthArray, but: int = -1) -> WidthArray:
    """Raise widths as far as the limits have room, most gain first (``but`` one group)."""
    while True:
        options = [
            _with_width(widths, place, int(choice[at + 1]))
            for place, choice, at in problem.places(widths)
            if place != but and at + 1 < len(choice)
        ]
        if not options:
            return widths
        many = np.array(options)
        many = many[problem.excess(many) == 0]
        if not len(many):
            return widths
        gains = problem.loss(widths) - problem.losses(many)
        taken = np.maximum(problem.use(many) - problem.use(widths[None]), _EPSILON)
        widths = many[int((gains / taken).argmax())]


def _swap(problem: Problem, widths: WidthArray) -> WidthArray | None:
    """The best exchange of width between two groups; None if none reduces the loss."""
    tried = _narrow_and_fill(problem, widths) if len(widths) <= MOST_GROUPS_TO_FILL else []
    options = _exchanges(problem, widths)
    options = options[problem.excess(options) == 0] if len(options) else options
    if len(options):
        tried.append(_fill(problem, options[int(problem.losses(options).argmin())]))
    best = min(tried, key=problem.loss, default=widths)
    return best if problem.loss(best) < problem.loss(widths) - 1e-9 else None


def _narrow_and_fill(problem: Problem, widths: WidthArray) -> list[WidthArray]:
    """Narrow one group by a step or more, and give the freed budget to any other groups."""
    options = []
    for place, choice, at in problem.places(widths):
        for step in {1, 2, max(1, len(choice) // 16)}:
            if at >= step:
                lower = _with_width(widths, place, int(choice[at - step]))
                options.append(_fill(problem, lower, but=place))
    return options


def _exchanges(problem: Problem, widths: WidthArray) -> WidthArray:
    """Widths with one group a step wider and another just enough narrower to fit the limits."""
    wider = _steps_up(problem, widths)
    if len(widths) > MOST_GROUPS_TO_FILL:
        pairs = _likely_pairs(problem, widths, wider)
    else:
        pairs = [
            (place, down)
            for place, (up, _) in enumerate(wider)
            for down in range(len(widths))
            if down != up
        ]
    options = [
        lower
        for place, down in pairs
        if (lower := _down_to_fit(problem, wider[place][1], down)) is not None
    ]
    return np.array(options) if options else np.zeros((0, len(widths)), np.int64)


def _steps_up(problem: Problem, widths: WidthArray) -> list[tuple[int, WidthArray]]:
    """(group, all widths with that group wider), by one choice or a sixteenth of all choices."""
    found: list[tuple[int, WidthArray]] = []
    for up, choice, at in problem.places(widths):
        found += [
            (up, _with_width(widths, up, int(choice[at + step])))
            for step in sorted({1, max(1, len(choice) // 16)})
            if at + step < len(choice)
        ]
    return found


def _likely_pairs(
    problem: Problem, widths: WidthArray, wider: Sequence[tuple[int, WidthArray]]
) -> list[tuple[int, int]]:
    """(index in ``wider``, group that gives up width) with the least loss at present prices."""
    owners, lower = _steps_far_down(problem, widths)
    if not wider or not len(owners):
        return []
    ups, rows = np.array([up for up, _ in wider]), np.array([row for _, row in wider])
    loss, use = problem.loss(widths), float(problem.use(widths[None])[0])
    gain, extra = loss - problem.losses(rows), problem.use(rows) - use
    lost, saved = problem.losses(lower) - loss, use - problem.use(lower)
    room = len(problem.limits) - use  # each unit's use is a share of its limit
    change = np.where(saved >= extra[:, None] - room, lost - gain[:, None], np.inf)
    change[ups[:, None] == owners] = np.inf
    best = np.argsort(change, axis=None)[: 4 * EXCHANGES_TRIED]
    places, options = np.unravel_index(best[change.flat[best] < 0], change.shape)
    pairs = zip(places.tolist(), owners[options].tolist(), strict=True)
    return list(dict.fromkeys(pairs))[:EXCHANGES_TRIED]


def _steps_far_down(problem: Problem, widths: WidthArray) -> tuple[WidthArray, WidthArray]:
    """(group, all widths with that group narrower), in geometric steps."""
    owners: list[int] = []
    rows: list[WidthArray] = []
    for down, choice, at in problem.places(widths):
        if at:
            steps = np.unique(np.geomspace(1, at, LOWER_WIDTHS).round().astype(np.int64))
            rows += [_with_width(widths, down, int(choice[at - step])) for step in steps]
            owners += [down] * len(steps)
    return np.array(owners, np.int64), np.array(rows, np.int64)


def _down_to_fit(problem: Problem, widths: WidthArray, place: int) -> WidthArray | None:
    """Narrow one group just enough to meet the limits; None if even its least width does not."""
    choice = problem.choices[place]
    at = int(np.searchsorted(choice, widths[place]))
    if at == 0:
        return None
    many = np.repeat(widths[None], at + 1, axis=0)
    many[:, place] = choice[: at + 1]
    fits = np.flatnonzero(problem.excess(many) == 0)
    return many[int(fits[-1])] if len(fits) else None


def choices_of(width: int, floor: float, multiple: int) -> WidthArray:
    """The widths that a group may have: multiples from the floor upwards, and the full width.

    Args:
        width: number of channels of the dense group.
        floor: least width: a share of ``width``, or a number of channels if 1 or more.
        multiple: number that widths are multiples of; the floor is rounded to the nearest.

    Example:
        >>> choices_of(20, 0.25, 8).tolist()
        [8, 16, 20]
    """
    least = round(floor) if floor >= 1 else math.ceil(floor * width)
    least = max(1, least)
    if multiple > 1:
        least = max(multiple, round(least / multiple) * multiple)
    steps = np.arange(least, width + 1, multiple)
    return np.unique(np.append(steps, width)).astype(np.int64)
