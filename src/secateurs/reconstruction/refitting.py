"""One step of the walk in either framework: from data at a contraction to new weights.

A framework runs a dense and a cut network in step and gathers, wherever a contraction's input or
the sum after it differs, sums of products or the rows themselves. The rest is done here in NumPy.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.least_squares import Moments, Refit, refit
from secateurs.calibration.peers import Peers
from secateurs.channels.arrays import Array, Sums
from secateurs.reconstruction.long_kernels import KernelGeometry, SignalRows, refit_long
from secateurs.reconstruction.rectified import Rectified
from secateurs.reconstruction.wide import MOST_INPUTS, ContractionRows, refit_wide

MOST_BYTES = 4 * 10**9
"""Most bytes of values of both networks held at once; with more images, some are left out."""

BYTES_OF_ROWS = 2**29
"""Most bytes of patches stored as rows, where a ReLU follows or products would be too large."""


MOST_OF_LONG = 2048
"""Most inputs of a convolution with a long kernel that is fitted from sums of products."""


class Summed(Protocol):
    """Sums of rows that are added in pieces."""

    rows: float

    def moments(self) -> Moments:
        """Moments of all rows so far."""


S = TypeVar("S", bound=Summed)
T = TypeVar("T")


@dataclass(frozen=True, eq=False, slots=True)
class Totals:
    """Sums of the rows of several processes.

    Attributes:
        rows: number of rows of all processes, or the sum of their weights.
        all_moments: moments of them; None where there is no row.
    """

    rows: float
    all_moments: Moments | None

    @classmethod
    def over(cls, peers: Peers, sums: Summed) -> Totals:
        """Add up each process's sums, some of which may be of no rows."""
        known = sums.moments() if sums.rows else None
        shapes = peers.gather(None if known is None else known.uy.shape)
        shape = next((one for one in shapes if one is not None), None)
        if shape is None:
            return cls(0, None)
        found = (Moments.of_none(*shape) if known is None else known).total_over(peers)
        return cls(found.rows, found)

    def moments(self) -> Moments:
        """Moments of all rows."""
        assert self.all_moments is not None  # noqa: S101 - asked for only where there are rows
        return self.all_moments


def join_parts(parts: Sequence[Sequence[T]]) -> list[T]:
    """The entries of all parts in one list."""
    return [one for part in parts for one in part]


@dataclass(eq=False, slots=True)
class Gathered(Generic[S]):
    """Data collected at one contraction.

    Attributes:
        fit: sums over the images to fit.
        held: sums over the held-out images.
        rows: in pieces: whether they are held out, and arrays of (rows, inputs), (rows, outputs)
            and, where something is added afterwards, again (rows, outputs).
    """

    fit: S
    held: S
    rows: list[tuple[bool, Sequence[NDArray[np.float32]]]] = field(default_factory=list)

    def total_over(self, peers: Peers) -> Gathered[Any]:
        """The data of all processes; only the main one, which solves, has their rows."""
        if peers.count == 1:
            return self
        fit, held = (Totals.over(peers, sums) for sums in (self.fit, self.held))
        return Gathered(fit, held, join_parts(peers.gather_in_main(self.rows)))

    def together(self, held: bool | None = None) -> list[NDArray[np.float32]]:
        """Stored rows of all pieces, or only of those that are (not) held out."""
        chosen = [rows for is_held, rows in self.rows if held is None or is_held == held]
        return [np.concatenate(parts) for parts in zip(*chosen, strict=True)]


@dataclass(frozen=True, eq=False, slots=True)
class Following:
    """Transformation of a contraction's outputs up to a ReLU: ``relu(scale * y + shift)``.

    Attributes:
        scale: shape (outputs,) or a single number.
        shift: likewise; what is added afterwards is stored with the rows.
    """

    scale: Array
    shift: Array

    def rectify(self, gathered: Gathered[Any]) -> Rectified:
        """The rows together with their transformation."""
        u, y, *joined = gathered.together()
        scale = np.broadcast_to(self.scale, y.shape[1:])
        shift = np.broadcast_to(self.shift, y.shape[1:])
        return Rectified(u, y, scale, joined[0] + shift if joined else shift)


def is_wide(groups: int, inputs: int) -> bool:
    """Whether a contraction has too many inputs for a matrix of their products."""
    return groups == 1 and inputs > MOST_INPUTS


def refit_gathered(
    gathered: Gathered[Any],
    matrix: Sums,
    *,
    importance: Sums | None,
    has_intercept: bool,
    following: Following | None = None,
) -> Refit | None:
    """New weights from gathered data; None if there is too little, or the result is not finite.

    Args:
        gathered: rows alone if the contraction is wide; else sums, and rows as well if a ReLU is
            to be taken into account.
        matrix: present weights, shape (groups, inputs, outputs).
        importance: weight of each output, shape (groups, outputs); None for equal weights.
        has_intercept: whether there is a bias.
        following: transformation before that ReLU; None ignores any ReLU.
    """
    if is_wide(len(matrix), matrix.shape[1]):
        fit, held = (ContractionRows(*gathered.together(held)[:2]) for held in (False, True))
        found = refit_wide(fit, held, matrix, importance=importance, has_intercept=has_intercept)
        return _if_finite(found)
    if not (gathered.fit.rows and gathered.held.rows):
        return None
    fit_sums, held_sums = gathered.fit.moments(), gathered.held.moments()
    found = refit(fit_sums, held_sums, matrix, importance=importance, has_intercept=has_intercept)
    if following is not None and found.solver is not None:
        everything = fit_sums.merge(held_sums)
        relaxed = following.rectify(gathered).refine(everything, found.weights, found.solver)
        found = Refit(*relaxed, found.ridge, found.before, found.after)
    return _if_finite(found)


def is_long(geometry: KernelGeometry | None, inputs: int) -> bool:
    """Whether a convolution is fitted by spectra: it has a long kernel and many inputs."""
    return geometry is not None and inputs > MOST_OF_LONG


def refit_signals(
    fit: Sequence[SignalRows],
    held: Sequence[SignalRows],
    geometry: KernelGeometry,
    matrix: Sums,
    *,
    importance: Sums | None,
    has_intercept: bool,
) -> Refit | None:
    """New weights of a convolution with a long kernel; None if the result is not finite.

    Args:
        fit: inputs and targets of the images to fit, in pieces.
        held: likewise, of held-out images.
        geometry: geometry of the convolution.
        matrix: present weights, shape (1, inputs, outputs).
        importance: weight of each output, shape (1, outputs); None for equal weights.
        has_intercept: whether there is a bias.
    """
    if not (fit and held):
        return None
    parts = SignalRows.join(fit), SignalRows.join(held)
    found = refit_long(*parts, geometry, matrix, importance=importance, has_intercept=has_intercept)
    return _if_finite(found)


def _if_finite(found: Refit) -> Refit | None:
    finite = np.isfinite(found.weights).all() and np.isfinite(found.intercept).all()
    return found if finite else None


def images_that_fit(
    fit: CalibrationBatch, held: CalibrationBatch, each: int
) -> tuple[CalibrationBatch, CalibrationBatch]:
    """Limit the images to those whose values fit into ``MOST_BYTES`` of memory.

    Args:
        fit: images to fit.
        held: held-out images.
        each: bytes of the values of one image that are held at once, in both networks.
    """
    images = len(fit) + len(held)
    share = MOST_BYTES / max(1, images * each)
    if share >= 1:
        return fit, held
    less = [batch.rows(slice(0, max(2, int(share * len(batch))))) for batch in (fit, held)]
    warnings.warn(
        f"repair: the activations of {images} images need {images * each / 1e9:.1f} GB in both "
        f"networks; only {len(less[0]) + len(less[1])} images are used, which need "
        f"{MOST_BYTES / 1e9:.1f} GB. Pass fewer or smaller images to choose them yourself.",
        UserWarning,
        stacklevel=3,
    )
    return less[0], less[1]
