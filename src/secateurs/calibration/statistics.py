"""What calibration data say about a network: running sums in NumPy, filled by either framework.

A framework runs the model and sees, at every operation that reads channels (a convolution, a matrix
product, attention, a sum), the very values that removing a channel would take away. Along the axis
that is read lie units, so whatever is known of each index there can be summed up for each channel:
a unit belongs to the channels that it needs to stay (a cell of heads by positions to its head and
to its position). Everything here is a sum over images, so neither memory nor the result depends on
how the images come in batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from secateurs.calibration.ablation import Ablation
from secateurs.channels.arrays import Array, Sums
from secateurs.channels.equations import ALWAYS, Ids, Solution
from secateurs.channels.network import Group, Network

Slopes = list[tuple[Ids, Array]]
"""For each consumer: its units, and h * dL/dh summed over space, of shape (images, indices)."""


@dataclass(eq=False, slots=True)
class ZeroCounts:
    """How often a layer's own activations are zero.

    Attributes:
        units: what lies along the axis of channels.
        count: values seen at each index.
        zeros: how many of them were exactly zero.
    """

    units: Ids
    count: int = 0
    zeros: Sums = field(init=False)

    def __post_init__(self) -> None:
        self.zeros = np.zeros(len(self.units))

    def add(self, count: int, zeros: Array) -> None:
        """Sums over one batch, of shape (indices,); ``count`` values at each index."""
        self.count += count
        self.zeros += zeros

    @property
    def share(self) -> float:
        """Of all values, how many are zero."""
        values = self.count * len(self.units)
        return float(self.zeros.sum()) / values if values else 0.0


@dataclass(eq=False, slots=True)
class ActivationStatistics:
    """The values that consumers read along one axis, summed up at each index.

    Consumers that read the same values count as one: the branches of a residual block, say.

    Attributes:
        layer: where they are read first.
        units: what lies along the axis.
        reader_norm: for each index, the squared norm of what all these consumers do with it: of a
            weight's slice; 1 where no weight meets it (attention, a sum).
        count: values seen at each index.
        zeros: how many of them were exactly zero.
        activations: the zeros of the activations that these values are pooled, padded or resized
            from, for each of the branches that join; none where they are read as they are.
        absolute: the sum of their absolute values.
        total: their sum.
        squares: the sum of their squares.
    """

    layer: str
    units: Ids
    reader_norm: Sums
    count: int = 0
    activations: tuple[ZeroCounts, ...] = ()
    zeros: Sums = field(init=False)
    absolute: Sums = field(init=False)
    total: Sums = field(init=False)
    squares: Sums = field(init=False)

    def __post_init__(self) -> None:
        self.zeros, self.absolute, self.total, self.squares = np.zeros((4, len(self.units)))

    def add(self, count: int, zeros: Array, absolute: Array, total: Array, squares: Array) -> None:
        """Sums over one batch, each of shape (indices,); ``count`` values at each index."""
        self.count += count
        self.zeros += zeros
        self.absolute += absolute
        self.total += total
        self.squares += squares

    @property
    def own_zeros(self) -> tuple[ZeroCounts, ...]:
        """Zeros of the layers' own activations, before any pool."""
        if self.activations:
            return self.activations
        zeros = ZeroCounts(self.units)
        zeros.add(self.count, self.zeros)
        return (zeros,)

    @property
    def variance(self) -> Sums:
        """Of the values at each index."""
        spread: Sums = np.maximum(self.squares / self.count - (self.total / self.count) ** 2, 0)
        return spread


@dataclass(eq=False, slots=True)
class Gram:
    """Products of a group's channels at one reading, summed over images and positions.

    Attributes:
        count: values of each channel.
        total: their sums, shape (channels,).
        products: sums of the products of two channels' values, shape (channels, channels).
    """

    count: int
    total: Sums
    products: Sums

    @classmethod
    def empty(cls, channels: int) -> Gram:
        """Of no image yet."""
        return cls(0, np.zeros(channels), np.zeros((channels, channels)))

    def add(self, count: int, total: Array, products: Array) -> None:
        """Sums over one batch."""
        self.count += count
        self.total += total
        self.products += products

    @property
    def centred(self) -> Sums:
        """Sums of products of deviations from each channel's mean."""
        centred: Sums = self.products - np.outer(self.total, self.total) / self.count
        return centred


class Gates:
    """How each image's loss changes with a gate on a channel, summed over images.

    A gate multiplies a channel's values at every consumer at once. The derivative of image n's loss
    with respect to the gate of channel j, at 1, is

        t_nj = sum over consumers, over the channel's indices and over space, of h * dL_n/dh

    To first order, removing the channel changes the loss by -t_nj.

    Attributes:
        images: how many were seen.
        signed: sum over images of t, for each atom.
        absolute: sum of |t|.
        squares: sum of t^2.
    """

    def __init__(self, solution: Solution) -> None:
        self._solution = solution
        self._needs: dict[int, csr_array[Any, Any]] = {}
        self._units: list[Ids] = []
        self.images = 0
        self.signed, self.absolute, self.squares = np.zeros((3, solution.count))

    def add(self, parts: Slopes) -> Sums:
        """Some images; returns t for each of them and each atom."""
        terms = self.terms(parts)
        self.images += len(terms)
        self.signed += terms.sum(axis=0)
        self.absolute += np.abs(terms).sum(axis=0)
        self.squares += np.einsum("na,na->a", terms, terms)
        return terms

    def terms(self, parts: Slopes) -> Sums:
        """T for each image and atom; shape (images, atoms)."""
        terms: Sums = np.zeros((len(parts[0][1]) if parts else 0, self._solution.count))
        for units, gates in parts:
            terms += np.asarray(gates, np.float64) @ self._needs_of(units)
        terms[:, ALWAYS] = 0
        return terms

    def _needs_of(self, units: Ids) -> csr_array[Any, Any]:
        """1 where a unit needs an atom; shape (units, atoms)."""
        if id(units) not in self._needs:
            self._units.append(units)  # keeps the id its own
            atoms = self._solution.atoms[units]
            rows, columns = np.nonzero(atoms != ALWAYS)
            entries = (np.ones(len(rows)), (rows, atoms[rows, columns]))
            self._needs[id(units)] = csr_array(entries, (len(units), self._solution.count))
        return self._needs[id(units)]


@dataclass(frozen=True, eq=False, slots=True)
class CalibrationStatistics:
    """All that was gathered in one pass over the calibration data; what was not asked for is None.

    Attributes:
        images: how many there were.
        readings: the values that consumers read, in the order of the forward pass.
        grams: group name -> one ``Gram`` for each reading of the group.
        gates: on all channels at once.
        curvature: tensor name -> the mean over images of the squared gradient of their loss.
        ablation: what the loss does when a channel is removed.
    """

    images: int = 0
    readings: tuple[ActivationStatistics, ...] | None = None
    grams: Mapping[str, tuple[Gram, ...]] | None = None
    gates: Gates | None = None
    curvature: Mapping[str, Array] | None = None
    ablation: Ablation | None = None


@dataclass(frozen=True, eq=False, slots=True)
class ChannelIndex:
    """The indices along an axis that a group's channels are.

    Attributes:
        index: indices along the axis, shape (n,); one that is part of two channels comes twice.
        channel: the channel, inside the group, that each is part of; shape (n,).
        channels: how many channels the group has.
    """

    index: Ids
    channel: Ids
    channels: int

    def __len__(self) -> int:
        return len(self.index)

    def total(self, values: Array) -> Sums:
        """The sum of what is known at each channel's indices."""
        sums: Sums = np.zeros(self.channels)
        np.add.at(sums, self.channel, values[self.index])
        return sums

    @property
    def rows(self) -> Ids | None:
        """The indices as an array (channels, indices of each); None where channels differ in it."""
        counts = np.bincount(self.channel, minlength=self.channels)
        if not len(self) or (counts != counts[0]).any():
            return None
        order = np.argsort(self.channel, kind="stable")
        return self.index[order].reshape(self.channels, -1)


def channel_index(network: Network, group: Group, units: Ids) -> ChannelIndex:
    """Where, along an axis of these units, a group's channels lie."""
    atoms = network.solution.atoms[units]
    place = np.full(network.solution.count, -1)
    place[group.channels] = np.arange(len(group))
    index, column = np.nonzero(place[atoms] >= 0)
    return ChannelIndex(index, place[atoms[index, column]], len(group))
