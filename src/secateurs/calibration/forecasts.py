"""Forecasts of the loss change when a channel is removed, from one backward pass.

For every channel and image there is the derivative t of the loss with respect to the channel's
gate. The forecast of removing the channel is -t + b c, where c is t^2 / 2 times the loss's
curvature (see ``curvature``); b, and how far such forecasts are off, are learned from channels that
were actually removed. A channel goes through its images in steps: first those of the largest t^2,
which are few and hold most of the uncertainty, then a sample of the others, then all. After each
step the forecast stands in for the images that remain; step 0 is before any removal.
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
"""Shares of the images in an uncertain channel's first steps, by falling t^2."""

ONE_IN = 4
"""One in ``ONE_IN`` of the other images is the next step, as a sample of them; then come all."""

SAMPLED = len(STEEPEST) + 1
LAST = SAMPLED + 1

UNTRIED = (1.0, 0.5)
"""(b, deviation of forecasts in units of c) before any channel was removed."""

SUREST, LEAST_SURE = 1e-6, 50.0
"""Cross-entropies are clipped to this range."""

HIGH = 0.9
"""Quantile of the absolute errors from which a standard deviation is derived."""

LEAST_OFF = 0.03
"""Least deviation: errors that agree by chance are not believed to be smaller."""

OTHERS_WEIGH = 3
"""Shrinkage: with this many samples a group's own estimate gets weight 1/2."""


def curvature(losses: Floats) -> Floats:
    """Second derivative of each image's cross-entropy, relative to its squared slope.

    With the probability p = exp(-L) of the image's class, its margin m over the other classes taken
    as one, and L = log(1 + exp(-m)): dL/dm = -(1 - p), and d2L/dm2 = p (1 - p) =
    (dL/dm)^2 p / (1 - p).
    """
    known: Floats = 1 / np.expm1(np.clip(losses, SUREST, LEAST_SURE))
    return known


def _student_ratio(number: int, share: float) -> float:
    """Ratio of Student's t quantile, estimated from this few samples, to the normal one."""
    level = (1 + share) / 2
    return float(stdtrit(number - 1, level) / ndtri(level))


class Forecasts:
    """Forecasts of all channels, and what removing some of them has shown.

    Attributes:
        group_of: index of each channel's group, shape (channels,).
        step_of: step in which each image is taken, shape (channels, images).
        slope: sum of -t over the images left after each step, shape (channels, 1 + steps). This
            and the next two are divided by the number of all images.
        bend: sum of c over the same images.
        gained: change of the loss on the images of each step taken, shape (channels, 1 + steps).
        done: number of steps that each channel has taken, shape (channels,).
    """

    def __init__(self, gates: Singles, curved: Floats, group_of: Ids, groups: int) -> None:
        """Start before any channel was removed.

        Args:
            gates: t, shape (channels, images).
            curved: curvature of each image's loss, shape (images,).
            group_of: index of each channel's group, shape (channels,).
            groups: number of groups.
        """
        self.group_of, self.groups = group_of, groups
        self._assign_steps(gates, curved)
        self.gained = np.zeros_like(self.slope)
        self.done = np.zeros(len(gates), np.int64)

    def _assign_steps(self, gates: Singles, curved: Floats) -> None:
        """Assign each channel's images to steps.

        Args:
            gates: t, shape (channels, images).
            curved: curvature of each image's loss, shape (images,).
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
        self.slope = self._sum_over_remaining(-gates)
        self.bend = self._sum_over_remaining(gates**2 * (curved / 2))

    def _sum_over_remaining(self, values: NDArray[np.floating[Any]]) -> Floats:
        """Sum over the images left after each step, divided by the number of all images."""
        left = [self.step_of > step for step in range(LAST + 1)]
        sums = [np.where(rows, values, 0).sum(1, dtype=np.float64) for rows in left]
        over: Floats = np.stack(sums, axis=1) / np.size(self.step_of, 1)
        return over

    @property
    def is_known(self) -> NDArray[np.bool_]:
        """Mask of the channels that were removed on all images."""
        known: NDArray[np.bool_] = self.done == LAST
        return known

    def remaining(self, of_steps: Floats) -> Floats:
        """Values that apply to each channel after the steps it has taken."""
        left: Floats = np.take_along_axis(of_steps, self.done[:, None], axis=1)[:, 0]
        return left

    def learn(self, share: float) -> tuple[Floats, Floats]:
        """(b, quantile ``share`` of the forecast error in units of c), for each channel.

        For the images that a channel has left, these are learned from what others did on the images
        they had left at that step: channels of its group and, where those are few, of all groups,
        because layers differ.
        """
        middles, off = np.empty((2, LAST + 1, self.groups))
        taught = self.surprises()
        for step in range(LAST + 1):
            middles[step], off[step] = self.learn_after(step, share, *taught)
        return middles[self.done, self.group_of], off[self.done, self.group_of]

    def surprises(self) -> tuple[Ids, Floats]:
        """(channels, forecast residuals on the images that they had left after each step).

        Only channels removed at least on the sample are used; the sample then stands for all the
        images that it was drawn from.
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
        """``learn`` for one step, by group."""
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
                off[number] *= _student_ratio(len(ratios) + OTHERS_WEIGH, share)
        return middles, np.maximum(off, LEAST_OFF * max(1.0, abs(of_all)))

    def values(self) -> tuple[Floats, Floats]:
        """(mean change of the loss, its deviation) of every channel, measured or forecast.

        The deviation is that of a normal distribution with the same quantile ``HIGH``, because the
        errors have heavy tails.
        """
        middle, off = self.learn(HIGH)
        bend = self.remaining(self.bend)
        forecast = self.remaining(self.slope) + middle * bend
        return self.gained.sum(1) + forecast, off / float(ndtri((1 + HIGH) / 2)) * bend

    def add_changes(self, channels: Ids, losses: Floats, steps: NDArray[np.int8]) -> None:
        """Add changes of the loss to the steps in which they were measured."""
        for step in range(1, LAST + 1):
            gained = np.where(steps == step, losses, 0).sum(1)
            self.gained[channels, step] += gained / np.size(self.step_of, 1)
