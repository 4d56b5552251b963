"""Uniform cuts: the same width in every layer of a kind, as configurations require."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.configuration import NumberedConfiguration
from secateurs.channels.cut import Cut
from secateurs.channels.network import Network, Role
from secateurs.errors import BudgetError
from secateurs.planning.budget import Budget
from secateurs.planning.field_moves import Lengths, Move, find_moves
from secateurs.planning.within_budget import nearest_budget_message

Scored = Mapping[str, NDArray[np.float64]]
_HALVINGS = 12
_FARTHER = 1.25
_NEAR = 0.9
"""A coarse step is undone in favour of finer ones if it would leave less than this share of the
parameters that the cut without it leaves."""
_NEXT_TO_NOTHING = 1e-3


def make_uniform(network: Network, scores: Scored, cut: Cut, skip: Sequence[str] = ()) -> Cut:
    """Make a cut that removes the same number of channels from every group of a kind.

    Groups are of one kind if their names differ in numbers only (``layers.0.mlp.up_proj``,
    ``layers.1.mlp.up_proj``) and they are equally wide. Each loses as many channels as the one that
    lost most, so that a budget that was met stays met; scores decide which.

    Args:
        network: as traced.
        scores: for each group, one score per channel.
        cut: cut of this network, as from ``plan``.
        skip: groups and layers that were left alone and stay so; ``*`` matches anything.

    Returns:
        The cut.

    Example:
        >>> import numpy as np, secateurs as sec
        >>> from torch import nn, zeros
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))
        >>> network = sec.trace(model, zeros(1, 2))
        >>> cut = network.cut({"0": [1]})
        >>> even = make_uniform(network, sec.score(network), cut)
        >>> [len(one.removed) for one in even.channels.values()]
        [1, 1]
    """
    kinds: dict[tuple[str, int], list[str]] = {}
    left_alone = _find_skipped(network, skip)
    for group in network.groups:
        if group.name not in left_alone:
            kinds.setdefault((re.sub(r"\d+", "#", group.name), len(group)), []).append(group.name)
    chosen: dict[str, Sequence[int]] = {}
    for names in kinds.values():
        gone = [cut.channels[name].removed if name in cut.channels else () for name in names]
        most = max(map(len, gone))
        for name, chosen_here in zip(names, gone, strict=True):
            chosen[name] = _lowest(scores[name], most, chosen_here)
    return network.cut({name: channels for name, channels in chosen.items() if channels})


def _find_skipped(network: Network, skip: Sequence[str]) -> set[str]:
    """Groups that a pattern matches, by their own name or a layer's."""
    found = set()
    for group in network.groups:
        names = [group.name, *(m.layer for m in group.members if m.role is not Role.INPUT)]
        if any(fnmatch(name, pattern) for name in names for pattern in skip):
            found.add(group.name)
    return found


def _lowest(scores: NDArray[np.float64], count: int, chosen: Sequence[int] = ()) -> list[int]:
    """This many channels: the ones chosen already first, then those with the lowest scores."""
    order = np.argsort(scores, kind="stable").tolist()
    extra = [channel for channel in order if channel not in set(chosen)]
    return [*list(chosen)[:count], *extra[: max(0, count - len(chosen))]]


@dataclass(frozen=True, eq=False)
class Evenly:
    """Makes plans uniform for one network.

    Attributes:
        network: as traced.
        skip: groups and layers that the user leaves alone.
        floor: least width of each group: a share, or a number if 1 or more.
    """

    network: Network
    skip: Sequence[str] = ()
    floor: float = 0.1

    @cached_property
    def moves(self) -> list[Move] | None:
        """What the model's configuration can express; None for a model without one.

        Raises:
            BudgetError: it can express none of the model's widths.
        """
        configuration = self._configuration
        if configuration is None:
            return None
        skip = _find_skipped(self.network, self.skip)
        moves = find_moves(self.network, configuration, skip)
        if not moves:
            raise BudgetError(
                f"{self.network.name}: uniform: expected groups whose widths its configuration "
                "has fields for; received a model without any. Leave uniform out, and load it "
                "with secateurs.load."
            )
        return moves

    @cached_property
    def _configuration(self) -> NumberedConfiguration | None:
        return self.network.source.configuration()

    @cached_property
    def unsaid(self) -> list[str]:
        """Groups that must stay whole, because no field sets their width."""
        if self.moves is None:
            return []
        named = frozenset[str]().union(*(move.groups for move in self.moves))
        return [group.name for group in self.network.groups if group.name not in named]

    def planning(self, planning: Mapping[str, object]) -> dict[str, object]:
        """Options for ``plan``, with groups that must stay whole skipped."""
        return {**planning, "skip": (*self.skip, *self.unsaid)}

    def make(self, scores: Scored, cut: Cut, budget: Budget | None = None) -> Cut:
        """Make a plan uniform.

        Args:
            scores: for each group, one score per channel.
            cut: the plan, made with ``planning``'s options.
            budget: budget that the cut has to meet; None rounds the plan up.

        Raises:
            BudgetError: no widths that the configuration can express meet the budget.
        """
        if self.moves is None or self._configuration is None:
            return make_uniform(self.network, scores, cut, self.skip)
        search = _Search(self.network, self.moves, self._configuration, self.floor, scores)
        return search.cut_like(cut, budget)


class _Search:
    """Search for field values whose cut is nearest to a plan, and within its budget."""

    def __init__(
        self,
        network: Network,
        moves: Sequence[Move],
        configuration: NumberedConfiguration,
        floor: float,
        scores: Scored,
    ) -> None:
        self._network, self._moves, self._scores = network, moves, scores
        self._configuration, self._lengths = configuration, Lengths(network)
        self._idle = frozenset[str]().union(*(move.idle for move in moves))
        self._made: dict[tuple[int, ...], Cut | None] = {}
        self._most = tuple(self._deepest(move, floor) for move in moves)

    def cut_like(self, cut: Cut, budget: Budget | None) -> Cut:
        """The cut whose fields shrink as the plan's groups do, on average."""
        # Fields that the plan leaves alone shrink only where the others are not enough.
        wanted = [max(self._share(move, cut), _NEXT_TO_NOTHING) for move in self._moves]
        holds = self._holds(cut, budget)
        best = self._nearest(wanted, self._most, holds)
        if best is None:
            raise BudgetError(self._describe_missed(budget))
        # A coarse step that overshoots may be unnecessary where finer ones reach as far.
        for place in sorted(range(len(best)), key=lambda at: len(self._moves[at].levels)):
            if best[place] and budget is not None:
                caps = (*self._most[:place], best[place] - 1, *self._most[place + 1 :])
                other = self._nearest(wanted, caps, holds)
                if other is not None and self._params(best) < _NEAR * self._params(other):
                    best = other
        return self._finish(best)

    def _params(self, levels: tuple[int, ...]) -> int:
        return self._network.params(self._cut_of(levels))

    def _nearest(
        self, wanted: Sequence[float], caps: tuple[int, ...], holds: Callable[[Cut | None], bool]
    ) -> tuple[int, ...] | None:
        """The levels nearest to these shares that hold; None if even the deepest do not."""
        low, high = 0.0, 1.0
        best = self._at(wanted, high, caps)
        while not holds(self._cut_of(best)):
            if best == caps:
                return None
            low, high = high, high * _FARTHER
            best = self._at(wanted, high, caps)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            levels = self._at(wanted, middle, caps)
            if holds(self._cut_of(levels)):
                high, best = middle, levels
            else:
                low = middle
        return self._give_back(best, holds)

    def _give_back(
        self, levels: tuple[int, ...], holds: Callable[[Cut | None], bool]
    ) -> tuple[int, ...]:
        """Undo steps of each move as far as the budget has room."""
        for place in range(len(levels)):
            while levels[place] > 0:
                fewer = (*levels[:place], levels[place] - 1, *levels[place + 1 :])
                if not holds(self._cut_of(fewer)):
                    break
                levels = fewer
        return levels

    def _finish(self, levels: tuple[int, ...]) -> Cut:
        cut = self._made[levels]
        fields = {**self._configuration.unsaid, **self._fields_of(levels)}
        assert cut is not None  # noqa: S101 - it was checked against the budget
        holds = bool(cut) and self._configuration.rebuilds(cut, fields)
        return replace(cut, fields=fields) if holds else cut

    def _at(self, wanted: Sequence[float], times: float, caps: tuple[int, ...]) -> tuple[int, ...]:
        """Levels at ``times`` the wanted shares."""
        return tuple(
            min(most, round(share * times * (len(move.levels) + 1)))
            for move, most, share in zip(self._moves, caps, wanted, strict=True)
        )

    def _fields_of(self, levels: tuple[int, ...]) -> dict[str, int | float]:
        fields: dict[str, int | float] = {}
        for move, level in zip(self._moves, levels, strict=True):
            fields.update(move.levels[level - 1] if level else {})
        return fields

    def _cut_of(self, levels: tuple[int, ...]) -> Cut | None:
        if levels not in self._made:
            shapes = self._configuration.shapes(self._fields_of(levels))
            counts = None if shapes is None else self._lengths.solve(shapes, self._idle)
            self._made[levels] = (
                None
                if counts is None
                else self._network.cut(
                    {name: _lowest(self._scores[name], count) for name, count in counts.items()}
                )
            )
        return self._made[levels]

    def _share(self, move: Move, cut: Cut) -> float:
        """Share that a plan removes of a move's groups, weighted by their parameters."""
        network, shares, weights = self._network, [], []
        total = network.params()
        for name in sorted(move.groups):
            group = network.group(name)
            gone = len(cut.channels[name].removed) if name in cut.channels else 0
            shares.append(gone / len(group))
            weights.append(total - network.cost_of(network.alive(group.channels)).params)
        return float(np.average(shares, weights=np.maximum(weights, 1)))

    def _deepest(self, move: Move, floor: float) -> int:
        """Number of a move's levels that leave each group its floor."""
        for level in range(len(move.levels), 0, -1):
            shapes = self._configuration.shapes(move.levels[level - 1])
            counts = None if shapes is None else self._lengths.solve(shapes, self._idle)
            if counts is not None and all(
                width - counts.get(name, 0) >= max(1, floor if floor >= 1 else floor * width)
                for name in move.groups
                for width in [len(self._network.group(name))]
            ):
                return level
        return 0

    def _holds(self, plan: Cut, budget: Budget | None) -> Callable[[Cut | None], bool]:
        """A check whether a cut is within a budget; for limits of time, of the plan's MACs."""
        if budget is None:
            return lambda cut: cut is not None
        if budget.is_timed:
            most = self._network.macs(plan)
            return lambda cut: cut is not None and self._network.macs(cut) <= most
        units, limits = budget.units(self._network), budget.absolute_for(self._network)
        return lambda cut: (
            cut is not None
            and all(
                units[name].measure(self._network, cut) <= limit for name, limit in limits.items()
            )
        )

    def _describe_missed(self, budget: Budget | None) -> str:
        cut = self._cut_of(self._most)
        if budget is None or cut is None or budget.is_timed:
            return (
                f"{self._network.name}: its configuration cannot express widths as narrow as this"
            )
        units, limits = budget.units(self._network), budget.absolute_for(self._network)
        return nearest_budget_message(self._network, cut, budget, units, limits)
