"""What removing a channel would do to the loss, foretold from one backward pass.

For every channel and image there is the derivative t of the loss with respect to the channel's
gate, and from it a forecast of what removing the channel does: -t + b c, where c is t^2 / 2 times
the loss's curvature (see ``curvature``) and b is learned from channels that were removed for real,
as is how far such forecasts are off. A channel takes its images in steps: those of the largest t^2
first, which are few and hold most of the doubt, then a sample of the others, then all. After each
step the forecast stands for the images that are left; step 0 is before any was taken.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from secateurs.channels.arrays import Floats
from secateurs.channels.equations import Ids

Singles = NDArray[np.float32]

STEEPEST = (1 / 8, 3 / 8)
"""Shares of the images that a channel in doubt is removed on in its first steps, steepest first."""

ONE_IN = 4
"""Of the other images, one in so many are a step, as a sample of them; then come all."""

SAMPLED = len(STEEPEST) + 1
LAST = SAMPLED + 1

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
    return float(stdtrit(number - 1, level) / ndtri(level))


class Forecasts:
    """Of all channels in one row: what is foretold of each, and what removing it has shown.

    Attributes:
        group_of: number of each channel's group; (channels,).
        step_of: the step that takes the image; (channels, images).
        slope: sum of -t over the images left after each step; (channels, 1 + steps). This and the
            next two are divided by the number of all images.
        bend: sum of c over the same.
        gained: change of the loss on the images of each step taken; (channels, 1 + steps).
        done: how many steps each channel has taken; (channels,).
    """

    def __init__(self, gates: Singles, curved: Floats, group_of: Ids, groups: int) -> None:
        """Before any channel was removed.

        Args:
            gates: t; (channels, images).
            curved: curvature of each image's loss.
            group_of: number of each channel's group.
            groups: how many there are.
        """
        self.group_of, self.groups = group_of, groups
        self._share_out(gates, curved)
        self.gained = np.zeros_like(self.slope)
        self.done = np.zeros(len(gates), np.int64)

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
        self.step_of: NDArray[np.int8] = np.empty(gates.shape, np.int8)
        np.put_along_axis(self.step_of, order, np.broadcast_to(steps, gates.shape), axis=1)
        self.slope = self._over_those_left(-gates)
        self.bend = self._over_those_left(gates**2 * (curved / 2))

    def _over_those_left(self, values: NDArray[np.floating[Any]]) -> Floats:
        """Their sum over the images left after each step, divided by the number of all images."""
        left = [self.step_of > step for step in range(LAST + 1)]
        sums = [np.where(rows, values, 0).sum(1, dtype=np.float64) for rows in left]
        over: Floats = np.stack(sums, axis=1) / np.size(self.step_of, 1)
        return over

    @property
    def is_known(self) -> NDArray[np.bool_]:
        """Which channels were removed on all images."""
        known: NDArray[np.bool_] = self.done == LAST
        return known

    def remaining(self, of_steps: Floats) -> Floats:
        """What is left of each channel, after the steps it has taken."""
        left: Floats = np.take_along_axis(of_steps, self.done[:, None], axis=1)[:, 0]
        return left

    def learn(self, share: float) -> tuple[Floats, Floats]:
        """(b, how far off this share of the forecasts is at most, in units of c), a channel.

        Of the images it has left, from what others did on the images they had left at that step:
        those of its group, and where these are few, those of all, as layers differ.
        """
        middles, off = np.empty((2, LAST + 1, self.groups))
        taught = self.surprises()
        for step in range(LAST + 1):
            middles[step], off[step] = self.learn_after(step, share, *taught)
        return middles[self.done, self.group_of], off[self.done, self.group_of]

    def surprises(self) -> tuple[Ids, Floats]:
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
        gained[:, rest] = np.where(self.is_known[taught], gained[:, rest], likewise)
        left = np.cumsum(gained[:, ::-1], axis=1)[:, ::-1]
        return taught, np.hstack([left, np.zeros((len(taught), 1))])

    def learn_after(
        self, step: int, share: float, taught: Ids, surprises: Floats
    ) -> tuple[Floats, Floats]:
        """The same after a step, a group."""
        groups = self.groups
        bends = self.bend[taught, step]
        usable = bends > 0
        if not usable.any():
            middle, deviation = UNTRIED
            reach = deviation * float(ndtri((1 + share) / 2))
            return np.full(groups, middle), np.full(groups, reach)
        ratio = surprises[usable, step] / bends[usable]
        group_of = self.group_of[taught[usable]]
        of_all = float(np.median(ratio))
        middles = np.full(groups, of_all)
        off = np.full(groups, float(np.quantile(np.abs(ratio - of_all), share)))
        for number in range(groups):
            ratios = ratio[group_of == number]
            if len(ratios):
                trust = len(ratios) / (len(ratios) + OTHERS_WEIGH)
                middles[number] += trust * (np.median(ratios) - of_all)
                reach = float(np.quantile(np.abs(ratios - middles[number]), share))
                off[number] += trust * (reach - off[number])
                off[number] *= _for_few(len(ratios) + OTHERS_WEIGH, share)
        return middles, np.maximum(off, LEAST_OFF * max(1.0, abs(of_all)))

    def values(self) -> tuple[Floats, Floats]:
        """(mean change of the loss, its deviation) of every channel, known or forecast.

        The deviation is a normal law's that has as much of it as far off: the tails are heavy.
        """
        middle, off = self.learn(HIGH)
        bend = self.remaining(self.bend)
        forecast = self.remaining(self.slope) + middle * bend
        return self.gained.sum(1) + forecast, off / float(ndtri((1 + HIGH) / 2)) * bend

    def add_changes(self, channels: Ids, losses: Floats, steps: NDArray[np.int8]) -> None:
        """Add the changes of the loss to those of the steps that they were found in."""
        for step in range(1, LAST + 1):
            gained = np.where(steps == step, losses, 0).sum(1)
            self.gained[channels, step] += gained / np.size(self.step_of, 1)
