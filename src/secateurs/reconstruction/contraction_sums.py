"""Conversion of the sums that one pass collects at a contraction to the input of planning.

Which products are kept, how outputs are weighted and how a changed matrix becomes tensors again is
the same in both frameworks; only running the network and summing is theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from secateurs.calibration.least_squares import Moments
from secateurs.calibration.peers import ALONE, Peers
from secateurs.calibration.statistics import channel_index
from secateurs.channels.arrays import Floats, Sums
from secateurs.channels.equations import Ids
from secateurs.channels.network import Group, Network
from secateurs.planning.error_curves import MeasuredContraction
from secateurs.reconstruction.fidelity import are_probabilities
from secateurs.reconstruction.long_kernels import LongKernel

MOST_INPUTS = 1152
"""Largest number of inputs for products of whole patches; beyond, channels are mixed equally for
every tap."""

MOST_CHANNELS = 4096

MACS_OF_SLOPES = 2e11
"""MACs that may be spent on the derivatives that weight outputs, besides the pass for the sums:
about ten seconds of one core. A mean of squares needs fewer images than a covariance of patches."""

LEAST_WITH_SLOPES = 32
LEAST_TEXTS = 2
"""Least number of texts, each of which has many outputs."""


class Weights(Protocol):
    """Weights of a contraction, in either framework."""

    @property
    def weight(self) -> str:
        """Name of its weight."""

    @property
    def taps(self) -> int:
        """Number of inputs for each index of the axis that it reads."""

    @property
    def has_intercept(self) -> bool:
        """Whether the layer has a bias that can be changed."""

    def matrix(self) -> Sums:
        """The weights as a matrix, shape (1, inputs, outputs)."""

    def tensors(self, matrix: Sums, missing: Floats) -> Mapping[str, NDArray[Any]]:
        """(a new matrix, a change of each output's mean) -> tensor name -> new values."""


@dataclass(frozen=True, eq=False, slots=True)
class Reading:
    """What a contraction reads, and which products of it are kept.

    Attributes:
        units: units along the axis that it reads.
        mixes: whether products of channels alone are kept, instead of whole patches.
        fold: for a long axis of channels by positions, its indices, shape (channels, positions);
            else None.
    """

    units: Ids
    mixes: bool
    fold: Ids | None

    @classmethod
    def of(
        cls, network: Network, units: Ids, inputs: int, groups: Sequence[Group] | None = None
    ) -> Reading | None:
        """Describe a contraction with this many inputs for each output.

        Returns None if it reads too many channels, or none of the groups (None stands for all).
        """
        if groups is not None and not any(len(channel_index(network, g, units)) for g in groups):
            return None
        fold = _fold(network, units) if len(units) > MOST_CHANNELS else None
        if len(units) > MOST_CHANNELS and fold is None:
            return None
        # Where each channel is a single input, products of channels are those of whole patches.
        has_taps = inputs > len(units) or fold is not None
        return cls(units, inputs > MOST_INPUTS and has_taps, fold)

    def values(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Rows of shape (rows, channels) whose products are kept, from rows of values read."""
        if self.fold is None:
            return rows
        return rows[:, self.fold.T.ravel()].reshape(-1, len(self.fold))


def _fold(network: Network, units: Ids) -> Ids | None:
    """The axis as channels by positions, if it belongs to one group entirely."""
    for group in network.groups:
        part = channel_index(network, group, units)
        if len(part) == len(units) and (rows := part.rows) is not None and rows.shape[1] > 1:
            return rows
    return None


def images_with_slopes(
    network: Network, examples: int, images: int, answers: int = 1, peers: Peers = ALONE
) -> int:
    """Number of images for weighting outputs; a backward pass costs as much as two forward.

    Args:
        network: as traced.
        examples: number of examples that it was traced with.
        images: number of images available, in all processes.
        answers: number of outputs (answers) for each image.
        peers: processes that share them.

    Returns:
        The number in each process.
    """
    least = max(LEAST_TEXTS, -(-LEAST_WITH_SLOPES // answers))
    affordable = int(MACS_OF_SLOPES * examples / (2 * max(1, network.macs())))
    return -(-min(images, max(least, affordable)) // peers.count)


def random_of(seed: int, peers: Peers) -> np.random.Generator:
    """Generator of random answers, another one in each process."""
    return np.random.default_rng([seed, peers.rank] if peers.rank else seed)


def mean_slopes(slopes: Sums | None, images: int, outputs: int, peers: Peers) -> Sums:
    """Weights of outputs by the images of all processes; ones if there are no slopes.

    Args:
        slopes: sum over this process's images of squared slopes, shape (outputs,).
        images: their number.
        outputs: number of outputs.
        peers: the processes.
    """
    if slopes is None:
        return np.ones(outputs)
    total, count = peers.total([slopes, np.array(images)])
    return total / count


def contraction_of(
    weights: Weights,
    reading: Reading,
    moments: Moments,
    importance: Floats,
    *,
    long: LongKernel | None = None,
) -> MeasuredContraction:
    """Collect what planning reads of one contraction.

    Args:
        weights: weights of the contraction.
        reading: description of what it reads.
        moments: moments of patches; where it mixes, of channels alone. None of outputs are needed:
            what the dense network's contractions give follows from their weights.
        importance: weight of each output in the error, shape (outputs,).
        long: refit of a convolution with a long kernel; None refits from the moments.
    """
    matrix = weights.matrix()
    refit = None if long is None else _LongRefit(weights, long, matrix)
    spectra = None if long is None else long.spectra(matrix)
    taps = weights.taps if reading.fold is None else reading.fold.shape[1]
    if reading.mixes:
        matrix = _by_channel(matrix, weights.taps, reading.fold)
    elif not weights.has_intercept:
        moments = moments.about_zero()
    return MeasuredContraction(
        weights.weight,
        reading.units,
        taps,
        moments,
        matrix,
        importance,
        _Packing(weights, reading, taps),
        reading.mixes,
        reading.fold,
        refit,
        spectra,
    )


def _by_channel(matrix: Sums, taps: int, fold: Ids | None) -> Sums:
    """Reshape (1, channels * taps, outputs) to (1, channels, taps * outputs)."""
    if fold is not None:
        folded: Sums = matrix[0][fold].reshape(1, len(fold), -1)
        return folded
    return matrix.reshape(1, matrix.shape[1] // taps, -1)


@dataclass(frozen=True, eq=False, slots=True)
class _Packing:
    """Converts a matrix and a change of the mean output to tensors with the model's names."""

    weights: Weights
    reading: Reading
    taps: int

    def __call__(self, matrix: Sums, missing: Floats) -> Mapping[str, NDArray[Any]]:
        if self.reading.mixes:
            missing = missing.reshape(self.taps, -1).sum(axis=0)
            matrix = self._by_input(matrix)
        return self.weights.tensors(matrix, missing)

    def _by_input(self, matrix: Sums) -> Sums:
        fold = self.reading.fold
        if fold is None:
            return matrix.reshape(1, matrix.shape[1] * self.taps, -1)
        spread = matrix.reshape(*fold.shape, -1)
        found = np.zeros((1, fold.size, spread.shape[-1]))
        found[0, fold] = spread
        return found


@dataclass(frozen=True, eq=False, slots=True)
class _LongRefit:
    """Removed channels -> tensors of a refitted convolution with a long kernel."""

    weights: Weights
    long: LongKernel
    matrix: Sums

    def __call__(self, gone: Ids) -> Mapping[str, NDArray[Any]]:
        has_intercept = self.weights.has_intercept
        matrix, missing = self.long.ablate(gone, self.matrix, has_intercept=has_intercept)
        return self.weights.tensors(matrix, missing)


def draw_slopes(
    outputs: Sequence[NDArray[Any]], kind: str, random: np.random.Generator
) -> list[NDArray[np.float32]]:
    """Derivative of the loss with respect to each output, for labels sampled from the model itself.

    Backpropagated to an inner value, squared and averaged over samples, it is the Gauss-Newton
    weight of that value. One random number is drawn for each answer, image by image, so the result
    does not depend on how images are batched, nor on the framework.

    Args:
        outputs: outputs of the dense network, images along axis 0.
        kind: 'categorical', 'bernoulli' or another, which uses squared error.
        random: random generator.

    Example:
        >>> scores = np.zeros((10000, 2))
        >>> (drawn,) = draw_slopes([scores], "categorical", np.random.default_rng(0))
        >>> (drawn.T @ drawn / 10000).round(2)  # diag(p) - p p'
        array([[ 0.25, -0.25],
               [-0.25,  0.25]], dtype=float32)
    """
    zeros = [np.zeros(np.shape(one), np.float32) for one in outputs[1:]]
    if kind == "categorical":
        return [_of_classes(np.asarray(outputs[0]), random), *zeros]
    if kind == "bernoulli":
        coins = _of_coins(np.asarray(outputs[0], np.float64), random)
        return [coins.astype(np.float32), *zeros]
    return [_of_numbers(np.asarray(one, np.float64), random) for one in outputs]


def _of_classes(scores: NDArray[Any], random: np.random.Generator) -> NDArray[np.float32]:
    moved = np.moveaxis(scores, 1, -1) if scores.ndim > 3 else scores
    given = are_probabilities(moved)
    drawn = random.random(moved.shape[:-1])
    slopes = np.empty(moved.shape, np.float32)
    for number, one in enumerate(moved):  # one image at a time: large vocabularies need memory
        slopes[number] = _of_drawn(np.asarray(one, np.float64), drawn[number], given=given)
    return np.moveaxis(slopes, -1, 1) if scores.ndim > 3 else slopes


def _of_drawn(scores: Floats, drawn: Floats, *, given: bool) -> Floats:
    """Slopes of one image from ``drawn``, shape (...), and scores, shape (..., classes)."""
    chances = scores if given else _softmax(scores)
    wanted = np.asarray(drawn)[..., None] * chances.sum(axis=-1, keepdims=True)
    chosen = np.minimum((chances.cumsum(-1) < wanted).sum(axis=-1), chances.shape[-1] - 1)[
        ..., None
    ]
    likely = np.take_along_axis(chances, chosen, -1)
    # Only one class is drawn per place: a one-hot matrix over a vocabulary would be far larger.
    slopes: Floats = np.zeros_like(chances) if given else chances.copy()
    np.put_along_axis(slopes, chosen, -1 / np.maximum(likely, 1e-12) if given else likely - 1, -1)
    return slopes


def _softmax(scores: Floats) -> Floats:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def _of_coins(scores: Floats, random: np.random.Generator) -> Floats:
    given = bool(((scores >= 0) & (scores <= 1)).all())  # probabilities already
    chances = np.clip(scores, 1e-6, 1 - 1e-6) if given else 1 / (1 + np.exp(-scores))
    heads = random.random(chances.shape) < chances
    slopes: Floats = (chances - heads) / (chances * (1 - chances)) if given else chances - heads
    return slopes


def _of_numbers(values: Floats, random: np.random.Generator) -> NDArray[np.float32]:
    size = max(float(np.sqrt(np.square(values).mean())), 1e-12)
    signs = random.integers(0, 2, values.shape) * 2.0 - 1
    slopes: NDArray[np.float32] = np.asarray(
        signs / (size * float(values[0].size) ** 0.5), np.float32
    )
    return slopes
