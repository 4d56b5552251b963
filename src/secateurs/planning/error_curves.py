"""What each group's loss of fidelity is at every width, measured without labels.

One group at a time is cut to some widths; its readers are refitted on the sums at hand, and the
whole network answers on images that those sums have not seen. In between widths, the square root of
the loss is taken to be straight (a divergence grows with the square of what is changed), and a
curve never falls as channels go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.calibration.least_squares import Moments, Sums, solve
from secateurs.calibration.statistics import channel_index
from secateurs.channels.equations import Ids
from secateurs.channels.network import Group, Network
from secateurs.planning.structured_obs import (
    Complexes,
    Reader,
    SpectralReader,
    removal_order,
)

Floats = NDArray[np.float64]

SHARES = (7 / 8, 3 / 4, 5 / 8, 1 / 2, 3 / 8, 1 / 4, 3 / 16, 1 / 8, 1 / 16)
"""Of the channels, at which the loss is measured."""

FEWER_SHARES = (3 / 4, 1 / 2, 1 / 4, 1 / 8)
"""Where measuring takes long."""

RIDGE = 1e-2
FEW = 4
"""Up to one input in so many is taken out of an inverse; for more, the rest is solved anew."""


@dataclass(frozen=True, eq=False, slots=True)
class Contraction:
    """A contraction that reads channels, with the sums of its patches on the dense network.

    Attributes:
        weight: the name of its weight.
        units: what lies along the axis that it reads.
        taps: how many inputs each index of that axis makes.
        moments: of its patches and of what it gives; where patches are too wide, of the values at
            each index alone (``mixes``).
        matrix: its weights, shape (1, inputs, outputs); where it mixes, the outputs of each tap.
        importance: how much each output matters, shape (outputs,).
        changes: (new matrix, change of the mean output) -> tensor name -> its new values.
        mixes: whether every tap is to be refitted by the same mixing of channels.
        fold: where the axis is channels by positions, its indices as (channels, positions).
        refit: in place of refits on the sums: indices of the axis that go -> tensor name -> its new
            values; None goes by the sums.
    """

    weight: str
    units: Ids
    taps: int
    moments: Moments
    matrix: Sums
    importance: Floats
    changes: Callable[[Sums, Floats], Mapping[str, NDArray[Any]]]
    mixes: bool = False
    fold: Ids | None = None
    refit: Callable[[Ids], Mapping[str, NDArray[Any]]] | None = None
    spectra: tuple[Complexes, Complexes] | None = None
    _inverse: list[Sums] = field(default_factory=list)

    def entries(self, network: Network, group: Group) -> Ids | None:
        """Where a group's channels lie among the inputs, (channels, entries of each), or None."""
        part = channel_index(network, group, self.units)
        if not len(part) or (rows := part.rows) is None:
            return None
        if self.fold is not None:
            same = rows.shape == self.fold.shape and np.array_equal(rows, self.fold)
            return np.arange(len(group))[:, None] if same else None
        if self.mixes:
            return rows
        spread: Ids = rows[:, :, None] * self.taps + np.arange(self.taps)
        return spread.reshape(len(rows), -1)

    def ablate(self, gone: Ids) -> Mapping[str, NDArray[Any]]:
        """The tensors that change when these inputs go and the rest is refitted."""
        if self.refit is not None:
            return self.refit(gone)
        inputs = self.matrix.shape[1]
        refitted = np.zeros_like(self.matrix)
        if FEW * len(gone) < inputs:
            refitted[0] = self._downdate(gone)
        else:
            stays = np.ones(inputs, bool)
            stays[gone] = False
            kept = np.flatnonzero(stays)
            fitted = solve(self.moments.of_inputs(kept), self.matrix[:, kept], RIDGE)
            refitted[:, kept] = fitted
        missing = self.moments.intercept(refitted) - self.moments.intercept(self.matrix)
        return self.changes(refitted, missing[0])

    def _downdate(self, gone: Ids) -> Sums:
        """The refit from one inverse of all inputs: cheap where few of them go."""
        if not self._inverse:
            covariance = self.moments.uu[0] / self.moments.rows
            diagonal = np.arange(len(covariance))
            covariance[diagonal, diagonal] += RIDGE * self.moments.scale[0]
            self._inverse.append(np.linalg.inv(covariance))
        rows = self._inverse[0][gone]
        found: Sums = self.matrix[0] - rows.T @ np.linalg.solve(rows[:, gone], self.matrix[0][gone])
        found[gone] = 0
        return found


@dataclass(frozen=True, eq=False, slots=True)
class Trial:
    """One group cut to one width.

    Attributes:
        group: its name.
        width: how many channels stay.
        removed: the atoms that go.
        weights: the names of the tensors that may change.
        changes: makes them: tensor name -> new values.
    """

    group: str
    width: int
    removed: Ids
    weights: tuple[str, ...]
    changes: Callable[[], Mapping[str, NDArray[Any]]]


def orders_of(
    network: Network, contractions: Sequence[Contraction], fallback: Mapping[str, Floats]
) -> dict[str, Ids]:
    """Group -> its channels, the first to go first.

    Args:
        network: as traced.
        contractions: with their sums.
        fallback: scores, by which groups are ordered that no contraction reads by itself.
    """
    orders = {}
    for group in network.groups:
        readers = [
            _reader(one, entries)
            for one in contractions
            if (entries := one.entries(network, group)) is not None
        ]
        if readers:
            orders[group.name] = removal_order(readers, len(group))
        else:
            orders[group.name] = np.argsort(fallback[group.name], kind="stable")
    return orders


def _reader(one: Contraction, entries: Ids) -> Reader | SpectralReader:
    if one.spectra is not None and entries.shape[1] == 1:
        spectra, kernels = one.spectra
        return SpectralReader(spectra, kernels * np.sqrt(one.importance), entries[:, 0])
    return Reader(one.moments.uu[0] / one.moments.rows, _weigh(one), entries)


def _weigh(one: Contraction) -> Floats:
    importance = np.tile(one.importance, one.taps) if one.mixes else one.importance
    weighed: Floats = one.matrix[0] * np.sqrt(importance)
    return weighed


def trials_of(
    network: Network,
    contractions: Sequence[Contraction],
    orders: Mapping[str, Ids],
    shares: Sequence[float] = SHARES,
) -> Iterator[Trial]:
    """Each group alone, cut to each of the shares of its channels."""
    for group in network.groups:
        readers = [
            (one, entries)
            for one in contractions
            if (entries := one.entries(network, group)) is not None
        ]
        for width in widths_of(len(group), shares):
            gone = orders[group.name][: len(group) - width]
            yield Trial(
                group.name,
                width,
                group.channels[gone],
                tuple(one.weight for one, _ in readers),
                _Changes(readers, gone),
            )


def widths_of(channels: int, shares: Sequence[float]) -> list[int]:
    """The widths to measure, none twice, and never all channels."""
    return sorted({max(1, round(share * channels)) for share in shares} - {channels}, reverse=True)


@dataclass(frozen=True, eq=False, slots=True)
class _Changes:
    """Refits all readers of a group without some of its channels."""

    readers: Sequence[tuple[Contraction, Ids]]
    gone: Ids

    def __call__(self) -> dict[str, NDArray[Any]]:
        changed: dict[str, NDArray[Any]] = {}
        for one, entries in self.readers:
            changed.update(one.ablate(entries[self.gone].ravel()))
        return changed


def curves_from(network: Network, measured: Mapping[str, Mapping[int, float]]) -> dict[str, Floats]:
    """Group -> its loss at every width from 0 to all of its channels, never rising.

    Args:
        network: as traced.
        measured: group -> width -> loss.

    Widths below the least that was measured cost as much as that one and, straight on, more.
    """
    curves = {}
    for group in network.groups:
        points = {len(group): 0.0, **measured.get(group.name, {})}
        widths = np.array(sorted(points))
        losses = np.array([points[int(width)] for width in widths])
        losses = np.where(np.isfinite(losses), losses, 1e6)
        losses = np.maximum.accumulate(np.maximum(losses, 0)[::-1])[::-1]
        roots = np.interp(np.arange(len(group) + 1), widths, np.sqrt(losses))
        if len(widths) > 1:
            slope = np.sqrt(losses[0]) - np.sqrt(losses[1])
            below = np.maximum(widths[0] - np.arange(len(group) + 1), 0)
            roots = roots + below * slope / (widths[1] - widths[0])
        curves[group.name] = np.square(roots)
    return curves
