"""Which channels cost least to remove, found without removing them all.

One backward pass gives, for every channel and image, the derivative t of the loss with respect to
the channel's gate, and from it a forecast of what removing the channel does: -t + b c, where c is
t^2 / 2 times the loss's curvature (see ``curvature``) and b is learned. Only channels whose
forecast leaves in doubt on which side of the boundary they lie are then removed for real, most
doubt for least work first: on the images of the largest t^2, which are few and hold most of the
doubt; then, if the channel is in doubt still, on more and on all. For the images not tried the
forecast stays. A few channels of each group, from low to high, are removed first, on the images of
the largest t^2 and on every fourth of the others: they teach how far forecasts are off, over all
images and over those left after each step. It stops when the expected share of channels on the
wrong side is as small as was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student

from secateurs.calibration.ablation import Ablation, AblationSums
from secateurs.calibration.batches import CalibrationBatch, as_array
from secateurs.calibration.removal import Removals, Run, tally_changes_, tally_dense_
from secateurs.channels.equations import Ids
from secateurs.channels.network import Network
from secateurs.errors import DataError

Mode = Literal["exact", "racing"]
Scope = Literal["network", "group"]
Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

STEEPEST = (1 / 8, 3 / 8)
"""Shares of the images that a channel in doubt is removed on in its first steps, steepest first."""

ONE_IN = 4
"""Of the other images, one in so many are a step, as a sample of them; then come all."""

SAMPLED = len(STEEPEST) + 1
LAST = SAMPLED + 1

OF_EACH = 4
"""Pilot channels of each group, from a low to a high forecast."""

FEWEST = 16
"""Channels of all groups together that are removed first: where groups are few, more of each."""

UNTRIED = (1.0, 0.5)
"""(b, how far forecasts are off in units of c) before any channel was removed."""

SUREST, LEAST_SURE = 1e-6, 50.0
"""Cross-entropies are taken for no less and no more than these."""

HIGH = 0.9
"""The share of errors that a deviation is taken from."""

LEAST_OFF = 0.03
"""Errors that agree by chance are not believed to be smaller than this."""

OTHERS_WEIGH = 3
"""Shrinkage: with this many samples a group's own estimate gets weight 1/2."""


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


def curvature(losses: Floats) -> Floats:
    """How fast the slope of each image's cross-entropy grows, by the square of the slope.

    With a probability p = exp(-L) for the image's class, a margin m over the others as one and
    L = log(1 + exp(-m)), dL/dm = -(1 - p) and d2L/dm2 = p (1 - p) = (dL/dm)^2 p / (1 - p).
    """
    known: Floats = 1 / np.expm1(np.clip(losses, SUREST, LEAST_SURE))
    return known


def _for_few(number: int, share: float) -> float:
    """How much wider Student's law is, learned from so few, than the normal one."""
    level = (1 + share) / 2
    return float(student.ppf(level, number - 1) / norm.ppf(level))


@dataclass(eq=False)
class Race(Generic[Run]):
    """Channels of all groups in one row; what is forecast of each, and what removing it has shown.

    A channel takes its images in steps: those of the largest t^2 first, then a sample of the
    others, then all. After each step some are left, for which the forecast stands; step 0 is before
    any was taken.

    Attributes:
        network: as traced.
        removals: of its channels.
        parts: all images.
        share: of the channels, to be found; in (0, 1).
        scope: whether they are the lowest of the whole network or of each group.
        confidence: the expected share of those found that are right; in (0, 1).
        step_of: the step that takes the image; (channels, images).
        slope: sum of -t over the images left after each step; (channels, 1 + steps). This and the
            next two are divided by the number of all images.
        bend: sum of c over the same.
        gained: change of the loss on the images of each step taken; (channels, 1 + steps).
        done: how many steps each channel has taken; (channels,).
        tally: what removing channels did, by class.
    """

    network: Network
    removals: Removals[Run]
    parts: Sequence[CalibrationBatch]
    share: float
    scope: Scope
    confidence: float
    step_of: NDArray[np.int8] = field(init=False)
    slope: Floats = field(init=False)
    bend: Floats = field(init=False)
    gained: Floats = field(init=False)
    done: Ids = field(init=False)
    tally: AblationSums = field(init=False)

    def __post_init__(self) -> None:
        groups = self.network.groups
        self.group_of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
        self.place = np.concatenate([*(np.arange(len(g)) for g in groups), np.zeros(0, np.int64)])
        self.cost_per_image = np.array([self.removals.cost_per_image(group) for group in groups])[
            self.group_of
        ]
        in_steps = np.array([self.removals.supports_subsets(group) for group in groups], bool)
        self._in_steps = in_steps[self.group_of]
        self._runs: dict[int, Run] = {}
        self._share_out(*self._seen_dense())
        self.gained = np.zeros_like(self.slope)
        self.done = np.zeros(len(self.place), np.int64)

    def _seen_dense(self) -> tuple[Singles, Floats]:
        """(t of each channel and image, curvature of each image's loss); the network is tallied."""
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

    def _share_out(self, gates: Singles, curved: Floats) -> None:
        """Share each channel's images out among the steps.

        Args:
            gates: t; (channels, images).
            curved: curvature of each image's loss.
        """
        images = gates.shape[1]
        rank = np.arange(images)
        ends = [max(1, round(share * images)) for share in STEEPEST]
        steps = 1 + np.searchsorted(ends, rank, side="right")
        steps[(steps == SAMPLED) & (rank % ONE_IN != ONE_IN - 1)] = LAST
        steps = steps.astype(np.int8)
        order = np.argsort(-np.abs(gates), axis=1, kind="stable")
        self.step_of = np.empty(gates.shape, np.int8)
        np.put_along_axis(self.step_of, order, np.broadcast_to(steps, gates.shape), axis=1)
        self.slope = self._over_those_left(-gates)
        self.bend = self._over_those_left(gates**2 * (curved / 2))

    def _over_those_left(self, values: NDArray[np.floating[Any]]) -> Floats:
        """Their sum over the images left after each step, divided by the number of all images."""
        left = [self.step_of > step for step in range(LAST + 1)]
        sums = [np.where(own, values, 0).sum(1, dtype=np.float64) for own in left]
        over: Floats = np.stack(sums, axis=1) / self.step_of.shape[1]
        return over

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which channels were removed on all images."""
        known: NDArray[np.bool_] = self.done == LAST
        return known

    def run(self) -> Ablation:
        """Forecast, remove the most doubtful, learn, and so on until enough is sure."""
        first = self._first()
        self._remove(first, np.where(self._in_steps[first], SAMPLED, LAST))
        while True:
            doubt = self._doubt()
            allowed = 2 * (1 - self.confidence) * sum(self._wanted())
            if doubt.sum() <= allowed or self.known.all():
                return self._ablation()
            chosen = self._most_doubtful(doubt, allowed)
            self._remove(chosen, np.where(self._in_steps[chosen], self.done[chosen] + 1, LAST))

    def _left(self, of_steps: Floats) -> Floats:
        """What is left of each channel, after the steps it has taken."""
        left: Floats = np.take_along_axis(of_steps, self.done[:, None], axis=1)[:, 0]
        return left

    def _learned(self, share: float) -> tuple[Floats, Floats]:
        """(b, how far off this share of the forecasts is at most, in units of c), a channel.

        Of the images it has left, from what others did on the images they had left at that step:
        those of its group, and where these are few, those of all, as layers differ.
        """
        middles, off = np.empty((2, LAST + 1, len(self.network.groups)))
        taught = self._surprises()
        for step in range(LAST + 1):
            middles[step], off[step] = self._learned_after(step, share, *taught)
        return middles[self.done, self.group_of], off[self.done, self.group_of]

    def _surprises(self) -> tuple[Ids, Floats]:
        """(channels, what the slope did not foretell of the images they had left after each step).

        Of channels removed on the sample at least, which then stands for all that it is one of.
        """
        taught = np.flatnonzero(self.done >= SAMPLED)
        gained = self.gained[taught, 1:] + np.diff(self.slope[taught])
        bends = -np.diff(self.bend[taught])
        sampled, rest = SAMPLED - 1, LAST - 1
        likewise = np.divide(
            gained[:, sampled] * bends[:, rest],
            bends[:, sampled],
            out=np.zeros(len(taught)),
            where=bends[:, sampled] > 0,
        )
        gained[:, rest] = np.where(self.known[taught], gained[:, rest], likewise)
        left = np.cumsum(gained[:, ::-1], axis=1)[:, ::-1]
        return taught, np.hstack([left, np.zeros((len(taught), 1))])

    def _learned_after(
        self, step: int, share: float, taught: Ids, surprises: Floats
    ) -> tuple[Floats, Floats]:
        """The same after a step, a group."""
        groups = len(self.network.groups)
        bends = self.bend[taught, step]
        usable = bends > 0
        if not usable.any():
            middle, deviation = UNTRIED
            reach = deviation * float(norm.ppf((1 + share) / 2))
            return np.full(groups, middle), np.full(groups, reach)
        ratio = surprises[usable, step] / bends[usable]
        group_of = self.group_of[taught[usable]]
        of_all = float(np.median(ratio))
        middles = np.full(groups, of_all)
        off = np.full(groups, float(np.quantile(np.abs(ratio - of_all), share)))
        for number in range(groups):
            own = ratio[group_of == number]
            if len(own):
                trust = len(own) / (len(own) + OTHERS_WEIGH)
                middles[number] += trust * (np.median(own) - of_all)
                reach = float(np.quantile(np.abs(own - middles[number]), share))
                off[number] += trust * (reach - off[number])
                off[number] *= _for_few(len(own) + OTHERS_WEIGH, share)
        return middles, np.maximum(off, LEAST_OFF * max(1.0, abs(of_all)))

    def _values(self) -> tuple[Floats, Floats]:
        """(mean change of the loss, its deviation) of every channel, known or forecast.

        The deviation is a normal law's that has as much of it as far off: the tails are heavy.
        """
        middle, off = self._learned(HIGH)
        bend = self._left(self.bend)
        forecast = self._left(self.slope) + middle * bend
        return self.gained.sum(1) + forecast, off / float(norm.ppf((1 + HIGH) / 2)) * bend

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
        return np.where(deviations > 0, doubt, 0.0)

    def _most_doubtful(self, doubt: Floats, allowed: float) -> Ids:
        """Next channels to ablate: as many as would leave no more doubt than allowed."""
        order = np.argsort(-doubt / self.cost_per_image, kind="stable")
        order = order[~self.known[order]]
        left = doubt.sum() - np.cumsum(doubt[order])
        enough = int(np.argmax(left <= allowed)) + 1 if (left <= allowed).any() else len(order)
        return order[:enough]

    def _first(self) -> Ids:
        """A few of each group, from the lowest forecasts to the highest: forecasts err on both."""
        values, _ = self._values()
        each = max(OF_EACH, -(-FEWEST // max(1, len(self.network.groups))))
        parts = []
        for number in range(len(self.network.groups)):
            own = np.flatnonzero(self.group_of == number)
            rising = own[np.argsort(values[own], kind="stable")]
            places = (np.arange(each) + 0.5) / each * len(own)
            parts.append(rising[np.unique(places.astype(np.int64))])
        return np.concatenate([*parts, np.zeros(0, np.int64)])

    def _remove(self, chosen: Ids, steps_until: Ids) -> None:
        """Let channels take steps until each has taken so many."""
        until = self.done.copy()
        until[chosen] = steps_until
        ends = np.cumsum([0, *map(len, self.parts)]).tolist()
        for number in sorted(range(len(self.parts)), key=lambda part: part not in self._runs):
            dense = self._dense(number)
            step_of = self.step_of[:, ends[number] : ends[number + 1]]
            for place, group in enumerate(self.network.groups):
                own = np.sort(chosen[self.group_of[chosen] == place])
                steps = step_of[own]
                where = (steps > self.done[own, None]) & (steps <= until[own, None])
                if where.any():
                    changes = self.removals.ablate(dense, group, self.place[own], where)
                    tally_changes_(self.tally, dense, group, self.place[own], changes, where)
                    self._gain(own, as_array(changes.loss), np.where(where, steps, 0))
        self.done = until

    def _gain(self, own: Ids, losses: Floats, steps: NDArray[np.int8]) -> None:
        """Add the changes of the loss to those of the steps that they were found in."""
        for step in range(1, LAST + 1):
            gained = np.where(steps == step, losses, 0).sum(1)
            self.gained[own, step] += gained / self.step_of.shape[1]

    def _dense(self, number: int) -> Run:
        """The dense network on a part; it is kept until another part's turn comes."""
        if number not in self._runs:
            self._runs = {number: self.removals.dense(self.parts[number])}
        return self._runs[number]

    def _ablation(self) -> Ablation:
        values, _ = self._values()
        errors = self._learned((1 + self.confidence) / 2)[1] * self._left(self.bend)
        lowest = np.zeros(len(values), bool)
        for team, wanted in zip(self._teams(), self._wanted(), strict=True):
            lowest[team[np.argsort(values[team], kind="stable")[:wanted]]] = True

        def by_group(row: NDArray[Any]) -> dict[str, NDArray[Any]]:
            own = (row[self.group_of == n] for n in range(len(self.network.groups)))
            return dict(zip((g.name for g in self.network.groups), own, strict=True))

        ablation = self.tally.ablation()
        seen = sum(int(own.sum()) for own in ablation.seen.values())
        return replace(
            ablation,
            estimate=by_group(values),
            error=by_group(errors),
            lowest={name: np.flatnonzero(own) for name, own in by_group(lowest).items()},
            confidence=self.confidence,
            spent=seen / max(1, self.step_of.size),
        )
