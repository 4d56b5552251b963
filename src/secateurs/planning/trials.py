"""Budgets that only a cut model can tell: cuts are made, measured, and planned again.

A latency model predicts within some percent, so a limit of time is met by timing the real result
and planning again with what was off. The loss of accuracy and the memory of a pass are not
predicted at all: they are looked for along the share of the MACs that stays, on which both rise or
fall.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateurs.channels.cut import Cut
from secateurs.errors import BudgetError
from secateurs.planning.budget import UNITS, Budget
from secateurs.planning.timed_units import TimedUnit
from secateurs.planning.units import Unit

TOLERANCE = 0.05
"""A limit of time is met where the result takes between this much less, and no more."""
AIM = 0.98
"""Share of a limit of time that a plan aims at."""
_REPLANS = 5
_FINE = 1.04
"""The search ends where the smallest share that holds and the largest that does not are so near."""
_MOST_TRIALS = 9
_LARGEST_SHARE = 0.97


@dataclass(frozen=True, slots=True)
class Trial:
    """A cut that was made and measured.

    Attributes:
        asked: what it was planned for.
        cut: what went.
        measured: unit -> what the cut model took, in the unit's own count.
        holds: whether all limits hold.
        shown: the same as ``measured``, as a message says it.
    """

    asked: Budget
    cut: Cut
    measured: Mapping[str, float]
    holds: bool
    shown: Mapping[str, str]

    def __str__(self) -> str:
        asked = ", ".join(
            f"{name}={limit:.3g}" if isinstance(limit, float) else f"{name}={limit}"
            for name, limit in self.asked.limits.items()
        )
        shown = ", ".join(f"{name} {text}" for name, text in self.shown.items())
        return f"{asked}: {shown}{'' if self.holds else ' (does not hold)'}"


@dataclass(frozen=True, slots=True)
class Workshop:
    """What makes and measures cut models.

    Attributes:
        plan: a budget of units that can be predicted -> the cut.
        make: the cut -> the model, proven.
        measure: for each unit that is tried or timed, model -> what it takes, in the unit's count.
        limits: of those units, in the same count.
        units: by which they are shown.
    """

    plan: Callable[[Budget], Cut]
    make: Callable[[Cut], Any]
    measure: Mapping[str, Callable[[Any], float]]
    limits: Mapping[str, float]
    units: Mapping[str, Unit]


class Trials:
    """The cuts that are made on the way to a budget; the one that was chosen at the end."""

    def __init__(self, budget: Budget, workshop: Workshop) -> None:
        self._budget, self._workshop = budget, workshop
        self.made: list[Trial] = []
        self._latest: Any = None

    def run(self) -> tuple[Any, Trial]:
        """(the model, the trial that it is of).

        Raises:
            BudgetError: no cut meets the budget; the message says the nearest that was measured.
        """
        tried = [name for name in self._budget.limits if UNITS[name].is_tried]
        rest = self._budget.ablate(*tried)
        chosen = self._smallest() if rest is None else self._beside(rest)
        # Models are large: the latest alone is kept, and another is made again.
        is_latest = chosen is self.made[-1]
        return (self._latest if is_latest else self._workshop.make(chosen.cut)), chosen

    def _beside(self, rest: Budget) -> Trial:
        """Of a budget with limits besides those that are tried: they are conditions on it."""
        trial = self._meet_time(rest) if rest.is_timed else self._try(rest)
        if not trial.holds and self._over(trial) == ["peak_memory_mb"]:
            trial = self._search(rest)
        if not trial.holds:
            raise BudgetError(self._nearest(trial))
        return trial

    def _meet_time(self, rest: Budget) -> Trial:
        """Plan, time the result, and plan again with what was off."""
        timed = [name for name in rest.limits if isinstance(UNITS[name], TimedUnit)]
        factor = AIM
        found: list[tuple[float, float, Trial]] = []  # factor, share of the limit, trial
        for _ in range(_REPLANS):
            trial = self._try(_scale_times(rest, timed, factor))
            share = max(trial.measured[n] / self._workshop.limits[n] for n in timed)
            repeats_itself = any(trial.cut == earlier.cut for _, _, earlier in found)
            found.append((factor, share, trial))
            if 1 - TOLERANCE <= share <= 1 or repeats_itself:
                break
            factor = _next_factor([(at, share) for at, share, _ in found])
        near = [(share, trial) for _, share, trial in found if abs(share - 1) <= TOLERANCE]
        below = [(share, trial) for _, share, trial in found if share <= 1]
        # Within the tolerance what is below comes first; then what is nearest from below.
        if near:
            return min(near, key=lambda pair: (pair[0] > 1, abs(pair[0] - 1)))[1]
        if below:
            return max(below, key=lambda pair: pair[0])[1]
        return min(found, key=lambda one: one[1])[2]

    def _smallest(self) -> Trial:
        """The smallest model by MACs within limits that are only tried."""
        return self._search(None)

    def _search(self, rest: Budget | None) -> Trial:
        """Bisect the share of the MACs that stays: less memory below, less loss above."""
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
        """A trial at this share of the MACs; None where no plan goes so low."""
        plain = {} if rest is None else rest.as_plain
        try:
            return self._try(Budget.of({**plain, "macs": share}))
        except BudgetError:
            return None

    def _try(self, asked: Budget) -> Trial:
        cut = self._workshop.plan(asked)
        self._latest = model = self._workshop.make(cut)
        measured = {name: measure(model) for name, measure in self._workshop.measure.items()}
        holds = all(
            value <= self._workshop.limits[name] * (1 + self._slack(name))
            for name, value in measured.items()
        )
        shown = {name: self._workshop.units[name].show(v) for name, v in measured.items()}
        trial = Trial(asked, cut, measured, holds, shown)
        self.made.append(trial)
        return trial

    def _slack(self, name: str) -> float:
        return TOLERANCE if isinstance(UNITS[name], TimedUnit) else 1e-9

    def _over(self, trial: Trial) -> list[str]:
        limits = self._workshop.limits
        return [n for n, v in trial.measured.items() if v > limits[n] * (1 + self._slack(n))]

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


def _next_factor(found: Sequence[tuple[float, float]]) -> float:
    """What to plan for next: between the nearest that were too slow and too fast, if both were.

    Args:
        found: (factor that was planned for, share of the limit that was measured) of each trial.
    """
    below = max((pair for pair in found if pair[1] <= AIM), key=lambda p: p[1], default=None)
    above = min((pair for pair in found if pair[1] > AIM), key=lambda p: p[1], default=None)
    if below is None or above is None or above[0] <= below[0]:
        factor, share = found[-1]
        return factor * AIM / share
    part = (AIM - below[1]) / (above[1] - below[1])
    return below[0] + part * (above[0] - below[0])


def _scale_times(rest: Budget, timed: list[str], factor: float) -> Budget:
    """The budget with its limits of time at ``factor`` times their milliseconds."""
    plain = dict(rest.as_plain)
    for name in timed:
        # Rates grow where times shrink.
        rate = name in ("throughput", "speedup")
        plain[name] = float(plain[name]) * (1 / factor if rate else factor)
    if "latency" in plain:
        plain["latency"] = min(float(plain["latency"]), 1.0)
    if "speedup" in plain:
        plain["speedup"] = max(float(plain["speedup"]), 1.0)
    return Budget.of(plain)
