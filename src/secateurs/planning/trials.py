"""Budgets that only a finished model can be judged by: cuts are made, measured and replanned.

A latency model predicts within some percent, and the size of a file in another format depends on
its exporter. A limit on either is met by measuring the real result and planning again with the
observed error. Accuracy loss and peak memory are not predicted at all: they are searched for along
the share of the MACs that is kept, in which both are monotonic.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from secateurs.channels.cut import Cut
from secateurs.errors import BudgetError
from secateurs.planning.budget import Budget
from secateurs.planning.timed_units import TOLERANCE
from secateurs.planning.units import Unit

_REPLANS = 5
_NEAR = 0.03
"""A result this close below its limit is not planned again. When it is timed again among other
models, it comes out some percent off, and has to stay within the tolerance."""
_STEP_DOWN = 0.97
_FINE = 1.04
"""The search ends when the smallest share that holds and the largest that fails are this close."""
_MOST_TRIALS = 9
_LARGEST_SHARE = 0.97


@dataclass(frozen=True, slots=True)
class Trial:
    """A cut that was made and measured.

    Attributes:
        asked: budget that it was planned for.
        cut: what was removed.
        measured: unit -> measurement of the cut model, in that unit.
        holds: whether all limits hold.
        shown: unit -> the measurement as text.
        remark: further remark; "" for most.
        predicted: unit of time -> the prediction before it was timed, from all timings until then,
            in that unit.
        doubt: relative standard deviation of the prediction.
    """

    asked: Budget
    cut: Cut
    measured: Mapping[str, float]
    holds: bool
    shown: Mapping[str, str]
    remark: str = ""
    predicted: Mapping[str, float] = field(default_factory=dict)
    doubt: float = 0.0

    def __str__(self) -> str:
        asked = ", ".join(
            f"{name}={limit:.3g}" if isinstance(limit, float) else f"{name}={limit}"
            for name, limit in self.asked.limits.items()
        )
        shown = ", ".join(
            f"{name} {text}{self._show_prediction(name)}" for name, text in self.shown.items()
        )
        remark = f"; {self.remark}" if self.remark else ""
        return f"{asked}: {shown}{'' if self.holds else ' (does not hold)'}{remark}"

    def _show_prediction(self, name: str) -> str:
        if name not in self.predicted:
            return ""
        off = self.predicted[name] / self.measured[name] - 1
        return f" [predicted {off:+.1%} off, uncertainty {self.doubt:.1%}]"


class Foresight(ABC):
    """Interface of a predictor of times that learns from each measurement."""

    @abstractmethod
    def foresee(self, cut: Cut) -> tuple[Mapping[str, float], float]:
        """(unit of time -> prediction for a cut, its relative standard deviation)."""

    @abstractmethod
    def learn(self, cut: Cut) -> None:
        """Record that the latest timing belongs to this cut."""


@dataclass(frozen=True, slots=True)
class TrialMaker:
    """Functions that make and measure cut models.

    Attributes:
        plan: function from a budget of predictable units to a cut.
        make: function from a cut to a proven model.
        measure: for each unit that is tried or corrected, function from a model to a measurement
            in that unit.
        limits: limits of those units, in the same units.
        units: units that format them.
        sketch: function from a cut to a model of its widths with any weights: enough for timing
            and file size, and made much sooner; None uses ``make``.
        foresight: predictor of times; None for none.
        predict: for units that plans predict alone, function from a cut to that prediction.
    """

    plan: Callable[[Budget], Cut]
    make: Callable[[Cut], Any]
    measure: Mapping[str, Callable[[Any], float]]
    limits: Mapping[str, float]
    units: Mapping[str, Unit]
    sketch: Callable[[Cut], Any] | None = None
    foresight: Foresight | None = None
    predict: Mapping[str, Callable[[Cut], float]] = field(default_factory=dict)

    @property
    def units_to_correct(self) -> list[str]:
        """Names of the units that are predicted, then measured."""
        return [name for name in self.measure if self.units[name].is_corrected]


class Trials:
    """The cuts that are made on the way to a budget, of which ``run`` chooses one."""

    def __init__(self, budget: Budget, workshop: TrialMaker) -> None:
        self._budget, self._workshop = budget, workshop
        self.made: list[Trial] = []
        self._latest: Any = None

    def run(self) -> tuple[Any, Trial]:
        """Search, and return (the model, its trial).

        Raises:
            BudgetError: no cut meets the budget; the message says the nearest that was measured.
        """
        units = self._budget.plain_units
        tried = [name for name, unit in units.items() if unit.is_tried]
        rest = self._budget.ablate(*tried)
        chosen = self._smallest() if rest is None else self._beside(rest)
        # Models are large: only the latest is kept, and another is made again.
        is_latest = chosen is self.made[-1]
        return (self._latest if is_latest else self._workshop.make(chosen.cut)), chosen

    def _beside(self, rest: Budget) -> Trial:
        """Meet a budget with other limits besides those that are tried, as conditions on it."""
        trial = self._meet(rest) if self._workshop.units_to_correct else self._try(rest)
        if not trial.holds and self._over(trial) == ["peak_memory_mb"]:
            trial = self._search(rest)
        if not trial.holds:
            raise BudgetError(self._nearest(trial))
        return trial

    def _meet(self, rest: Budget) -> Trial:
        """Plan, measure the result, and plan again with the observed error."""
        aims = _Aims(
            {name: self._workshop.units[name].aim for name in self._workshop.units_to_correct}
        )
        found: list[tuple[float, Trial]] = []  # (largest measured share of a limit, trial)
        for _ in range(_REPLANS):
            try:
                trial = self._sketch(self._scale(rest, aims.factors))
            except BudgetError:
                if any(trial.holds for _, trial in found):
                    break
                if found:  # no plan goes so low; one half of the way there may exist
                    aims.go_half_way_back()
                    continue
                trial = self._sketch_within_tolerance(rest)
            shares = {n: trial.measured[n] / self._workshop.limits[n] for n in aims.factors}
            largest = max(shares.values())
            repeats_itself = any(trial.cut == earlier.cut for _, earlier in found)
            found.append((largest, trial))
            if trial.holds and (repeats_itself or 1 - _NEAR <= largest <= 1):
                break
            aims.learn(shares, self._planned_shares(trial), repeats_itself=repeats_itself)
        nearest = _nearest_of(found)
        return self._complete(nearest) if nearest.holds else nearest

    def _planned_shares(self, trial: Trial) -> dict[str, float]:
        """Share of each limit that the plan's own prediction of this cut comes to."""
        shop = self._workshop
        return {name: of(trial.cut) / shop.limits[name] for name, of in shop.predict.items()}

    def _complete(self, sketch: Trial) -> Trial:
        """Make and measure a sketch's cut fully: everything that the sketch does not tell."""
        shop = self._workshop
        if shop.sketch is None and sketch is self.made[-1]:
            model = self._latest
        else:
            model = shop.make(sketch.cut)
        rest = {
            n: measure(model)
            for n, measure in shop.measure.items()
            if n not in shop.units_to_correct
        }
        self._latest = model
        trial = replace(
            self._judge(sketch.asked, sketch.cut, {**sketch.measured, **rest}),
            predicted=sketch.predicted,
            doubt=sketch.doubt,
        )
        least = max(trial.measured[name] / shop.limits[name] for name in shop.units_to_correct)
        if least < 1 - TOLERANCE:
            trial = replace(
                trial,
                remark=f"{1 - least:.1%} below the limit: none of {len(self.made)} plans came "
                "closer, since widths change in steps (multiple=) and timings vary",
            )
        self.made.remove(sketch)
        self.made.append(trial)
        return trial

    def _smallest(self) -> Trial:
        """The smallest model by MACs within limits that are all tried."""
        return self._search(None)

    def _search(self, rest: Budget | None) -> Trial:
        """Bisect the kept share of the MACs: memory rises with it, accuracy loss falls."""
        shrinking = "drop" not in self._workshop.limits  # then the largest that fits is wanted
        low, high = 0.02, 1.0
        best: Trial | None = None
        share = 0.5
        while len(self.made) < _MOST_TRIALS and high / low > _FINE:
            trial = self._at_share(share, rest)
            if trial is not None and trial.holds:
                best = trial
            too_small = trial is None or "drop" in self._over(trial)
            if too_small or (shrinking and trial is not None and trial.holds):
                low = share
            else:
                high = share
            share = min(_LARGEST_SHARE, (low * high) ** 0.5)
            if share <= low:
                break
        if best is None:
            last = min(self.made, key=self._excess, default=None)
            raise BudgetError(self._nearest(last))
        return best

    def _at_share(self, share: float, rest: Budget | None) -> Trial | None:
        """A trial at this share of the MACs; None if no plan goes so low."""
        asked = self._budget.with_macs(share)
        try:
            return self._try(asked if rest is None else Budget.of({**rest.as_plain, "macs": share}))
        except BudgetError:
            return None

    def _try(self, asked: Budget) -> Trial:
        cut = self._workshop.plan(asked)
        self._latest = model = self._workshop.make(cut)
        measured = {name: measure(model) for name, measure in self._workshop.measure.items()}
        trial = self._judge(asked, cut, measured)
        self.made.append(trial)
        return trial

    def _sketch(self, asked: Budget) -> Trial:
        shop = self._workshop
        cut = shop.plan(asked)
        predicted, doubt = shop.foresight.foresee(cut) if shop.foresight else ({}, 0.0)
        self._latest = model = (shop.sketch or shop.make)(cut)
        measured = {name: shop.measure[name](model) for name in shop.units_to_correct}
        if shop.foresight:
            shop.foresight.learn(cut)
        trial = replace(self._judge(asked, cut, measured), predicted=predicted, doubt=doubt)
        self.made.append(trial)
        return trial

    def _sketch_within_tolerance(self, rest: Budget) -> Trial:
        """Sketch at the limits themselves, or within their tolerance, where no plan goes lower.

        A measured value may exceed a limit by the tolerance, and a prediction is off by as much. So
        that is planned for before the requested limits are refused.
        """
        try:
            return self._sketch(rest)
        except BudgetError as refusal:
            units = self._workshop.units
            slack = {name: 1 + units[name].slack for name in self._workshop.units_to_correct}
            try:
                return self._sketch(self._scale(rest, slack))
            except BudgetError:
                raise refusal from None

    def _scale(self, rest: Budget, factors: Mapping[str, float]) -> Budget:
        """The budget with each of these limits multiplied by its factor."""
        plain = dict(rest.as_plain)
        for name, factor in factors.items():
            plain[name] = self._workshop.units[name].scale(
                rest.limits[name], factor, self._workshop.limits[name]
            )
        return Budget.of(plain)

    def _judge(self, asked: Budget, cut: Cut, measured: Mapping[str, float]) -> Trial:
        units = self._workshop.units
        shown = {name: units[name].show(value) for name, value in measured.items()}
        trial = Trial(asked, cut, measured, True, shown)
        return replace(trial, holds=not self._over(trial))

    def _over(self, trial: Trial) -> list[str]:
        limits, units = self._workshop.limits, self._workshop.units
        return [n for n, v in trial.measured.items() if v > limits[n] * (1 + units[n].slack)]

    def _excess(self, trial: Trial) -> float:
        return max(value - self._workshop.limits[n] for n, value in trial.measured.items())

    def _nearest(self, trial: Trial | None) -> str:
        wanted = ", ".join(f"{name}={limit}" for name, limit in self._budget.limits.items())
        if trial is None:
            return f"no cut within the floors meets {wanted}. Lower the floor, or ask for less."
        return (
            f"no cut that was tried meets {wanted}; the nearest of {len(self.made)} was {trial}. "
            "Ask for that, lower the floor, or repair and fine-tune (sec.iterate)."
        )


def _nearest_of(found: Sequence[tuple[float, Trial]]) -> Trial:
    """The trial within tolerance, preferably below the limit; else the nearest below, or at all."""
    near = [pair for pair in found if abs(pair[0] - 1) <= TOLERANCE and pair[1].holds]
    below = [pair for pair in found if pair[0] <= 1]
    if near:
        return min(near, key=lambda pair: (pair[0] > 1, abs(pair[0] - 1)))[1]
    if below:
        return max(below, key=lambda pair: pair[0])[1]
    return min(found, key=lambda pair: pair[0])[1]


NO_PREDICTION: Mapping[str, float] = MappingProxyType({})


@dataclass(slots=True)
class _Aims:
    """Which share of each limit to plan for, so that the measured result comes out within it.

    Attributes:
        aims: limit -> share of it that results are to have.
        factors: limit -> share of it to plan for next.
    """

    aims: Mapping[str, float]
    factors: dict[str, float] = field(init=False)
    _planned: dict[str, float] = field(init=False)
    _history: dict[str, list[tuple[float, float]]] = field(init=False)

    def __post_init__(self) -> None:
        self.factors = dict(self.aims)
        self._planned = dict(self.aims)
        self._history = {name: [] for name in self.aims}

    def go_half_way_back(self) -> None:
        """Plan next for what lies between these factors and the last ones that had a plan."""
        self.factors = {name: (one + self._planned[name]) / 2 for name, one in self.factors.items()}

    def learn(
        self,
        shares: Mapping[str, float],
        predicted: Mapping[str, float] = NO_PREDICTION,
        *,
        repeats_itself: bool,
    ) -> None:
        """Choose the next factors by what a plan came out as.

        Args:
            shares: limit -> measured share of it.
            predicted: limit -> share of it that the plan came to, by its own prediction.
            repeats_itself: whether the plan was one that had been made already.
        """
        self._planned = dict(self.factors)
        if repeats_itself:  # between two possible widths: take the smaller
            self.factors = {name: factor * _STEP_DOWN for name, factor in self.factors.items()}
            return
        largest = max(shares.values())
        for name, share in shares.items():
            # A plan that stays below its factor (the dense model, in the end) would have had to
            # ask for less to remove anything.
            factor = min(self.factors[name], predicted.get(name, self.factors[name]))
            self._history[name].append((factor, share))
            if share == largest or share > 1:  # limits with room to spare keep their factor
                self.factors[name] = _next_factor(self._history[name], self.aims[name])


def _next_factor(found: Sequence[tuple[float, float]], aim: float) -> float:
    """The next factor to plan for: interpolated between the nearest trials above and below.

    Args:
        found: (planned factor, measured share of the limit) of each trial.
        aim: share of the limit to aim at.
    """
    below = max((pair for pair in found if pair[1] <= aim), key=lambda p: p[1], default=None)
    above = min((pair for pair in found if pair[1] > aim), key=lambda p: p[1], default=None)
    if below is None or above is None or above[0] <= below[0]:
        return _beyond(found, aim)
    part = (aim - below[1]) / (above[1] - below[1])
    return below[0] + part * (above[0] - below[0])


def _beyond(found: Sequence[tuple[float, float]], aim: float) -> float:
    """Extrapolate the factor where all trials are on one side of the aim, from the last two."""
    factor, share = found[-1]
    in_proportion = factor * aim / share
    if len(found) < 2:
        return in_proportion
    rise, run = share - found[-2][1], factor - found[-2][0]
    if not rise * run > 0:
        return in_proportion
    # Noise can tilt the line, so it is trusted within a factor of two.
    on_line = factor + (aim - share) * run / rise
    return min(max(on_line, in_proportion / 2), in_proportion * 2)
