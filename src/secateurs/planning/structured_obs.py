"""The order in which a group's channels are removed: structured optimal brain surgery on sums.

The cost of removing a channel, after its readers are refitted without it, follows from one
inverse. With ``H = cov(u) + ridge`` of a reader's patches, its weights ``W`` and the entries ``j``
of one channel, the error rises by

    sum over outputs of a_o * W_j,o' (H^-1)_jj^-1 W_j,o,

and the reader's weights and inverse without the channel are

    W - H^-1_:j (H^-1)_jj^-1 W_j,       H^-1 - H^-1_:j (H^-1)_jj^-1 H^-1_j:.

Channels with the least error, summed over all readers of the group, are removed first, a few at a
time.

Source: Hassibi & Stork 1993; in blocks, ZipLM (Kurtic et al., NeurIPS 2023) and OSSCAR (Meng et
al., ICML 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.arrays import Floats
from secateurs.channels.equations import Ids

Complexes = NDArray[np.complexfloating]

RIDGE = 1e-3
SPECTRAL_RIDGE = 1e-2
"""Stronger, because frequencies are treated as independent although neighbours are not quite."""

PARTS = 64
"""In each step one channel in ``PARTS`` is removed, at least one."""


@dataclass(eq=False, slots=True)
class Reader:
    """One contraction that reads a group's channels.

    Attributes:
        covariance: second moment of its patches, shape (inputs, inputs).
        weights: shape (inputs, outputs), each output scaled by the root of its importance.
        entries: inputs that each channel occupies, shape (channels, entries of each).
        inverse: ``inverse_of`` the covariance, if it is known already: a layer that reads a
            concatenation reads many groups, which share one inverse.
    """

    covariance: Floats
    weights: Floats
    entries: Ids
    inverse: Floats | None = None


@dataclass(eq=False, slots=True)
class SpectralReader:
    """A convolution with a long kernel, treated frequency by frequency.

    Away from its borders a convolution multiplies spectra, so its error is a sum over frequencies
    of errors of maps that only mix channels: one matrix of the channels' size for each frequency,
    instead of one of channels times taps.

    Attributes:
        spectra: mean products of the channels' spectra, shape (frequencies, channels, channels);
            they sum to the mean square of a value.
        weights: spectra of the kernels, each output scaled by the root of its importance, shape
            (frequencies, channels, outputs).
        channels: index among these channels of each channel of the group.
    """

    spectra: Complexes
    weights: Complexes
    channels: Ids


def removal_order(
    readers: Sequence[Reader | SpectralReader], channels: int, ridge: float = RIDGE
) -> Ids:
    """Order the channels of a group by removal, the first to remove first; see ``removal_path``.

    Example:
        >>> same = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> reader = Reader(same, np.ones((3, 1)), np.arange(3)[:, None])
        >>> removal_order([reader], 3).tolist()[0] in (0, 1)  # the other can stand in for it
        True
    """
    return removal_path(readers, channels, ridge)[0]


def removal_path(
    readers: Sequence[Reader | SpectralReader], channels: int, ridge: float = RIDGE
) -> tuple[Ids, Floats]:
    """(channels of a group in the order of removal, predicted error at every width).

    Args:
        readers: all contractions that read the channels; at least one.
        channels: number of channels.
        ridge: added to each covariance's diagonal, relative to its mean.

    Returns:
        The order, and an array of channels + 1 errors: at width w, the summed costs of the channels
        removed by then; 0 at the full width.
    """
    states = [
        RemovalState.of(reader, ridge)
        if isinstance(reader, Reader)
        else SpectralRemovalState.of(reader)
        for reader in readers
    ]
    alive = np.arange(channels)
    order: list[int] = []
    errors = np.zeros(channels + 1)
    while len(alive):
        cost = np.sum([state.costs(alive) for state in states], axis=0)
        count = min(max(1, channels // PARTS), max(1, len(alive) - 1))
        going = np.argsort(cost, kind="stable")[:count]
        left = len(alive)
        errors[left - count : left] = errors[left] + np.cumsum(cost[going])[::-1]
        order += alive[going].tolist()
        if left > 1:
            for state in states:
                state.remove_(alive[going])
        alive = np.delete(alive, going)
    return np.array(order, np.int64), errors


def inverse_of(covariance: Floats, ridge: float) -> Floats:
    """Invert a covariance with a ridge, relative to the mean of its diagonal."""
    pulled = covariance.copy()
    diagonal = np.arange(len(pulled))
    pulled[diagonal, diagonal] += ridge * max(float(pulled.trace()) / len(diagonal), 1e-12)
    found: Floats = np.linalg.inv(pulled).astype(np.float64)
    return found


@dataclass(eq=False, slots=True)
class RemovalState:
    """A reader's inverse and weights without the channels removed so far."""

    inverse: Floats
    weights: Floats
    entries: Ids
    removed: NDArray[np.bool_]

    @classmethod
    def of(cls, reader: Reader, ridge: float) -> RemovalState:
        inverse = inverse_of(reader.covariance, ridge) if reader.inverse is None else reader.inverse
        # The updates of the group's own rows and columns depend on no other entries.
        at = reader.entries.ravel()
        positions = np.arange(at.size).reshape(reader.entries.shape)
        return cls(inverse[np.ix_(at, at)], reader.weights[at], positions, np.zeros(at.size, bool))

    def costs(self, channels: Ids) -> Floats:
        at = self.entries[channels]
        blocks = self.inverse[at[:, :, None], at[:, None]]
        rows = self.weights[at]
        # With few entries and many outputs, products of rows are far smaller than the rows.
        products = rows @ rows.transpose(0, 2, 1)
        costs: Floats = (products * np.linalg.inv(blocks)).sum(axis=(1, 2))
        return np.maximum(costs, 0)

    def remove_(self, channels: Ids) -> None:
        at = self.entries[channels].ravel()
        rows = self.inverse[at]
        step = np.linalg.solve(rows[:, at], rows).T
        self.weights -= step @ self.weights[at]
        self.inverse -= step @ rows
        self.removed[at] = True
        if 2 * np.count_nonzero(self.removed) > len(self.removed):
            self._shrink()

    def _shrink(self) -> None:
        kept, self.entries = _places_left(self.removed, self.entries)
        self.inverse, self.weights = self.inverse[np.ix_(kept, kept)], self.weights[kept]
        self.removed = np.zeros(len(kept), bool)


@dataclass(eq=False, slots=True)
class SpectralRemovalState:
    """The same at each frequency, where a channel has a single entry."""

    inverse: Complexes
    weights: Complexes
    channels: Ids
    removed: NDArray[np.bool_]

    @classmethod
    def of(cls, reader: SpectralReader, ridge: float = SPECTRAL_RIDGE) -> SpectralRemovalState:
        spectra = reader.spectra
        diagonal = np.arange(spectra.shape[1])
        mean = float(spectra[:, diagonal, diagonal].real.mean())
        inverse = np.empty_like(spectra)
        for place, products in enumerate(spectra):  # one by one, to avoid a second large copy
            pulled = products.copy()
            pulled[diagonal, diagonal] += ridge * max(mean, 1e-12)
            inverse[place] = np.linalg.inv(pulled)
        removed = np.zeros(len(diagonal), bool)
        return cls(inverse, reader.weights.copy(), reader.channels, removed)

    def costs(self, channels: Ids) -> Floats:
        at = self.channels[channels]
        squares = np.square(np.abs(self.weights[:, at])).sum(axis=2)
        costs: Floats = (squares / np.maximum(self.inverse[:, at, at].real, 1e-30)).sum(axis=0)
        return costs.astype(np.float64)

    def remove_(self, channels: Ids) -> None:
        at = self.channels[channels]
        for place, inverse in enumerate(self.inverse):
            columns = inverse[:, at]
            step = columns @ np.linalg.inv(columns[at])
            self.weights[place] -= step @ self.weights[place][at]
            self.inverse[place] -= step @ inverse[at]
        # Entries of removed channels hold rounding errors only, and are never read again.
        self.removed[at] = True
        if 2 * np.count_nonzero(self.removed) > len(self.removed):
            kept, self.channels = _places_left(self.removed, self.channels)
            self.inverse = np.ascontiguousarray(self.inverse[:, kept[:, None], kept])
            self.weights = np.ascontiguousarray(self.weights[:, kept])
            self.removed = np.zeros(len(kept), bool)


def _places_left(removed: NDArray[np.bool_], entries: Ids) -> tuple[Ids, Ids]:
    """(kept indices, positions of entries among them), so that later updates get cheaper."""
    kept = np.flatnonzero(~removed)
    place = np.zeros(len(removed), np.int64)
    place[kept] = np.arange(len(kept))
    return kept, place[entries]  # entries of removed channels are never read
