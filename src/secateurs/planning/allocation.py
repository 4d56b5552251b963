"""How wide each group stays: least loss for what is saved, by error curves.

A curve says what a group's loss costs at every width, it alone cut. Greedy: again and again, the
step that loses least for what it saves, at the neighbours' present widths (what a channel costs
depends on how wide its producers' inputs and its readers' outputs still are). Then what the budget
has room for is given back, and swaps between groups are made as long as one helps.

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
"""How many sixteenths of a group may go in one step: curves that are steep first and flat later
would otherwise never be gone down."""

_EPSILON = 1e-12
MOST_SWAPS = 200
MOST_GROUPS_TO_FILL = 40
"""With more groups, the rest is not given out anew for every one of them, and only exchanges that
prices at present make likely are tried: pairs of groups grow with the square of their number."""

EXCHANGES_TRIED = 32
LOWER_WIDTHS = 24
"""Of a group that gives width, in steps that grow."""


@dataclass(frozen=True, eq=False, slots=True)
class Problem:
    """What to choose widths for.

    Attributes:
        curves: for each group, its loss at every width from 0 to all channels; never rising.
        choices: for each group, the widths it may have, rising; the last is all channels.
        costs: what any widths cost.
        limits: unit -> what may remain, absolute.
        around: for each group, the place of the block that it goes with, or -1. A block has places
            of its own behind the groups': its widths are 1 and 0.
        saves: the unit of which as much is saved as there is for the loss, wherever the limits are;
            None saves what the limits are of.
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
        """The sum of the groups' losses."""
        return float(self.losses(widths[None])[0])

    def losses(self, many: WidthArray) -> Floats:
        """The same of many choices, shape (choices, groups)."""
        columns = [curve[many[:, place]] for place, curve in enumerate(self.curves)]
        if self.around is not None:  # of a block that is gone, only its own loss counts
            for place in np.flatnonzero(self.around >= 0):
                columns[place] = columns[place] * many[:, self.around[place]]
        total: Floats = np.sum(columns, axis=0)
        return total

    def places(self, widths: WidthArray) -> Iterator[tuple[int, WidthArray, int]]:
        """(place, its choices, which of them it has) of what is not in a block that is gone."""
        for place, choice in enumerate(self.choices):
            block = -1 if self.around is None else int(self.around[place])
            if block < 0 or widths[block]:
                yield place, choice, int(np.searchsorted(choice, widths[place]))

    def excess(self, many: WidthArray) -> Floats:
        """By how much each choice is above the limits, as shares of them, summed; 0 fits."""
        costs = self.costs.costs(many, self._units)
        over = [np.maximum(costs[unit] / self.limits[unit] - 1, 0) for unit in self._units]
        total: Floats = np.sum(over, axis=0)
        return np.where(total < 1e-9, 0, total)

    def use(self, many: WidthArray) -> Floats:
        """What each choice takes of what is saved: of the limits, as shares summed over units."""
        if self.saves is not None:
            return self.costs.costs(many, [self.saves])[self.saves]
        costs = self.costs.costs(many, self._units)
        total: Floats = np.sum([costs[unit] / self.limits[unit] for unit in self._units], axis=0)
        return total

    def at_most(self, widths: WidthArray) -> Problem:
        """The same with one more limit: to take no more of what is saved than these widths do."""
        if self.saves is None:
            return self
        taken = float(self.use(widths[None])[0])
        return replace(self, limits={**self.limits, self.saves: taken}, saves=None)


def allocate(problem: Problem) -> WidthArray:
    """The widths of least summed loss that meet the limits, as far as greed and swaps find them.

    Where something else is to be saved, the steps down are those of least loss for that, and swaps
    take no more of it.

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
    """The widths without those of groups that go with their block."""
    there = {place for place, _, _ in problem.places(widths)}
    full = [choice[-1] for choice in problem.choices]
    return np.array([w if p in there else full[p] for p, w in enumerate(widths.tolist())])


def _narrow(problem: Problem, widths: WidthArray) -> WidthArray:
    """Greedily, until the limits are met."""
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
        if np.isinf(price).all():  # a single step saves nothing: both sides of a grid must go
            price = lost
        widths = options[int(price.argmin())]
    return widths


def _steps_down(problem: Problem, widths: WidthArray) -> WidthArray:
    """The widths one step away, each with one group narrower; (options, groups)."""
    options = []
    for place, choice, at in problem.places(widths):
        step = max(1, len(choice) // 16)
        targets = {max(0, at - step * many) for many in SIXTEENTHS} - {at}
        options += [_with(widths, place, int(choice[target])) for target in targets]
    return np.array(options)


def _with(widths: WidthArray, place: int, width: int) -> WidthArray:
    changed = widths.copy()
    changed[place] = width
    return changed


def _fill(problem: Problem, widths: WidthArray, but: int = -1) -> WidthArray:
    """What the limits have room for is given back (``but`` to one group), the most gain first."""
    while True:
        options = [
            _with(widths, place, int(choice[at + 1]))
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
    """The best exchange of width between two groups; None where none is better."""
    tried = _narrow_and_fill(problem, widths) if len(widths) <= MOST_GROUPS_TO_FILL else []
    options = _exchanges(problem, widths)
    options = options[problem.excess(options) == 0] if len(options) else options
    if len(options):
        tried.append(_fill(problem, options[int(problem.losses(options).argmin())]))
    best = min(tried, key=problem.loss, default=widths)
    return best if problem.loss(best) < problem.loss(widths) - 1e-9 else None


def _narrow_and_fill(problem: Problem, widths: WidthArray) -> list[WidthArray]:
    """One group one or two steps down, and what that gives room for given to any others."""
    options = []
    for place, choice, at in problem.places(widths):
        for step in {1, 2, max(1, len(choice) // 16)}:
            if at >= step:
                lower = _with(widths, place, int(choice[at - step]))
                options.append(_fill(problem, lower, but=place))
    return options


def _exchanges(problem: Problem, widths: WidthArray) -> WidthArray:
    """One group a step up, another as far down as the limits ask, or one down alone."""
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
    """(group, all widths with that one wider), by one choice or a sixteenth of them."""
    found: list[tuple[int, WidthArray]] = []
    for up, choice, at in problem.places(widths):
        found += [
            (up, _with(widths, up, int(choice[at + step])))
            for step in sorted({1, max(1, len(choice) // 16)})
            if at + step < len(choice)
        ]
    return found


def _likely_pairs(
    problem: Problem, widths: WidthArray, wider: Sequence[tuple[int, WidthArray]]
) -> list[tuple[int, int]]:
    """(place in ``wider``, the group that gives width), of least loss at the present prices."""
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
    """(group, all widths with that one narrower), in steps that grow."""
    owners: list[int] = []
    rows: list[WidthArray] = []
    for down, choice, at in problem.places(widths):
        if at:
            steps = np.unique(np.geomspace(1, at, LOWER_WIDTHS).round().astype(np.int64))
            rows += [_with(widths, down, int(choice[at - step])) for step in steps]
            owners += [down] * len(steps)
    return np.array(owners, np.int64), np.array(rows, np.int64)


def _down_to_fit(problem: Problem, widths: WidthArray, place: int) -> WidthArray | None:
    """One group as much narrower as the limits ask; None where that is not enough."""
    choice = problem.choices[place]
    at = int(np.searchsorted(choice, widths[place]))
    if at == 0:
        return None
    many = np.repeat(widths[None], at + 1, axis=0)
    many[:, place] = choice[: at + 1]
    fits = np.flatnonzero(problem.excess(many) == 0)
    return many[int(fits[-1])] if len(fits) else None


def choices_of(width: int, floor: float, multiple: int) -> WidthArray:
    """The widths a group may have: multiples, no less than the floor, and all of it.

    Args:
        width: of the dense group.
        floor: a share of it, or a number if 1 or more.
        multiple: of which they are; the floor is rounded to the nearest one.

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
