"""Running sums over calibration data, in NumPy, filled by either framework.

A framework runs the model and sees, at every operation that reads channels (a convolution, a matrix
product, attention, a sum), the values that removing a channel would remove. Every index along the
axis that is read is a unit, so statistics of each index can be summed for each channel: a unit
belongs to the channels that it needs (a cell of heads by positions to its head and to its
position). Everything here is a sum over images, so neither memory nor the result depends on the
batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from scipy.sparse import csr_array

from secateurs.calibration.ablation import Ablation
from secateurs.calibration.peers import Peers
from secateurs.channels.arrays import Array, Sums
from secateurs.channels.equations import ALWAYS, Ids, Solution
from secateurs.channels.network import Group, Network

Slopes = list[tuple[Ids, Array]]
"""For each consumer: its units, and h * dL/dh summed over space, shape (images, indices)."""


@dataclass(eq=False, slots=True)
class ZeroCounts:
    """Counts of zeros in a layer's own activations.

    Attributes:
        units: units along the axis of channels.
        count: number of values at each index.
        zeros: number of exact zeros at each index, shape (indices,).
    """

    SUMS: ClassVar = ("count", "zeros")

    units: Ids
    count: int = 0
    zeros: Sums = field(init=False)

    def __post_init__(self) -> None:
        self.zeros = np.zeros(len(self.units))

    def add(self, count: int, zeros: Array) -> None:
        """Add one batch: ``zeros`` of shape (indices,), out of ``count`` values at each index."""
        self.count += count
        self.zeros += zeros

    @property
    def share(self) -> float:
        """Share of all values that are zero."""
        values = self.count * len(self.units)
        return float(self.zeros.sum()) / values if values else 0.0


@dataclass(eq=False, slots=True)
class ActivationStatistics:
    """Sums of the values that consumers read along one axis, at each index.

    Consumers that read the same values count as one, such as the branches of a residual block.

    Attributes:
        layer: layer that reads them first.
        units: units along the axis.
        reader_norm: for each index, the squared norm of the slices of all consumers' weights; 1
            where no weight meets it (attention, a sum).
        count: number of values at each index.
        zeros: number of exact zeros, shape (indices,).
        activations: zeros of the activations that these values are pooled, padded or resized from,
            for each branch that joins; () if they are read as they are.
        absolute: sum of their absolute values, shape (indices,).
        total: their sum, shape (indices,).
        squares: sum of their squares, shape (indices,).
    """

    SUMS: ClassVar = ("count", "zeros", "absolute", "total", "squares")

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
        """Add one batch's sums, each of shape (indices,), over ``count`` values at each index."""
        self.count += count
        self.zeros += zeros
        self.absolute += absolute
        self.total += total
        self.squares += squares

    @property
    def own_zeros(self) -> tuple[ZeroCounts, ...]:
        """Zeros of the layers' own activations, before any pooling."""
        if self.activations:
            return self.activations
        zeros = ZeroCounts(self.units)
        zeros.add(self.count, self.zeros)
        return (zeros,)

    @property
    def variance(self) -> Sums:
        """Variance of the values at each index, shape (indices,)."""
        spread: Sums = np.maximum(self.squares / self.count - (self.total / self.count) ** 2, 0)
        return spread


GRAM_ROWS = 512
"""Number of rows of a Gram matrix computed at a time."""


class Gram:
    """Products of a group's channels at one reading, summed over images and positions.

    Fewer values than channels are held as they are: a matrix of all pairs of 16,384 channels takes
    2.1 GB, their values on 256 images 34 MB.

    Attributes:
        count: number of values of each channel.
        total: sums of the values, shape (channels,).
    """

    SUMS: ClassVar = ("count", "total", "products")

    def __init__(self, count: int, total: Sums, products: Sums | None = None) -> None:
        self.count = count
        self.total = total
        self._products = products
        self._values: list[Array] = []

    @classmethod
    def empty(cls, channels: int) -> Gram:
        """Sums over no images."""
        return cls(0, np.zeros(channels))

    @property
    def products(self) -> Sums:
        """Sums of the products of two channels' values, shape (channels, channels)."""
        if self._products is None:
            self._products = np.zeros((len(self.total), len(self.total)))
            for values in self._values:
                self._add_rows(self._products, partial(_products_of, values))
            self._values.clear()
        return self._products

    @products.setter
    def products(self, products: Sums) -> None:
        self._products = products
        self._values.clear()

    def has_room_for(self, count: int) -> bool:
        """Whether the values, with as many more, are fewer than the products."""
        return self._products is None and self.count + count < len(self.total)

    def add_values(self, values: Array) -> None:
        """Add one batch's values, shape (values, channels)."""
        if self.has_room_for(len(values)):
            self._values.append(np.asarray(values, np.float64))
        else:
            self._add_rows(self.products, partial(_products_of, values))
        self.count += len(values)
        self.total += values.sum(0)

    def add(self, count: int, total: Array, products: Array | Callable[[slice], Array]) -> None:
        """Add one batch's sums; of the products all, or a function that computes some rows."""
        rows_of = products if callable(products) else products.__getitem__
        self._add_rows(self.products, rows_of)
        self.count += count
        self.total += total

    @staticmethod
    def _add_rows(products: Sums, rows_of: Callable[[slice], Array]) -> None:
        for start in range(0, len(products), GRAM_ROWS):
            rows = slice(start, start + GRAM_ROWS)
            products[rows] += rows_of(rows)

    @property
    def centred(self) -> Sums:
        """Sums of products of deviations from each channel's mean, shape (channels, channels)."""
        return self.centred_rows(slice(None))

    def centred_rows(self, rows: Ids | slice) -> Sums:
        """Some rows of ``centred``, shape (rows, channels)."""
        if self._products is None:
            found: Sums = np.zeros((len(self.total[rows]), len(self.total)))
            for values in self._values:
                found += values[:, rows].T @ values
        else:
            found = self._products[rows].copy()
        found -= np.outer(self.total[rows], self.total / max(self.count, 1))
        return found

    @property
    def centred_squares(self) -> Sums:
        """Sums of squared deviations from each channel's mean, shape (channels,)."""
        if self._products is None:
            squares = sum((np.einsum("nc,nc->c", v, v) for v in self._values), 0 * self.total)
        else:
            squares = np.diag(self._products)
        found: Sums = squares - self.total**2 / max(self.count, 1)
        return found


def _products_of(values: Array, rows: slice) -> Array:
    products: Array = values[:, rows].T @ values
    return products


class Gates:
    """Derivatives of the loss with respect to gates on channels, summed over images.

    A gate multiplies a channel's values at every consumer at once. The derivative of image n's loss
    with respect to the gate of channel j, at 1, is

        t_nj = sum over consumers, over the channel's indices and over space, of h * dL_n/dh

    To first order, removing the channel changes the loss by -t_nj.

    Attributes:
        images: number of images.
        signed: sum over images of t, shape (atoms,).
        absolute: sum of |t|, shape (atoms,).
        squares: sum of t^2, shape (atoms,).
    """

    SUMS: ClassVar = ("images", "signed", "absolute", "squares")

    def __init__(self, solution: Solution) -> None:
        self._solution = solution
        self._needs: dict[int, csr_array[Any, Any]] = {}
        self._units: list[Ids] = []
        self.images = 0
        self.signed, self.absolute, self.squares = np.zeros((3, solution.count))

    def add(self, parts: Slopes) -> Sums:
        """Add some images; returns t, shape (images, atoms)."""
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
        """Sparse matrix with 1 where a unit needs an atom, shape (units, atoms)."""
        if id(units) not in self._needs:
            self._units.append(units)  # keeps the array alive, so that its id stays unique
            atoms = self._solution.atoms[units]
            rows, columns = np.nonzero(atoms != ALWAYS)
            entries = (np.ones(len(rows)), (rows, atoms[rows, columns]))
            self._needs[id(units)] = csr_array(entries, (len(units), self._solution.count))
        return self._needs[id(units)]


@dataclass(frozen=True, eq=False, slots=True)
class CalibrationStatistics:
    """Everything collected in one pass over the calibration data; None if not requested.

    Attributes:
        images: number of images.
        readings: statistics of the values that consumers read, in the order of the forward pass.
        grams: group name -> one ``Gram`` for each reading of the group.
        gates: gradients with respect to gates on all channels.
        curvature: tensor name -> mean over images of the squared gradient of their loss.
        ablation: change of the loss when each channel is removed.
    """

    images: int = 0
    readings: tuple[ActivationStatistics, ...] | None = None
    grams: Mapping[str, tuple[Gram, ...]] | None = None
    gates: Gates | None = None
    curvature: Mapping[str, Array] | None = None
    ablation: Ablation | None = None

    def total_over(self, peers: Peers) -> CalibrationStatistics:
        """The statistics over the images of all processes; this object's own sums are replaced.

        Every process must have collected the same kinds of statistics, from at least one image.
        """
        if peers.count == 1:
            return self
        places = [(holder, name) for holder in self._holders() for name in holder.SUMS]
        totals = peers.total([np.asarray(getattr(holder, name)) for holder, name in places])
        for (holder, name), total in zip(places, totals, strict=True):
            setattr(holder, name, total if total.ndim else int(total))
        images = int(peers.total([np.array(self.images)])[0])
        return replace(
            self,
            images=images,
            curvature=None if self.curvature is None else self._mean_curvature(peers, images),
            ablation=None if self.ablation is None else self.ablation.total_over(peers),
        )

    def _holders(self) -> Iterator[Any]:
        """Everything that holds sums over images, in the same order in every process."""
        for reading in self.readings or ():
            yield reading
            yield from reading.activations
        for name in sorted(self.grams or {}):
            yield from (self.grams or {})[name]
        if self.gates is not None:
            yield self.gates

    def _mean_curvature(self, peers: Peers, images: int) -> dict[str, Array]:
        known = self.curvature or {}
        totals = peers.total([self.images * known[name] for name in sorted(known)])
        return {name: total / images for name, total in zip(sorted(known), totals, strict=True)}


@dataclass(frozen=True, eq=False, slots=True)
class ChannelIndex:
    """Indices along an axis that belong to a group's channels.

    Attributes:
        index: indices along the axis, shape (n,); one that belongs to two channels appears twice.
        channel: channel of each index, numbered inside the group, shape (n,).
        channels: number of channels in the group.
    """

    index: Ids
    channel: Ids
    channels: int

    def __len__(self) -> int:
        return len(self.index)

    def total(self, values: Array) -> Sums:
        """Sum values at each channel's indices, shape (channels,)."""
        sums: Sums = np.zeros(self.channels)
        np.add.at(sums, self.channel, values[self.index])
        return sums

    @property
    def rows(self) -> Ids | None:
        """Indices as an array (channels, indices of each); None if channels have unequal counts."""
        counts = np.bincount(self.channel, minlength=self.channels)
        if not len(self) or (counts != counts[0]).any():
            return None
        order = np.argsort(self.channel, kind="stable")
        return self.index[order].reshape(self.channels, -1)


def channel_index(network: Network, group: Group, units: Ids) -> ChannelIndex:
    """Find a group's channels along an axis with these units."""
    atoms = network.solution.atoms[units]
    place = np.full(network.solution.count, -1)
    place[group.channels] = np.arange(len(group))
    index, column = np.nonzero(place[atoms] >= 0)
    return ChannelIndex(index, place[atoms[index, column]], len(group))
