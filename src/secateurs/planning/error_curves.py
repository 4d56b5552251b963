"""Loss of fidelity of each group at every width, measured without labels.

One group at a time is cut to several widths, its readers are refitted on the sums already
collected, and the whole network's outputs are compared on held-out images. Between measured widths
the square root of the loss is interpolated linearly (a divergence grows with the square of a small
change), and curves are made monotonic.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.calibration.least_squares import Moments, Solver
from secateurs.calibration.statistics import channel_index
from secateurs.channels.arrays import Floats, Sums
from secateurs.channels.equations import Ids
from secateurs.channels.network import Group, Network
from secateurs.planning.structured_obs import RIDGE as RIDGE_OF_ORDERS
from secateurs.planning.structured_obs import (
    Complexes,
    Reader,
    SpectralReader,
    inverse_of,
    removal_path,
)

SHARES = (7 / 8, 3 / 4, 5 / 8, 1 / 2, 3 / 8, 1 / 4, 3 / 16, 1 / 8, 1 / 16)
"""Shares of a group's channels at which its loss is measured."""

FEWER_SHARES = (3 / 4, 1 / 2, 1 / 4, 1 / 8)
"""Shares where measuring takes long."""

FEWEST_SHARES = (1 / 2, 1 / 8)
"""Shares where measuring takes so long that not even every group is measured. The losses predicted
by the removal order then give the shape of a curve, and these points calibrate its scale."""

RIDGE = 1e-2
FEW = 4
"""If less than one input in ``FEW`` is removed, the inverse is downdated; else solved anew."""


@dataclass(frozen=True, eq=False, slots=True)
class MeasuredContraction:
    """A contraction that reads channels, with the sums of its patches in the dense network.

    Attributes:
        weight: name of its weight.
        units: units along the axis that it reads.
        taps: number of inputs for each index of that axis (a kernel's size).
        moments: sums of its patches; where those are too wide, of the values at each index alone
            (``mixes``). Moments of its outputs are not among them; they follow from its weights.
        matrix: its weights, shape (1, inputs, outputs); where it mixes, the outputs of each tap.
        importance: weight of each output in the error, shape (outputs,).
        changes: (new matrix, change of the mean output) -> tensor name -> its new values.
        mixes: whether all taps are refitted by one common mixing of channels.
        fold: where the axis is channels by positions, its indices, shape (channels, positions).
        refit: if given, replaces refits on the sums: removed indices of the axis -> tensor name ->
            new values.
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
    _inverses: dict[float, Floats] = field(default_factory=dict)

    def entries(self, network: Network, group: Group) -> Ids | None:
        """Inputs that a group's channels occupy, shape (channels, entries of each), or None."""
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

    @property
    def covariance(self) -> Floats:
        """Covariance (second moment) of its patches, shape (inputs, inputs)."""
        found: Floats = self.moments.uu[0] / self.moments.rows
        return found

    def inverse(self, ridge: float) -> Floats:
        """Inverse of the covariance with this ridge; cached for all groups that it reads."""
        if ridge not in self._inverses:
            self._inverses[ridge] = inverse_of(self.covariance, ridge)
        return self._inverses[ridge]

    def ablate(self, gone: Ids) -> Mapping[str, NDArray[Any]]:
        """Tensors that change when these inputs are removed and the rest is refitted."""
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
            solve = Solver(self.moments.of_inputs(kept), self.matrix[:, kept], RIDGE)
            refitted[:, kept] = solve(self.moments.uu[:, kept] @ self.matrix)
        missing = self.moments.mean_u[0] @ (self.matrix[0] - refitted[0])
        return self.changes(refitted, missing)

    def _downdate(self, gone: Ids) -> Sums:
        """The refit from one inverse for all inputs: cheap where few are removed."""
        rows = self.inverse(RIDGE)[gone]
        found: Sums = self.matrix[0] - rows.T @ np.linalg.solve(rows[:, gone], self.matrix[0][gone])
        found[gone] = 0
        return found


@dataclass(frozen=True, eq=False, slots=True)
class GroupTrial:
    """One group cut to one width.

    Attributes:
        group: name of the group.
        width: number of kept channels.
        removed: removed atoms.
        weights: names of the tensors that may change.
        changes: function that computes them: tensor name -> new values.
    """

    group: str
    width: int
    removed: Ids
    weights: tuple[str, ...]
    changes: Callable[[], Mapping[str, NDArray[Any]]]


def orders_of(
    network: Network, contractions: Sequence[MeasuredContraction], fallback: Mapping[str, Floats]
) -> tuple[dict[str, Ids], dict[str, Floats]]:
    """(group -> its channels in the order of removal; group -> predicted loss at every width).

    There is no prediction for a group that no contraction reads by itself.

    Args:
        network: as traced.
        contractions: contractions with their sums.
        fallback: scores that order the groups which no contraction reads by itself.
    """
    orders, foreseen = {}, {}
    for group in network.groups:
        readers = [
            _reader(one, entries)
            for one in contractions
            if (entries := one.entries(network, group)) is not None
        ]
        if readers:
            orders[group.name], foreseen[group.name] = removal_path(readers, len(group))
        else:
            orders[group.name] = np.argsort(fallback[group.name], kind="stable")
    return orders, foreseen


def _reader(one: MeasuredContraction, entries: Ids) -> Reader | SpectralReader:
    if one.spectra is not None and entries.shape[1] == 1:
        spectra, kernels = one.spectra
        weighed = kernels * np.sqrt(one.importance).astype(kernels.real.dtype)
        return SpectralReader(spectra, weighed, entries[:, 0])
    return Reader(one.covariance, _weigh(one), entries, one.inverse(RIDGE_OF_ORDERS))


def _weigh(one: MeasuredContraction) -> Floats:
    importance = np.tile(one.importance, one.taps) if one.mixes else one.importance
    weighed: Floats = one.matrix[0] * np.sqrt(importance)
    return weighed


def trials_of(
    network: Network,
    contractions: Sequence[MeasuredContraction],
    orders: Mapping[str, Ids],
    shares: Sequence[float] = SHARES,
    chosen: Collection[str] | None = None,
) -> Iterator[GroupTrial]:
    """Yield each (chosen) group alone, cut to each of these shares of its channels."""
    for group in network.groups:
        if chosen is not None and group.name not in chosen:
            continue
        readers = [
            (one, entries)
            for one in contractions
            if (entries := one.entries(network, group)) is not None
        ]
        for width in widths_of(len(group), shares):
            gone = orders[group.name][: len(group) - width]
            yield GroupTrial(
                group.name,
                width,
                group.channels[gone],
                tuple(one.weight for one, _ in readers),
                _Changes(readers, gone),
            )


def widths_of(channels: int, shares: Sequence[float]) -> list[int]:
    """Widths to measure: distinct, and never all channels."""
    return sorted({max(1, round(share * channels)) for share in shares} - {channels}, reverse=True)


@dataclass(frozen=True, eq=False, slots=True)
class _Changes:
    """Refit all readers of a group without some of its channels."""

    readers: Sequence[tuple[MeasuredContraction, Ids]]
    gone: Ids

    def __call__(self) -> dict[str, NDArray[Any]]:
        changed: dict[str, NDArray[Any]] = {}
        for one, entries in self.readers:
            changed.update(one.ablate(entries[self.gone].ravel()))
        return changed


def curves_from(
    network: Network,
    measured: Mapping[str, Mapping[int, float]],
    foreseen: Mapping[str, Floats] | None = None,
) -> dict[str, Floats]:
    """Group -> its loss at every width from 0 to all of its channels, non-increasing.

    Args:
        network: as traced.
        measured: group -> width -> loss.
        foreseen: group -> loss at every width as predicted by ``orders_of``, for groups measured at
            fewer than three widths, or not at all; None where all were measured at more.

    Below the least measured width, the square root of the loss is extrapolated linearly.
    """
    factors = _factors(network, measured, foreseen or {})
    curves = {}
    for group in network.groups:
        points = measured.get(group.name, {})
        if group.name in factors:
            curves[group.name] = _falling(foreseen_by(foreseen, group) * factors[group.name])
        else:
            curves[group.name] = _through(points, len(group))
    return curves


def foreseen_by(foreseen: Mapping[str, Floats] | None, group: Group) -> Floats:
    """A group's predicted loss, kept above 0 except at its full width."""
    found = (foreseen or {})[group.name]
    least: Floats = np.maximum(found, 1e-9 * max(float(found.max()), 1e-30))
    least[-1] = 0.0
    return least


def _through(points: Mapping[int, float], channels: int) -> Floats:
    """A curve through the measured points, linear in the square root of the loss."""
    points = {channels: 0.0, **points}
    widths = np.array(sorted(points))
    losses = _falling(np.array([points[int(width)] for width in widths]))
    roots = np.interp(np.arange(channels + 1), widths, np.sqrt(losses))
    if len(widths) > 1:
        slope = np.sqrt(losses[0]) - np.sqrt(losses[1])
        below = np.maximum(widths[0] - np.arange(channels + 1), 0)
        roots = roots + below * slope / (widths[1] - widths[0])
    return np.square(roots)


def _falling(losses: Floats) -> Floats:
    """Make losses finite and non-increasing in the width."""
    losses = np.maximum(np.where(np.isfinite(losses), losses, 1e6), 0)
    falling: Floats = np.maximum.accumulate(losses[::-1])[::-1]
    return falling


def _factors(
    network: Network, measured: Mapping[str, Mapping[int, float]], foreseen: Mapping[str, Floats]
) -> dict[str, Floats]:
    """Group -> factors on its predicted loss, one for each width.

    For groups measured at one or two widths, the factors follow from those measurements. For other
    groups they are interpolated between the neighbours in the network on either side, at the same
    share of channels.
    """
    shares = np.array(sorted(FEWEST_SHARES))
    logs: dict[int, Floats] = {}
    for place, group in enumerate(network.groups):
        points = measured.get(group.name, {})
        if group.name not in foreseen or not 0 < len(points) < 3:
            continue
        widths = np.array(sorted(points))
        of = foreseen_by(foreseen, group)[widths]
        found = np.array([max(points[int(width)], 1e-12) for width in widths])
        ratios = np.log(np.where(np.isfinite(found), found, 1e6) / np.maximum(of, 1e-30))
        logs[place] = np.interp(shares, widths / len(group), ratios)
    factors = {}
    known = np.array(sorted(logs))
    for place, group in enumerate(network.groups):
        if not len(known) or group.name not in foreseen:
            continue
        if len(measured.get(group.name, {})) >= 3:
            continue
        at = np.array([np.interp(place, known, [logs[k][i] for k in known]) for i in (0, 1)])
        factors[group.name] = np.exp(np.interp(np.arange(len(group) + 1) / len(group), shares, at))
    return factors
