"""Finding the channels that cost least to remove, without removing all of them.

Removing every channel on every image is exact but slow, and mostly wasted: for most channels, the
forecast from one backward pass (see ``forecasts``) already shows on which side of the boundary
between low and other channels they lie. Only channels that the forecast leaves uncertain are
actually removed, those first that resolve the most uncertainty for the least work, and on a few
images before all. A pilot sample of each group, from low to high forecasts, is removed first,
because only actual removals show how far forecasts are off. The race stops when the expected share
of channels on the wrong side is as small as requested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal

import numpy as np
from numpy.typing import NDArray

from secateurs.calibration.ablation import Ablation, AblationSums
from secateurs.calibration.batches import CalibrationBatch, as_array
from secateurs.calibration.forecasts import LAST, SAMPLED, Forecasts, Singles, curvature
from secateurs.calibration.removal import AnyRun, Removals, tally_changes_, tally_dense_
from secateurs.channels.arrays import Floats
from secateurs.channels.equations import Ids
from secateurs.channels.network import Network
from secateurs.errors import DataError

Mode = Literal["exact", "racing"]
Scope = Literal["group", "network"]

OF_EACH = 4
"""Number of pilot channels of each group, from a low to a high forecast."""

FEWEST = 16
"""Least number of pilot channels in total: with few groups, more of each are taken."""


def check_options(mode: str, share: float, scope: str, confidence: float) -> None:
    """Check the options of an ablation.

    Raises:
        DataError: one is out of range.
    """
    for name, value in (("share", share), ("confidence", confidence)):
        if not 0 < value < 1:
            raise DataError(f"oracle: expected {name} in (0, 1); received {value}")
    if mode not in ("exact", "racing") or scope not in ("network", "group"):
        raise DataError(
            f"oracle: expected mode 'exact' or 'racing' and scope 'network' or 'group'; received "
            f"{mode!r} and {scope!r}"
        )


@dataclass(eq=False)
class Race(Generic[AnyRun]):
    """A race: chooses which channels to remove next, until the lowest are known well enough.

    Attributes:
        network: as traced.
        removals: removes its channels.
        parts: all images, in batches.
        share: share of the channels to find, in (0, 1).
        scope: whether to find the lowest of the whole network or of each group.
        confidence: expected share of the channels found that are right, in (0, 1).
        forecasts: forecasts of all channels, with what was measured.
        tally: sums of the measured effects, by class.
    """

    network: Network
    removals: Removals[AnyRun]
    parts: Sequence[CalibrationBatch]
    share: float
    scope: Scope
    confidence: float
    forecasts: Forecasts = field(init=False)
    tally: AblationSums = field(init=False)

    def __post_init__(self) -> None:
        groups = self.network.groups
        self.group_of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
        self.place = np.concatenate([*(np.arange(len(g)) for g in groups), np.zeros(0, np.int64)])
        costs = np.array([self.removals.cost_per_image(group) for group in groups])
        self.cost_per_image = costs[self.group_of]
        in_steps = np.array([self.removals.supports_subsets(group) for group in groups], bool)
        self._in_steps = in_steps[self.group_of]
        self._runs: dict[int, AnyRun] = {}
        self.forecasts = Forecasts(*self._measure_dense(), self.group_of, len(groups))

    def _measure_dense(self) -> tuple[Singles, Floats]:
        """(t of each channel and image, curvature of each image's loss); tallies the dense run."""
        atoms = np.concatenate([*(g.channels for g in self.network.groups), np.zeros(0, np.int64)])
        gates, curved = [], []
        for number in range(len(self.parts)):
            dense = self._dense(number)
            if number == 0:
                self.tally = AblationSums(self.network, dense.classes)
            tally_dense_(self.tally, dense)
            losses = as_array(dense.losses).astype(np.float64)
            curved.append(curvature(losses) if dense.classes else np.ones(len(losses)))
            gates.append(self.removals.slopes(dense)[:, atoms].T.astype(np.float32))
        return np.concatenate(gates, axis=1), np.concatenate(curved)

    def run(self) -> Ablation:
        """Forecast, remove the most uncertain channels, learn, and repeat until confident."""
        first = self.first()
        self.remove(first, np.where(self._in_steps[first], SAMPLED, LAST))
        while True:
            doubt = self.doubt()
            allowed = 2 * (1 - self.confidence) * sum(self._count_wanted())
            if doubt.sum() <= allowed or self.forecasts.is_known.all():
                return self._ablation()
            chosen = self.most_doubtful(doubt, allowed)
            self.remove(
                chosen, np.where(self._in_steps[chosen], self.forecasts.done[chosen] + 1, LAST)
            )

    def _ranked_together(self) -> list[Ids]:
        """Sets of channels that are ranked among each other."""
        if self.scope == "network":
            return [np.arange(len(self.place))]
        return [np.flatnonzero(self.group_of == n) for n in range(len(self.network.groups))]

    def _count_wanted(self) -> list[int]:
        return [max(1, round(self.share * len(members))) for members in self._ranked_together()]

    def doubt(self) -> Floats:
        """Probability that each channel lies on the other side of its boundary."""
        values, deviations = self.forecasts.values()
        doubt = np.zeros(len(values))
        for members, wanted in zip(self._ranked_together(), self._count_wanted(), strict=True):
            rising = np.sort(values[members])
            if wanted >= len(rising):
                continue
            boundary = (rising[wanted - 1] + rising[wanted]) / 2
            distance = np.abs(values[members] - boundary)
            # A Laplace distribution instead of a normal one, because errors have heavy tails.
            scale = np.maximum(deviations[members], 1e-300)
            doubt[members] = 0.5 * np.exp(-np.sqrt(2) * distance / scale)
        return np.where(deviations > 0, doubt, 0.0)

    def most_doubtful(self, doubt: Floats, allowed: float) -> Ids:
        """Channels to ablate next: as many as would leave no more uncertainty than allowed."""
        order = np.argsort(-doubt / self.cost_per_image, kind="stable")
        order = order[~self.forecasts.is_known[order]]
        left = doubt.sum() - np.cumsum(doubt[order])
        enough = int(np.argmax(left <= allowed)) + 1 if (left <= allowed).any() else len(order)
        return order[:enough]

    def first(self) -> Ids:
        """Pilot channels of each group, from the lowest to the highest forecasts."""
        values, _ = self.forecasts.values()
        each = max(OF_EACH, -(-FEWEST // max(1, len(self.network.groups))))
        parts = []
        for number in range(len(self.network.groups)):
            members = np.flatnonzero(self.group_of == number)
            rising = members[np.argsort(values[members], kind="stable")]
            places = (np.arange(each) + 0.5) / each * len(members)
            parts.append(rising[np.unique(places.astype(np.int64))])
        return np.concatenate([*parts, np.zeros(0, np.int64)])

    def remove(self, chosen: Ids, steps_until: Ids) -> None:
        """Remove channels on the images of their next steps, until step ``steps_until``."""
        until = self.forecasts.done.copy()
        until[chosen] = steps_until
        ends = np.cumsum([0, *map(len, self.parts)]).tolist()
        for number in sorted(range(len(self.parts)), key=lambda part: part not in self._runs):
            dense = self._dense(number)
            step_of = self.forecasts.step_of[:, ends[number] : ends[number + 1]]
            for place, group in enumerate(self.network.groups):
                channels = np.sort(chosen[self.group_of[chosen] == place])
                steps = step_of[channels]
                where = (steps > self.forecasts.done[channels, None]) & (
                    steps <= until[channels, None]
                )
                if where.any():
                    changes = self.removals.ablate(dense, group, self.place[channels], where)
                    tally_changes_(self.tally, dense, group, self.place[channels], changes, where)
                    self.forecasts.add_changes(
                        channels, as_array(changes.loss), np.where(where, steps, 0)
                    )
        self.forecasts.done = until

    def _dense(self, number: int) -> AnyRun:
        """The dense network's run on a part; cached until another part is needed."""
        if number not in self._runs:
            self._runs = {number: self.removals.dense(self.parts[number])}
        return self._runs[number]

    def _ablation(self) -> Ablation:
        values, _ = self.forecasts.values()
        errors = self.forecasts.learn((1 + self.confidence) / 2)[1] * self.forecasts.remaining(
            self.forecasts.bend
        )
        lowest = np.zeros(len(values), bool)
        for members, wanted in zip(self._ranked_together(), self._count_wanted(), strict=True):
            lowest[members[np.argsort(values[members], kind="stable")[:wanted]]] = True

        def by_group(row: NDArray[Any]) -> dict[str, NDArray[Any]]:
            part = (row[self.group_of == n] for n in range(len(self.network.groups)))
            return dict(zip((g.name for g in self.network.groups), part, strict=True))

        ablation = self.tally.ablation()
        seen = sum(int(part.sum()) for part in ablation.seen.values())
        return replace(
            ablation,
            estimate=by_group(values),
            error=by_group(errors),
            lowest={name: np.flatnonzero(part) for name, part in by_group(lowest).items()},
            confidence=self.confidence,
            spent=seen / max(1, self.forecasts.step_of.size),
        )
