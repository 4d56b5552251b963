"""Which channels cost least to remove, found without removing them all.

One backward pass gives, for every channel and image, the derivative t of the loss with respect to
the channel's gate, and from it a forecast of what removing the channel does: -t + b t^2 / 2, its
mean taken over all images (the square stands for the curvature, as the Fisher information does; b
is learned). Only channels whose forecast leaves in doubt on which side of the boundary they lie are
then removed for real, on all images, most doubt for least work first, and each teaches how far
forecasts of its group are off; a few of each group go first, from low to high. It stops when the
expected share of channels on the wrong side is as small as was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from secateurs.channels.labels import Ids
from secateurs.channels.network import Network
from secateurs.criteria.ablations import Ablation, Tally
from secateurs.criteria.calibration import Batch
from secateurs.criteria.gathered import Gates
from secateurs.criteria.removing import Removals, Run, tally_changes_, tally_dense_
from secateurs.errors import DataError

Mode = Literal["exact", "racing"]
Scope = Literal["network", "group"]
Floats = NDArray[np.float64]

FIRST = 0.04
"""Share of the channels that is removed for real before forecasts are trusted at all."""

FEWEST = 24
"""The same as a number."""

OF_EACH = 5
"""Channels of each group that are among the first: low, middling and high by their forecasts."""

UNTRIED = (1.0, 0.5)
"""(b, how far forecasts are off in units of t^2 / 2) before any channel was removed."""

HIGH = 0.9
"""The share of errors that a deviation is taken from."""

LEAST_OFF = 0.03
"""Errors that agree by chance are not believed to be smaller than this."""

OTHERS_WEIGH = 3
"""As many removals of its own weigh as much for a group as what all groups together teach."""


def check_options(mode: str, share: float, scope: str, confidence: float) -> None:
    """Refuse options of an oracle that are out of range.

    Raises:
        DataError: one is.
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
class Race(Generic[Run]):
    """Channels of all groups in one row, each with a forecast or, once removed, with the truth.

    Attributes:
        network: as traced.
        removals: of its channels.
        parts: all images.
        gates: how the loss changes with a gate on each channel, over all images.
        share: of the channels, to be found; in (0, 1).
        scope: whether they are the lowest of the whole network or of each group.
        confidence: the expected share of those found that are right; in (0, 1).
        slope: change of the loss when a channel is removed, to first order.
        bend: the mean of t^2 / 2.
        truth: change of the loss, of channels removed.
        known: which were.
    """

    network: Network
    removals: Removals[Run]
    parts: Sequence[Batch]
    gates: Gates
    share: float
    scope: Scope
    confidence: float
    slope: Floats = field(init=False)
    bend: Floats = field(init=False)
    truth: Floats = field(init=False)
    known: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        groups = self.network.groups
        self.group_of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
        self.place = np.concatenate([*(np.arange(len(g)) for g in groups), np.zeros(0, np.int64)])
        atoms = np.concatenate([*(g.channels for g in groups), np.zeros(0, np.int64)])
        self.slope = -self.gates.signed[atoms] / self.gates.images
        self.bend = self.gates.squares[atoms] / (2 * self.gates.images)
        self.truth = np.zeros(len(self.place))
        self.known = np.zeros(len(self.place), bool)
        self.price = np.array([self.removals.price(group) for group in groups])[self.group_of]
        self.tally: Tally | None = None

    def run(self) -> Ablation:
        """Forecast, remove the most doubtful, learn, and so on until enough is sure."""
        while True:
            doubt = self._doubt()
            allowed = 2 * (1 - self.confidence) * sum(self._wanted())
            first = not self.known.any()
            if (doubt.sum() <= allowed and not first) or self.known.all():
                return self._ablation()
            self._remove(self._most_doubtful(doubt, allowed, first=first))

    def _learned(self, share: float) -> tuple[Floats, Floats]:
        """(b, how far off this share of the forecasts is at most, in units of t^2 / 2), a channel.

        From the group's channels removed so far, and where these are few, from all: layers differ.
        """
        usable = np.flatnonzero(self.known & (self.bend > 0))
        if not len(usable):
            middle, deviation = UNTRIED
            reach = deviation * float(norm.ppf((1 + share) / 2))
            return np.full(len(self.bend), middle), np.full(len(self.bend), reach)
        ratio = (self.truth[usable] - self.slope[usable]) / self.bend[usable]
        of_all = float(np.median(ratio))
        middles = np.full(len(self.network.groups), of_all)
        off = np.full(len(middles), float(np.quantile(np.abs(ratio - of_all), share)))
        for number in range(len(middles)):
            own = ratio[self.group_of[usable] == number]
            if len(own):
                trust = len(own) / (len(own) + OTHERS_WEIGH)
                middles[number] += trust * (np.median(own) - of_all)
                reach = float(np.quantile(np.abs(own - middles[number]), share))
                off[number] += trust * (reach - off[number])
        return middles[self.group_of], np.maximum(off, LEAST_OFF)[self.group_of]

    def _values(self) -> tuple[Floats, Floats]:
        """(mean change of the loss, its deviation) of every channel, known or forecast.

        The deviation is a normal law's that has as much of it as far off: the tails are heavy.
        """
        middle, off = self._learned(HIGH)
        forecast = self.slope + middle * self.bend
        deviation = off / float(norm.ppf((1 + HIGH) / 2)) * self.bend
        return (
            np.where(self.known, self.truth, forecast),
            np.where(self.known, 0.0, deviation),
        )

    def _teams(self) -> list[Ids]:
        """Channels that are ranked among each other."""
        if self.scope == "network":
            return [np.arange(len(self.place))]
        return [np.flatnonzero(self.group_of == n) for n in range(len(self.network.groups))]

    def _wanted(self) -> list[int]:
        return [max(1, round(self.share * len(team))) for team in self._teams()]

    def _doubt(self) -> Floats:
        """The probability of each channel to lie on the other side of its boundary."""
        values, deviations = self._values()
        doubt = np.zeros(len(values))
        for team, wanted in zip(self._teams(), self._wanted(), strict=True):
            rising = np.sort(values[team])
            if wanted >= len(rising):
                continue
            boundary = (rising[wanted - 1] + rising[wanted]) / 2
            distance = np.abs(values[team] - boundary)
            # Laplace's law rather than the normal one: the errors' tails are heavy.
            scale = np.maximum(deviations[team], 1e-300)
            doubt[team] = 0.5 * np.exp(-np.sqrt(2) * distance / scale)
        return np.where(self.known | (deviations == 0), 0.0, doubt)

    def _most_doubtful(self, doubt: Floats, allowed: float, *, first: bool) -> Ids:
        """Whom to remove next: as many as would leave no more doubt than allowed."""
        order = np.argsort(-doubt / self.price, kind="stable")
        order = order[~self.known[order]]
        if first:
            few = max(FEWEST, round(FIRST * len(doubt)))
            chosen = np.concatenate([self._of_each(), order[:few]])
            return chosen[np.sort(np.unique(chosen, return_index=True)[1])]
        left = doubt.sum() - np.cumsum(doubt[order])
        enough = int(np.argmax(left <= allowed)) + 1 if (left <= allowed).any() else len(order)
        return order[:enough]

    def _of_each(self) -> Ids:
        """A few of each group, from the lowest forecasts to the highest: forecasts err on both."""
        values, _ = self._values()
        parts = []
        for number in range(len(self.network.groups)):
            own = np.flatnonzero(self.group_of == number)
            rising = own[np.argsort(values[own], kind="stable")]
            places = (np.arange(OF_EACH) + 0.5) / OF_EACH * len(own)
            parts.append(rising[np.unique(places.astype(np.int64))])
        return np.concatenate([*parts, np.zeros(0, np.int64)])

    def _remove(self, chosen: Ids) -> None:
        for batch in self.parts:
            dense = self.removals.dense(batch)
            if self.tally is None:
                self.tally = Tally(self.network, dense.classes)
            if self.tally.images.sum() < sum(len(part) for part in self.parts):
                tally_dense_(self.tally, dense)
            for number, group in enumerate(self.network.groups):
                channels = np.sort(self.place[chosen[self.group_of[chosen] == number]])
                if len(channels):
                    changes = self.removals.without(dense, group, channels)
                    tally_changes_(self.tally, dense, group, channels, changes)
        self.known[chosen] = True
        means = [self.tally.mean(g.name) for g in self.network.groups] if self.tally else []
        self.truth = np.concatenate([*means, np.zeros(0)])

    def _ablation(self) -> Ablation:
        tally = self.tally or Tally(self.network, 0)
        values, _ = self._values()
        errors = np.where(self.known, 0.0, self._learned((1 + self.confidence) / 2)[1] * self.bend)
        lowest = np.zeros(len(values), bool)
        for team, wanted in zip(self._teams(), self._wanted(), strict=True):
            lowest[team[np.argsort(values[team], kind="stable")[:wanted]]] = True

        def by_group(row: NDArray[Any]) -> dict[str, NDArray[Any]]:
            own = (row[self.group_of == n] for n in range(len(self.network.groups)))
            return dict(zip((g.name for g in self.network.groups), own, strict=True))

        return replace(
            tally.ablation(),
            estimate=by_group(values),
            error=by_group(errors),
            lowest={name: np.flatnonzero(own) for name, own in by_group(lowest).items()},
            confidence=self.confidence,
            spent=float(self.known.mean()) if len(self.known) else 0.0,
        )
