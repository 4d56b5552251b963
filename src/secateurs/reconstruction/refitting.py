"""One step of the walk in either framework: from what images say at a contraction to new weights.

A framework walks a dense and a cut network in step and gathers, wherever a contraction's input or
sum is not what it was, sums of products or the rows themselves. What follows is NumPy's alone.
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
from secateurs.channels.arrays import Array, Sums
from secateurs.reconstruction.long_kernels import KernelGeometry, SignalRows, refit_long
from secateurs.reconstruction.rectified import Rectified
from secateurs.reconstruction.wide import MOST_INPUTS, ContractionRows, refit_wide

MOST_BYTES = 4 * 10**9
"""Of values of both networks that are held at once; of more images, some are left out."""

BYTES_OF_ROWS = 2**29
"""Of patches that are kept as they are, where a ReLU follows or products would be too large."""


MOST_OF_LONG = 2048
"""Inputs up to which a convolution over a long kernel is fitted by sums of their products."""


class Summed(Protocol):
    """Sums of rows that came piece by piece."""

    rows: int

    def moments(self) -> Moments:
        """Of all rows so far."""


S = TypeVar("S", bound=Summed)


@dataclass(eq=False, slots=True)
class Gathered(Generic[S]):
    """What the images say at one contraction.

    Attributes:
        fit: sums over the images to fit.
        held: sums over the images to choose by.
        rows: whether they are held out, and tables of (rows, inputs), (rows, outputs) and, where
            something is added behind, of (rows, outputs) again; piece by piece.
    """

    fit: S
    held: S
    rows: list[tuple[bool, Sequence[NDArray[np.float32]]]] = field(default_factory=list)

    def together(self, held: bool | None = None) -> list[NDArray[np.float32]]:
        """Kept rows of all pieces, or of those that were (not) held out."""
        chosen = [rows for is_held, rows in self.rows if held is None or is_held == held]
        return [np.concatenate(parts) for parts in zip(*chosen, strict=True)]


@dataclass(frozen=True, eq=False, slots=True)
class Following:
    """What becomes of a contraction's outputs up to a ReLU: ``relu(scale * y + shift)``.

    Attributes:
        scale: shape (outputs,) or a single number.
        shift: likewise; what is added behind is beside the rows.
    """

    scale: Array
    shift: Array

    def rectify(self, gathered: Gathered[Any]) -> Rectified:
        """The rows with what follows them."""
        u, y, *joined = gathered.together()
        scale = np.broadcast_to(self.scale, y.shape[1:])
        shift = np.broadcast_to(self.shift, y.shape[1:])
        return Rectified(u, y, scale, joined[0] + shift if joined else shift)


def is_wide(groups: int, inputs: int) -> bool:
    """Whether a contraction has more inputs than a matrix of their products can hold."""
    return groups == 1 and inputs > MOST_INPUTS


def refit_gathered(
    gathered: Gathered[Any],
    matrix: Sums,
    *,
    importance: Sums | None,
    has_intercept: bool,
    following: Following | None = None,
) -> Refit | None:
    """New weights by what was gathered; None where that is not enough, or gives no numbers.

    Args:
        gathered: the rows alone, where the contraction is wide; else the sums, and the rows as well
            where a ReLU is to be looked at.
        matrix: the present weights, shape (groups, inputs, outputs).
        importance: of each output, shape (groups, outputs); None takes them as equal.
        has_intercept: whether there is a place for one.
        following: what comes before that ReLU; None looks at none.
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
    """Whether a convolution is fitted by spectra: its kernel is long, and its inputs are many."""
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
    """New weights of a convolution over a long kernel; None where that gives no numbers.

    Args:
        fit: what it reads and should give, of the images to fit, piece by piece.
        held: likewise, of those to choose by.
        geometry: of the convolution.
        matrix: the present weights, shape (1, inputs, outputs).
        importance: of each output, shape (1, outputs); None takes them as equal.
        has_intercept: whether there is a place for one.
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
    """As many of the images as memory is meant to hold values of.

    Args:
        fit: to fit.
        held: to choose by.
        each: bytes of the values of one image that are held at once, in both networks.
    """
    images = len(fit) + len(held)
    share = MOST_BYTES / max(1, images * each)
    if share >= 1:
        return fit, held
    less = [batch.rows(slice(0, max(2, int(share * len(batch))))) for batch in (fit, held)]
    warnings.warn(
        f"repair: the values of {images} images take {images * each / 1e9:.1f} GB at once in both "
        f"networks; {len(less[0]) + len(less[1])} of them are fitted, which take "
        f"{MOST_BYTES / 1e9:.1f}. Pass fewer or smaller images to choose them yourself.",
        UserWarning,
        stacklevel=3,
    )
    return less[0], less[1]
