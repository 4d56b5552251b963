"""What one round of a study removes. Pure arithmetic, as ``plan`` is."""

from __future__ import annotations

import glob
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.cut import Cut
from secateurs.channels.network import Group, Network
from secateurs.errors import BudgetError, ModelError
from secateurs.planning.budget import UNITS
from secateurs.planning.measured import plan_measured
from secateurs.planning.planner import plan
from secateurs.planning.removal_order import finest_multiple, multiple_of
from secateurs.settings.pruning import Pruning
from secateurs.study.goals import Goals

ScoresByGroup = Mapping[str, NDArray[np.float64]]

_HALVINGS = 4


def plan_round(
    network: Network, scores: ScoresByGroup, pruning: Pruning, so_far: Cut, goals: Goals
) -> Cut:
    """The cut of a round: a share of the channels that remain, and no more than the budget asks.

    Args:
        network: of the model as it is now.
        scores: of its channels.
        pruning: how much, from where, down to which floors; these are of the dense model.
        so_far: what has gone since the dense model.
        goals: at which cutting ends; may be empty.

    Returns:
        The cut, of at least one channel; an empty one where every group is at its floor.
    """
    return _Round.of(network, pruning, so_far, goals).by_scores(scores)


def plan_round_by_curves(
    network: Network,
    orders: Mapping[str, NDArray[np.int64]],
    losses: Mapping[str, NDArray[np.float64]],
    pruning: Pruning,
    so_far: Cut,
    goals: Goals,
) -> Cut:
    """The cut of a round by what each group loses at each width, where that is least.

    Args:
        network: of the model as it is now.
        orders: group -> its channels, the first to go first.
        losses: group -> its loss at every width from 0 to all channels.
        pruning: how much and down to which floors; these are of the dense model.
        so_far: what has gone since the dense model.
        goals: at which cutting ends; where there are none, a share of the channels goes.

    Returns:
        The cut, of at least one channel; an empty one where every group is at its floor.
    """
    return _Round.of(network, pruning, so_far, goals).by_curves(orders, losses)


@dataclass(frozen=True, slots=True)
class _Round:
    """A round that is planned.

    Attributes:
        network: of the model as it is now.
        step: share of its channels that is to go.
        goals: at which cutting ends.
        floors: group -> the fewest channels it may be left with.
        options: of planning, whichever way it is done. Floors of the dense model are none that a
            plan of this network knows: those at theirs are skipped, others are given back to.
        scope: for plans by scores.
    """

    network: Network
    step: float
    goals: Goals
    floors: Mapping[str, int]
    options: Mapping[str, Any]
    scope: str

    @classmethod
    def of(cls, network: Network, pruning: Pruning, so_far: Cut, goals: Goals) -> _Round:
        floors = {group.name: _floor(network, group, pruning, so_far) for group in network.groups}
        at_floor = [group.name for group in network.groups if len(group) <= floors[group.name]]
        given = pruning.planning_options
        multiple = given["multiple"]
        if goals.latency_model is None:  # which has measured what is fast
            multiple = finest_multiple(network, multiple)
        options = {
            "floor": 1,
            "multiple": multiple,
            "skip": [*given["skip"], *map(glob.escape, at_floor)],
        }
        return cls(network, pruning.step, goals, floors, options, given["scope"])

    def by_scores(self, scores: ScoresByGroup) -> Cut:
        if self._nothing_is_left:
            return Cut()
        try:
            cut = self._take_step(scores)
        except ModelError:
            if not self._some_are_at_floor:
                raise
            return Cut()  # what is not at its floor is skipped
        if not self._fits(cut):
            return cut
        exact = self._down_to_goals(scores)
        if self._fits(exact):
            return exact
        if len(self.goals.foreseen) == len(self.goals.limits):
            return cut
        return self._least_that_fits(partial(self._take_step, scores)) or cut

    def by_curves(
        self,
        orders: Mapping[str, NDArray[np.int64]],
        losses: Mapping[str, NDArray[np.float64]],
    ) -> Cut:
        if self._nothing_is_left:
            return Cut()
        ranks = {name: _ranks(order) for name, order in orders.items()}

        def take_step(share: float = 1.0) -> Cut:
            limits = self.goals.planning_options(self.network, self._next_limits(share))
            cut = plan_measured(self.network, orders, losses, **limits, **self.options)
            return self._within_floors(cut, ranks)

        try:
            cut = take_step()
        except BudgetError:  # near the floors there is less to take
            return self.by_scores(ranks)
        except ModelError:
            return Cut()  # what is not at its floor is skipped
        if len(self.goals.foreseen) == len(self.goals.limits) or not self._fits(cut):
            return cut
        return self._least_that_fits(take_step) or cut

    @property
    def _nothing_is_left(self) -> bool:
        return all(len(group) <= self.floors[group.name] for group in self.network.groups)

    @property
    def _some_are_at_floor(self) -> bool:
        return any(len(group) <= self.floors[group.name] for group in self.network.groups)

    def _fits(self, cut: Cut) -> bool:
        return self.goals.fits(self.network, cut)

    def _plan(self, scores: ScoresByGroup, **asked: Any) -> Cut:
        """A plan by scores, within the floors."""
        cut = plan(self.network, scores, **asked, scope=self.scope, **self.options)  # type: ignore[arg-type]
        return self._within_floors(cut, scores)

    def _take_step(self, scores: ScoresByGroup, share: float = 1.0) -> Cut:
        """The cut of a step of the channels, or of a share of a step."""
        channels = sum(len(group) for group in self.network.groups)
        try:
            # A share of few channels is rounded to one, not to none.
            amount = max(share * self.step, 1 / channels)
            model = self.goals.latency_model_of(self.network)
            return self._plan(scores, amount=amount, latency_model=model)
        except BudgetError:  # near the floors there is less to take
            return self._plan(scores, threshold=math.inf)

    def _next_limits(self, share: float = 1.0) -> dict[str, float]:
        """What may remain after a share of a step; no less than is asked for in the end."""
        network, goals, step = self.network, self.goals, share * self.step
        if not goals.foreseen:
            channels = UNITS["channels"].measure(network, Cut())
            # A share of few channels is one of them.
            return {"channels": min((1 - step) * channels, channels - 1)}
        present = {name: goals.measure(name, network) for name in goals.foreseen}
        wanted = {name: max(goals.limits[name], (1 - step) * now) for name, now in present.items()}
        if "channels" in wanted:
            wanted["channels"] = min(wanted["channels"], present["channels"] - 1)
        return wanted

    def _down_to_goals(self, scores: ScoresByGroup) -> Cut:
        """The smallest cut that meets what can be foreseen; an empty one where there is none."""
        if not self.goals.foreseen:
            return Cut()
        try:
            foreseen = {name: self.goals.limits[name] for name in self.goals.foreseen}
            limits = self.goals.planning_options(self.network, foreseen)
            return self._plan(scores, **limits)
        except BudgetError:
            return Cut()

    def _least_that_fits(self, take_step: Callable[[float], Cut]) -> Cut:
        """The smallest share of a step that meets goals which only a model can tell: by halves."""
        low, high, best = 0.0, 1.0, Cut()
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            cut = take_step(middle)
            if self._fits(cut):
                high, best = middle, cut
            else:
                low = middle
        return best

    def _within_floors(self, cut: Cut, scores: ScoresByGroup) -> Cut:
        """The cut, without the best channels of a group that it would leave below its floor."""
        chosen: dict[str, NDArray[np.int64]] = {}
        for name, channels in cut.channels.items():
            removed = np.asarray(channels.removed, np.int64)
            order = np.argsort(scores[name][removed], kind="stable")
            most = max(0, channels.of - self.floors[name])
            chosen[name] = np.sort(removed[order[:most]])
        return self.network.cut(chosen)


def _ranks(order: NDArray[np.int64]) -> NDArray[np.float64]:
    """The place of each channel in the order."""
    places = np.empty(len(order))
    places[order] = np.arange(len(order))
    return places


def _floor(network: Network, group: Group, pruning: Pruning, so_far: Cut) -> int:
    """The fewest channels the group may be left with."""
    member = group.members[0]
    length = network.tensors[member.tensor].shape[member.axis]
    earlier = so_far.tensors.get(member.tensor)
    dense_length = length if earlier is None else earlier.shape[member.axis]
    # Groups are renamed as heads or convolution groups go; the axes they lie along are not.
    dense_width = round(len(group) * dense_length / length)
    least = round(pruning.floor) if pruning.floor >= 1 else math.ceil(pruning.floor * dense_width)
    multiple = multiple_of(network, group, finest_multiple(network, pruning.multiple))
    whole = math.ceil(max(1, least) / multiple) * multiple
    return min(whole, dense_width)
