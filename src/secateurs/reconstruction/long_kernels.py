"""Least squares for convolutions over long kernels: conjugate gradients, by Fourier transforms.

A kernel of 64 taps over 1,024 channels has 65,536 inputs: their products would take 34 GB, and one
pass of the convolution over a few hundred signals minutes. Conjugate gradients need the convolution
and its transpose alone, and both multiply spectra: frequency by frequency, one product of channels
by outputs, however many taps there are. Steps are few, because stopping early does what a ridge
would.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from secateurs.calibration.least_squares import Refit
from secateurs.channels.arrays import Array, Floats, Sums
from secateurs.channels.equations import Ids

SignalArray = Array
"""(images, channels, *sizes), or (images, outputs, *places)."""

Spectra = NDArray[np.complex64]

LEAST_TAPS = 16
"""Of a kernel: a mixing of channels has one unknown where a refit of all taps has so many."""

RIDGE = 1e-2
"""Of the preconditioner, relative to the mean of the products' diagonal."""

STEPS = 8
"""Of refits that only measure what a cut would cost, at most."""

MACS = 1e11
"""What such a refit may take: some three seconds of one core. Beyond, channels are mixed."""

MOST_STEPS = 60
PATIENCE = 3
"""Steps without less error on the images held out, after which a fit ends."""

MOST_NUMBERS = 2**26
"""In spectra of signals: half a gigabyte."""

MOST_IN_PRODUCTS = 2**25
"""In products of spectra, which are inverted."""

HELD = 8
"""One image in so many says when such a refit is to stop."""

LEAST_IMAGES = 64
ROWS_AN_INPUT = 2
"""Places of the result that are wanted for each input of a patch, if images give that many."""


@dataclass(frozen=True, slots=True)
class KernelGeometry:
    """Where the patches of a convolution lie in what it reads.

    Attributes:
        kernel: its lengths.
        stride: of the patches.
        padding: zeros (before, behind) each axis.
        dilation: of the kernel.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]

    @property
    def taps(self) -> int:
        """Of the kernel."""
        return math.prod(self.kernel)

    def is_long(self) -> bool:
        """Whether spectra do it in less than patches, and nothing is cropped."""
        cropped = any(side < 0 for pair in self.padding for side in pair)
        return self.taps >= LEAST_TAPS and not cropped

    def lengths(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Of the transforms: so long that no patch goes round the end."""
        padded = (n + sum(pair) for n, pair in zip(sizes, self.padding, strict=True))
        return tuple(fft.next_fast_len(length, real=True) for length in padded)

    def frequencies(self, sizes: Sequence[int]) -> int:
        """How many the transforms have."""
        *front, last = self.lengths(sizes)
        return math.prod(front) * (last // 2 + 1)


class SignalSpectra:
    """What a convolution reads, as spectra.

    Its weights come tap by tap here, (taps * channels, outputs): so their spectra are one product
    with a matrix of waves, in the order in which they are read.

    Args:
        x: shape (images, channels, *sizes).
        geometry: of the convolution.
    """

    def __init__(self, x: SignalArray, geometry: KernelGeometry) -> None:
        self.images, self.channels, self.taps = len(x), x.shape[1], geometry.taps
        self._lengths = geometry.lengths(x.shape[2:])
        self._axes = tuple(range(2, x.ndim))
        padded = np.pad(x, [(0, 0), (0, 0), *geometry.padding])
        found = fft.rfftn(padded, self._lengths, self._axes)
        self._shape = found.shape[2:]
        self._spectra: Spectra = _by_frequency(found)
        starts = (
            n - reach + 1 for n, reach in zip(padded.shape[2:], _reach(geometry), strict=True)
        )
        self._places = tuple(
            slice(0, n, step) for n, step in zip(starts, geometry.stride, strict=True)
        )
        self._waves = _waves(geometry, self._lengths)

    def contract(self, weights: Array) -> SignalArray:
        """What the convolution gives, shape (images, outputs, *places)."""
        products = self._spectra @ self._conjugates(weights)
        moved = products.transpose(1, 2, 0).reshape(*products.shape[1:], *self._shape)
        whole = fft.irfftn(moved, self._lengths, self._axes)
        return np.ascontiguousarray(whole[(slice(None), slice(None), *self._places)])

    def transpose(self, given: SignalArray) -> Array:
        """The transpose of ``contract``, applied to signals of its result's shape."""
        spread = np.zeros((*given.shape[:2], *self._lengths), np.float32)
        spread[(slice(None), slice(None), *self._places)] = given
        found = _by_frequency(fft.rfftn(spread, axes=self._axes))
        return self._kernels(self._spectra.conj().transpose(0, 2, 1) @ found)

    def preconditioner(self, ridge: float) -> Callable[[Array], Array]:
        """What takes a gradient most of the way to the solution, frequency by frequency.

        Far from a signal's ends the products of inputs are those of spectra, so their inverse is
        one small matrix a frequency.

        Args:
            ridge: added to the products, relative to the mean of their diagonal.
        """
        off_mean = self._spectra - self._spectra.mean(axis=1, keepdims=True)
        products = off_mean.conj().transpose(0, 2, 1) @ off_mean
        at = np.arange(self.channels)
        mean = float(products[:, at, at].real.mean())
        products[:, at, at] += np.float32(max(ridge * mean, 1e-30))
        inverse = np.linalg.inv(products)

        def precondition(gradient: Array) -> Array:
            return self._kernels(inverse @ self._conjugates(gradient))

        return precondition

    def _conjugates(self, weights: Array) -> Spectra:
        """Of the kernels' spectra, shape (frequencies, channels, outputs)."""
        return _multiply(self._waves, weights, self.channels)

    def _kernels(self, conjugates: Spectra) -> Array:
        """The reverse: the kernels' taps; what lies beside them is left out."""
        flat = conjugates.reshape(len(conjugates), -1)
        scale = (_counts(self._lengths) / math.prod(self._lengths)).astype(np.float32)
        real, imaginary = (np.ascontiguousarray(part) for part in (flat.real, flat.imag))
        weights: Array = (self._waves.real * scale[:, None]).T @ real
        weights += (self._waves.imag * scale[:, None]).T @ imaginary
        return weights.reshape(self.taps * self.channels, -1)


def by_tap(matrix: Array, channels: int) -> Array:
    """(channels * taps, outputs) as (taps * channels, outputs)."""
    split = matrix.reshape(channels, -1, matrix.shape[1]).transpose(1, 0, 2)
    return np.ascontiguousarray(split, np.float32).reshape(matrix.shape)


def by_channel(weights: Array, channels: int) -> Array:
    """The reverse of ``by_tap``."""
    split = weights.reshape(-1, channels, weights.shape[1]).transpose(1, 0, 2)
    return np.ascontiguousarray(split).reshape(weights.shape)


def _waves(geometry: KernelGeometry, lengths: Sequence[int]) -> Spectra:
    """Whose product with kernels is their spectra's conjugate, shape (frequencies, taps)."""
    found = np.ones((1, 1))
    last = len(lengths) - 1
    for axis, (length, taps, step) in enumerate(
        zip(lengths, geometry.kernel, geometry.dilation, strict=True)
    ):
        count = length // 2 + 1 if axis == last else length
        turns = np.outer(np.arange(count), step * np.arange(taps)) / length
        found = np.kron(found, np.exp(2j * np.pi * turns))
    return found.astype(np.complex64)


def _multiply(waves: Spectra, weights: Array, channels: int) -> Spectra:
    flat = weights.astype(np.float32, copy=False).reshape(waves.shape[1], -1)
    found = np.empty((len(waves), flat.shape[1]), np.complex64)
    found.real = np.ascontiguousarray(waves.real) @ flat
    found.imag = np.ascontiguousarray(waves.imag) @ flat
    return found.reshape(len(waves), channels, -1)


def _by_frequency(spectra: NDArray[np.complexfloating]) -> Spectra:
    """(a, b, *frequencies) as (frequencies, a, b)."""
    flat = spectra.reshape(*spectra.shape[:2], -1).transpose(2, 0, 1)
    return np.ascontiguousarray(flat, np.complex64)


class ConjugateGradients:
    """The least-squares fit of a convolution to what it should give, step by step.

    Each output has a step length of its own: they are problems of their own. Directions are Polak
    and Ribiere's, which begin anew where rounding has spoilt them.

    Args:
        signals: what it reads.
        wrong: what it should give less what it gives, shape (images, outputs, *places).
        weights: what the weights are now, tap by tap, shape (taps * channels, outputs).
        has_intercept: whether there is a place for one: then only what is off the mean counts.

    Attributes:
        weights: by now.
        wrong: what it should give less what it gives by now.
    """

    def __init__(
        self,
        signals: SignalSpectra,
        wrong: SignalArray,
        weights: Array,
        *,
        has_intercept: bool = True,
    ) -> None:
        self._signals, self._has_intercept = signals, has_intercept
        self.weights: Array = weights.astype(np.float32)
        self.wrong: SignalArray = wrong
        # One matrix a frequency takes as much as so many images: with fewer, it costs more than it
        # saves.
        affordable = signals.channels <= signals.images
        self._precondition = signals.preconditioner(RIDGE) if affordable else _as_it_is
        self._gradient = signals.transpose(self._centre(wrong))
        self._step = self._direction = self._precondition(self._gradient)

    @property
    def intercept(self) -> Floats:
        """The mean of what is wrong, of each output: zeros where there is no place for one."""
        if not self._has_intercept:
            return np.zeros(self.wrong.shape[1])
        return _mean(self.wrong).astype(np.float64)

    def step(self) -> tuple[Array, Array]:
        """Go on by one; (the direction, how far each output went along it)."""
        direction = self._direction
        given = self._signals.contract(direction)
        curvature = np.square(self._centre(given)).sum(axis=_but_outputs(given))
        # To the least error along it, even where rounding has spoilt the direction.
        downhill = np.maximum((self._gradient * direction).sum(axis=0), 0)
        length = downhill / np.maximum(curvature, 1e-30)
        self.weights = self.weights + direction * length
        self.wrong = self.wrong - given * _along(length, given)
        gradient = self._signals.transpose(self._centre(self.wrong))
        step = self._precondition(gradient)
        turned = (step * (gradient - self._gradient)).sum(axis=0)
        before = (self._step * self._gradient).sum(axis=0)
        turn = np.maximum(turned / np.maximum(before, 1e-30), 0)
        self._gradient, self._step, self._direction = gradient, step, step + direction * turn
        return direction, length

    def _centre(self, given: SignalArray) -> SignalArray:
        centred: SignalArray = given - _along(_mean(given), given) if self._has_intercept else given
        return centred


def _as_it_is(gradient: Array) -> Array:
    return gradient


def _but_outputs(given: SignalArray) -> tuple[int, ...]:
    return (0, *range(2, given.ndim))


def _mean(given: SignalArray) -> Array:
    found: Array = given.mean(axis=_but_outputs(given), dtype=np.float64).astype(np.float32)
    return found


def _along(vector: Array, given: SignalArray) -> Floats:
    return vector.reshape(1, -1, *[1] * (given.ndim - 2)).astype(np.float32)


@dataclass(frozen=True, eq=False, slots=True)
class SignalRows:
    """What images say at a convolution over a long kernel.

    Attributes:
        x: what it reads, shape (images, channels, *sizes).
        y: what it should give, shape (images, outputs, *places).
    """

    x: SignalArray
    y: SignalArray

    @classmethod
    def join(cls, parts: Sequence[SignalRows]) -> SignalRows:
        """Of the images of all parts."""
        return cls(
            np.concatenate([one.x for one in parts]), np.concatenate([one.y for one in parts])
        )


def images_in_spectra(x_shape: Sequence[int], geometry: KernelGeometry) -> int:
    """How many images' spectra are held at once, at most; of shape (any, channels, *sizes)."""
    return max(1, MOST_NUMBERS // (geometry.frequencies(x_shape[2:]) * x_shape[1]))


def refit_long(
    fit: SignalRows,
    held: SignalRows,
    geometry: KernelGeometry,
    weights: Sums,
    *,
    importance: Sums | None,
    has_intercept: bool,
) -> Refit:
    """As ``least_squares.refit``, from signals in place of sums; of one group.

    After how many steps to stop, the images held out say; as many are then made on all images.

    Args:
        fit: to fit.
        held: to choose by after how many steps to stop.
        geometry: of the convolution.
        weights: what the weights are now, shape (1, channels * taps, outputs).
        importance: of each output, shape (1, outputs); None takes them as equal.
        has_intercept: whether there is a place for one.
    """
    share = np.ones(fit.y.shape[1]) if importance is None else importance[0]
    most = images_in_spectra(fit.x.shape, geometry)
    present = by_tap(weights[0], fit.x.shape[1])

    def prepare(rows: SignalRows) -> Fitted:
        reads = SignalSpectra(rows.x[:most], geometry)
        return Fitted(reads, rows.y[:most] - reads.contract(present))

    parts = prepare(fit), prepare(held)
    found = descend(*parts, present, share, MOST_STEPS, has_intercept=has_intercept)
    middle = _along(_mean(held.y) if has_intercept else np.zeros(len(share)), held.y)
    size = max(_error(held.y - middle, share), 1e-300)
    before, after = found.before / size, found.after / size
    del parts
    everything = prepare(SignalRows.join([held, fit]))
    gradients = ConjugateGradients(
        everything.signals, everything.wrong, present, has_intercept=has_intercept
    )
    for _ in range(found.steps):
        gradients.step()
    solved = by_channel(gradients.weights, fit.x.shape[1])[None].astype(np.float64)
    ridge = RIDGE if found.steps else float("nan")
    return Refit(solved, gradients.intercept[None], ridge, before, after)


@dataclass(frozen=True, eq=False, slots=True)
class Fitted:
    """Some images at a convolution.

    Attributes:
        signals: what it reads.
        wrong: what it should give less what it gives, shape (images, outputs, *places).
    """

    signals: SignalSpectra
    wrong: SignalArray


@dataclass(frozen=True, eq=False, slots=True)
class KernelFit:
    """Weights of least error on the images held out.

    Attributes:
        weights: tap by tap, shape (taps * channels, outputs).
        intercept: change of the mean outputs, shape (outputs,).
        steps: after so many; none where the present weights do best.
        before: the error of those.
        after: of these.
    """

    weights: Array
    intercept: Floats
    steps: int
    before: float
    after: float


def descend(
    fit: Fitted,
    held: Fitted,
    weights: Array,
    share: Floats,
    most: int,
    *,
    has_intercept: bool,
) -> KernelFit:
    """Conjugate gradients on some images, as long as they help on others.

    Args:
        fit: the images to fit.
        held: those to choose by after how many steps to stop.
        weights: to start from, tap by tap.
        share: of each output in the error, shape (outputs,).
        most: steps.
        has_intercept: whether there is a place for one.
    """
    gradients = ConjugateGradients(fit.signals, fit.wrong, weights, has_intercept=has_intercept)
    wrong = held.wrong

    def look(steps: int, before: float | None) -> KernelFit:
        after = _error(wrong - _along(gradients.intercept, wrong), share)
        first = after if before is None else before
        return KernelFit(gradients.weights, gradients.intercept, steps, first, after)

    best = look(0, None)
    for step in range(1, most + 1):
        direction, length = gradients.step()
        wrong = wrong - held.signals.contract(direction) * _along(length, wrong)
        now = look(step, best.before)
        if now.after < best.after:
            best = now
        elif step - best.steps >= PATIENCE:
            break
    return best


def _error(off: SignalArray, share: Floats) -> float:
    squares = np.square(off).mean(axis=_but_outputs(off), dtype=np.float64)
    return float((squares * share).sum())


@dataclass(eq=False, slots=True)
class LongKernel:
    """One convolution of the dense network, and how to fit it without some of its channels.

    Attributes:
        geometry: of the convolution.
        images: to fit, at most.
        values: what it reads, images along axis 0, piece by piece.
    """

    geometry: KernelGeometry
    images: int
    values: list[SignalArray] = field(default_factory=list)
    _known: dict[bytes, tuple[Sums, Floats]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        geometry: KernelGeometry,
        x_shape: Sequence[int],
        y_shape: Sequence[int],
        images: int,
    ) -> LongKernel | None:
        """For a convolution; None where mixing its channels does, or this would take too long.

        Args:
            geometry: of the convolution.
            x_shape: of what it reads, (any, channels, *sizes).
            y_shape: of what it gives, (any, outputs, *places).
            images: that could be fitted.
        """
        if not geometry.is_long():
            return None
        each = _macs_an_image(geometry, x_shape, y_shape[1])
        if min(LEAST_IMAGES, images) > int(MACS / each):
            return None
        inputs, places = x_shape[1] * geometry.taps, math.prod(y_shape[2:])
        wanted = max(LEAST_IMAGES, -(-ROWS_AN_INPUT * inputs // places))
        return cls(geometry, min(images, wanted, images_in_spectra(x_shape, geometry)))

    def add(self, x: SignalArray) -> None:
        """Some more of what it reads; what is beyond ``images`` is left."""
        room = self.images - sum(map(len, self.values))
        if room > 0:
            self.values.append(x[:room].astype(np.float32))

    def ablate(self, gone: Ids, matrix: Sums, *, has_intercept: bool) -> tuple[Sums, Floats]:
        """(weights with these channels gone and the rest refitted, change of the mean outputs).

        Args:
            gone: channels.
            matrix: the weights as they are, shape (1, channels * taps, outputs).
            has_intercept: whether there is a place for one.
        """
        key = gone.tobytes()
        if key not in self._known:
            self._known[key] = self._refit(gone, matrix, has_intercept)
        return self._known[key]

    def _refit(self, gone: Ids, matrix: Sums, has_intercept: bool) -> tuple[Sums, Floats]:
        x = self._join()
        stays = np.ones(x.shape[1], bool)
        stays[gone] = False
        kernels = matrix[0].reshape(x.shape[1], -1, matrix.shape[2])
        left, lost = (
            by_tap(part.reshape(-1, matrix.shape[2]), len(part))
            for part in (kernels[stays], kernels[~stays])
        )
        # Of fewer channels, as many more images.
        left_shape = (1, int(stays.sum()), *x.shape[2:])
        each = _macs_an_image(self.geometry, left_shape, matrix.shape[2])
        x = x[: max(LEAST_IMAGES, int(MACS / each))]

        def prepare(part: SignalArray) -> Fitted:
            wrong = SignalSpectra(part[:, ~stays], self.geometry).contract(lost)
            return Fitted(SignalSpectra(part[:, stays], self.geometry), wrong)

        held, fit = prepare(x[: len(x) // HELD]), prepare(x[len(x) // HELD :])
        share = np.ones(matrix.shape[2])
        found = descend(fit, held, left, share, STEPS, has_intercept=has_intercept)
        whole = np.zeros_like(kernels)
        whole[stays] = by_channel(found.weights, int(stays.sum())).reshape(-1, *kernels.shape[1:])
        return whole.reshape(matrix.shape), found.intercept

    def spectra(self, matrix: Sums) -> tuple[Spectra, Spectra]:
        """(mean products of the channels' spectra, spectra of the kernels), of some frequencies.

        Shapes (frequencies, channels, channels) and (frequencies, channels, outputs): of every
        frequency, or of every other and so on where they would be too many. Neighbours are alike,
        as signals are short.
        """
        x = self._join()
        axes = tuple(range(2, x.ndim))
        lengths = tuple(map(max, x.shape[2:], _reach(self.geometry)))
        weights = by_tap(matrix[0], x.shape[1])
        kernels = _multiply(_waves(self.geometry, lengths), weights, x.shape[1])
        counts = _counts(lengths)
        every = max(1, -(-len(kernels) * x.shape[1] ** 2 // MOST_IN_PRODUCTS))
        chosen = slice(every // 2, None, every)
        centred = x - x.mean(axis=(0, *axes), keepdims=True)
        found = _by_frequency(fft.rfftn(centred, lengths, axes))[chosen]
        products = found.conj().transpose(0, 2, 1) @ found
        share = counts[chosen] * counts.sum() / counts[chosen].sum()
        share = share / (len(x) * math.prod(x.shape[2:]) * float(math.prod(lengths)))
        products *= share[:, None, None].astype(np.float32)
        return products, kernels[chosen]

    def _join(self) -> SignalArray:
        if len(self.values) > 1:
            self.values = [np.concatenate(self.values)]
        return self.values[0]


def _macs_an_image(geometry: KernelGeometry, x_shape: Sequence[int], outputs: int) -> float:
    """Of a refit that measures: two products of complex numbers a step."""
    return 2.0 * STEPS * 4 * geometry.frequencies(x_shape[2:]) * x_shape[1] * outputs


def _reach(geometry: KernelGeometry) -> list[int]:
    pairs = zip(geometry.kernel, geometry.dilation, strict=True)
    return [dilation * (kernel - 1) + 1 for kernel, dilation in pairs]


def _counts(lengths: Sequence[int]) -> Floats:
    """How often each frequency of a real transform stands for itself and its mirror image."""
    last = np.full(lengths[-1] // 2 + 1, 2.0)
    last[0] = 1.0
    if lengths[-1] % 2 == 0:
        last[-1] = 1.0
    return np.tile(last, math.prod(lengths[:-1]))
