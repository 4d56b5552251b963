"""Planning of one round's cut. Pure arithmetic, like ``plan``."""

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
    """Plan a round's cut: a share of the remaining channels, at most down to the budget.

    Args:
        network: network of the present model.
        scores: scores of its channels.
        pruning: settings; floors refer to the dense model.
        so_far: everything removed since the dense model.
        goals: goals at which cutting ends; may be empty.

    Returns:
        The cut, of at least one channel; an empty one if every group is at its floor.
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
    """Plan a round's cut by error curves, with the least loss.

    Args:
        network: network of the present model.
        orders: group -> its channels in the order of removal.
        losses: group -> its loss at every width from 0 to all channels.
        pruning: settings; floors refer to the dense model.
        so_far: everything removed since the dense model.
        goals: goals at which cutting ends; without any, a share of the channels is removed.

    Returns:
        The cut, of at least one channel; an empty one if every group is at its floor.
    """
    return _Round.of(network, pruning, so_far, goals).by_curves(orders, losses)


@dataclass(frozen=True, slots=True)
class _Round:
    """The planning problem of one round.

    Attributes:
        network: network of the present model.
        step: share of its channels to remove.
        goals: goals at which cutting ends.
        floors: group -> least number of channels.
        options: options of planning in either way. Floors refer to the dense model, which planning
            of this network does not know: groups at their floor are skipped, and others get
            channels back.
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
        if goals.latency_model is None:  # otherwise it has measured which multiples are fast
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
            return Cut()  # all groups that are not at their floor are skipped
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
        except BudgetError:  # near the floors a full step is impossible
            return self.by_scores(ranks)
        except ModelError:
            return Cut()  # all groups that are not at their floor are skipped
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
        """Plan by scores, within the floors."""
        cut = plan(self.network, scores, **asked, scope=self.scope, **self.options)  # type: ignore[arg-type]
        return self._within_floors(cut, scores)

    def _take_step(self, scores: ScoresByGroup, share: float = 1.0) -> Cut:
        """The cut of one step, or of a share of a step."""
        channels = sum(len(group) for group in self.network.groups)
        try:
            # A share of few channels is rounded up to one.
            amount = max(share * self.step, 1 / channels)
            model = self.goals.latency_model_of(self.network)
            return self._plan(scores, amount=amount, latency_model=model)
        except BudgetError:  # near the floors a full step is impossible
            return self._plan(scores, threshold=math.inf)

    def _next_limits(self, share: float = 1.0) -> dict[str, float]:
        """The limits after a share of a step, but not below the final goals."""
        network, goals, step = self.network, self.goals, share * self.step
        if not goals.foreseen:
            channels = UNITS["channels"].measure(network, Cut())
            # A share of few channels is rounded up to one.
            return {"channels": min((1 - step) * channels, channels - 1)}
        present = {name: goals.measure(name, network) for name in goals.foreseen}
        wanted = {name: max(goals.limits[name], (1 - step) * now) for name, now in present.items()}
        if "channels" in wanted:
            wanted["channels"] = min(wanted["channels"], present["channels"] - 1)
        return wanted

    def _down_to_goals(self, scores: ScoresByGroup) -> Cut:
        """The smallest cut that meets all predictable goals; an empty one if there is none."""
        if not self.goals.foreseen:
            return Cut()
        try:
            foreseen = {name: self.goals.limits[name] for name in self.goals.foreseen}
            limits = self.goals.planning_options(self.network, foreseen)
            return self._plan(scores, **limits)
        except BudgetError:
            return Cut()

    def _least_that_fits(self, take_step: Callable[[float], Cut]) -> Cut:
        """Bisect the smallest share of a step that meets goals only a model can be judged by."""
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
        """Put back the best channels of groups that the cut would leave below their floor."""
        chosen: dict[str, NDArray[np.int64]] = {}
        for name, channels in cut.channels.items():
            removed = np.asarray(channels.removed, np.int64)
            order = np.argsort(scores[name][removed], kind="stable")
            most = max(0, channels.of - self.floors[name])
            chosen[name] = np.sort(removed[order[:most]])
        return self.network.cut(chosen)


def _ranks(order: NDArray[np.int64]) -> NDArray[np.float64]:
    """Place of each channel in the order, shape (channels,)."""
    places = np.empty(len(order))
    places[order] = np.arange(len(order))
    return places


def _floor(network: Network, group: Group, pruning: Pruning, so_far: Cut) -> int:
    """The least number of channels of a group."""
    member = group.members[0]
    length = network.tensors[member.tensor].shape[member.axis]
    earlier = so_far.tensors.get(member.tensor)
    dense_length = length if earlier is None else earlier.shape[member.axis]
    # Groups are renamed as heads or convolution groups are removed; their axes are not.
    dense_width = round(len(group) * dense_length / length)
    least = round(pruning.floor) if pruning.floor >= 1 else math.ceil(pruning.floor * dense_width)
    multiple = multiple_of(network, group, finest_multiple(network, pruning.multiple))
    whole = math.ceil(max(1, least) / multiple) * multiple
    return min(whole, dense_width)
