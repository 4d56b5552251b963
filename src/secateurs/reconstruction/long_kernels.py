"""Least squares for convolutions with long kernels: conjugate gradients by Fourier transforms.

A kernel of 64 taps over 1,024 channels has 65,536 inputs: their products would take 34 GB, and one
pass of the convolution over a few hundred signals takes minutes. Conjugate gradients need only the
convolution and its transpose, which both multiply spectra: at each frequency one product of
channels by outputs, however many taps there are. Few steps are made, because early stopping acts
as a ridge would.
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
"""Least number of taps: mixing channels has one unknown where a refit of taps has this many."""

RIDGE = 1e-2
"""Ridge of the preconditioner, relative to the mean of the products' diagonal."""

STEPS = 8
"""Most steps of a refit that only measures the cost of a cut."""

MACS = 1e11
"""MACs that such a refit may take: about three seconds of one core. Beyond, channels are mixed."""

MOST_STEPS = 60
PATIENCE = 3
"""Steps without a lower error on held-out images after which a fit ends."""

MOST_NUMBERS = 2**26
"""Most numbers in the spectra of signals: half a gigabyte."""

MOST_IN_PRODUCTS = 2**25
"""Most numbers in products of spectra, which are inverted."""

HELD = 8
"""One image in ``HELD`` is held out to decide when such a refit stops."""

LEAST_IMAGES = 64
ROWS_AN_INPUT = 2
"""Wanted output places for each input of a patch, if there are enough images."""


@dataclass(frozen=True, slots=True)
class KernelGeometry:
    """Geometry of a convolution's patches.

    Attributes:
        kernel: lengths of the kernel.
        stride: stride of the patches.
        padding: zeros (before, behind) each axis.
        dilation: dilation of the kernel.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]

    @property
    def taps(self) -> int:
        """Number of taps of the kernel."""
        return math.prod(self.kernel)

    def is_long(self) -> bool:
        """Whether spectra are cheaper than patches, and nothing is cropped."""
        cropped = any(side < 0 for pair in self.padding for side in pair)
        return self.taps >= LEAST_TAPS and not cropped

    def lengths(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Lengths of the transforms: long enough that no patch wraps around the end."""
        padded = (n + sum(pair) for n, pair in zip(sizes, self.padding, strict=True))
        return tuple(fft.next_fast_len(length, real=True) for length in padded)

    def frequencies(self, sizes: Sequence[int]) -> int:
        """Number of frequencies of the transforms."""
        *front, last = self.lengths(sizes)
        return math.prod(front) * (last // 2 + 1)


class SignalSpectra:
    """Spectra of the input of a convolution.

    Weights are ordered tap by tap here, (taps * channels, outputs), so that their spectra are one
    product with a matrix of waves, in the order in which memory is read.

    Args:
        x: input signals, shape (images, channels, *sizes).
        geometry: geometry of the convolution.
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
        """Apply the convolution; returns shape (images, outputs, *places)."""
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
        """Approximate inverse of the normal equations, applied frequency by frequency.

        Away from a signal's ends the products of inputs are those of spectra, so their inverse is
        one small matrix for each frequency.

        Args:
            ridge: ridge added to the products, relative to the mean of their diagonal.
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
        """Conjugates of the kernels' spectra, shape (frequencies, channels, outputs)."""
        return _multiply(self._waves, weights, self.channels)

    def _kernels(self, conjugates: Spectra) -> Array:
        """The reverse of ``_conjugates``: the taps of the kernels, other places dropped."""
        flat = conjugates.reshape(len(conjugates), -1)
        scale = (_counts(self._lengths) / math.prod(self._lengths)).astype(np.float32)
        real, imaginary = (np.ascontiguousarray(part) for part in (flat.real, flat.imag))
        weights: Array = (self._waves.real * scale[:, None]).T @ real
        weights += (self._waves.imag * scale[:, None]).T @ imaginary
        return weights.reshape(self.taps * self.channels, -1)


def by_tap(matrix: Array, channels: int) -> Array:
    """Reorder (channels * taps, outputs) to (taps * channels, outputs)."""
    split = matrix.reshape(channels, -1, matrix.shape[1]).transpose(1, 0, 2)
    return np.ascontiguousarray(split, np.float32).reshape(matrix.shape)


def by_channel(weights: Array, channels: int) -> Array:
    """The reverse of ``by_tap``."""
    split = weights.reshape(-1, channels, weights.shape[1]).transpose(1, 0, 2)
    return np.ascontiguousarray(split).reshape(weights.shape)


def _waves(geometry: KernelGeometry, lengths: Sequence[int]) -> Spectra:
    """Waves whose product with kernels is their spectra's conjugate, shape (frequencies, taps)."""
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
    """Reorder (a, b, *frequencies) to (frequencies, a, b)."""
    flat = spectra.reshape(*spectra.shape[:2], -1).transpose(2, 0, 1)
    return np.ascontiguousarray(flat, np.complex64)


class ConjugateGradients:
    """Least-squares fit of a convolution to its targets, step by step.

    Outputs are separate problems, so each has its own step length. Directions are those of Polak
    and Ribiere, which restart where rounding has spoilt them.

    Args:
        signals: spectra of the input.
        wrong: residual (target minus output), shape (images, outputs, *places).
        weights: present weights, tap by tap, shape (taps * channels, outputs).
        has_intercept: whether there is a bias; if so, only deviations from the mean count.

    Attributes:
        weights: weights after the steps so far.
        wrong: residual after the steps so far.
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
        # The preconditioner holds one channels x channels matrix per frequency, as much as that
        # many images. With fewer images it costs more than it saves.
        affordable = signals.channels <= signals.images
        self._precondition = signals.preconditioner(RIDGE) if affordable else _identity
        self._gradient = signals.transpose(self._centre(wrong))
        self._step = self._direction = self._precondition(self._gradient)

    @property
    def intercept(self) -> Floats:
        """Mean residual of each output, shape (outputs,); zeros if there is no bias."""
        if not self._has_intercept:
            return np.zeros(self.wrong.shape[1])
        return _mean(self.wrong).astype(np.float64)

    def step(self) -> tuple[Array, Array]:
        """Make one step; returns (the direction, step length of each output)."""
        direction = self._direction
        given = self._signals.contract(direction)
        curvature = np.square(self._centre(given)).sum(axis=_all_axes_but_outputs(given))
        # Minimise the error along the direction, even where rounding has spoilt it.
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


def _identity(gradient: Array) -> Array:
    return gradient


def _all_axes_but_outputs(given: SignalArray) -> tuple[int, ...]:
    return (0, *range(2, given.ndim))


def _mean(given: SignalArray) -> Array:
    found: Array = given.mean(axis=_all_axes_but_outputs(given), dtype=np.float64).astype(
        np.float32
    )
    return found


def _along(vector: Array, given: SignalArray) -> Floats:
    return vector.reshape(1, -1, *[1] * (given.ndim - 2)).astype(np.float32)


@dataclass(frozen=True, eq=False, slots=True)
class SignalRows:
    """Signals at a convolution with a long kernel.

    Attributes:
        x: inputs, shape (images, channels, *sizes).
        y: targets, shape (images, outputs, *places).
    """

    x: SignalArray
    y: SignalArray

    @classmethod
    def join(cls, parts: Sequence[SignalRows]) -> SignalRows:
        """Concatenate the images of all parts."""
        return cls(
            np.concatenate([one.x for one in parts]), np.concatenate([one.y for one in parts])
        )


def images_in_spectra(x_shape: Sequence[int], geometry: KernelGeometry) -> int:
    """Most images whose spectra are held at once; ``x_shape`` is (any, channels, *sizes)."""
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
    """``least_squares.refit`` from signals instead of sums, for one group.

    The number of steps is chosen on held-out images; as many are then made on all images.

    Args:
        fit: signals to fit.
        held: held-out signals, on which the number of steps is chosen.
        geometry: geometry of the convolution.
        weights: present weights, shape (1, channels * taps, outputs).
        importance: weight of each output, shape (1, outputs); None for equal weights.
        has_intercept: whether there is a bias.
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
        signals: spectra of the input.
        wrong: residual (target minus output), shape (images, outputs, *places).
    """

    signals: SignalSpectra
    wrong: SignalArray


@dataclass(frozen=True, eq=False, slots=True)
class KernelFit:
    """Weights with the least error on held-out images.

    Attributes:
        weights: weights, tap by tap, shape (taps * channels, outputs).
        intercept: change of the mean outputs, shape (outputs,).
        steps: number of steps; 0 if the initial weights are best.
        before: held-out error of the initial weights.
        after: held-out error of these weights.
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
    """Conjugate gradients on some images, as long as they reduce the error on others.

    Args:
        fit: images to fit.
        held: held-out images, on which the number of steps is chosen.
        weights: initial weights, tap by tap.
        share: weight of each output in the error, shape (outputs,).
        most: largest number of steps.
        has_intercept: whether there is a bias.
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
    squares = np.square(off).mean(axis=_all_axes_but_outputs(off), dtype=np.float64)
    return float((squares * share).sum())


@dataclass(eq=False, slots=True)
class LongKernel:
    """One convolution of the dense network, and its refit without some of its channels.

    Attributes:
        geometry: geometry of the convolution.
        images: most images to fit.
        values: inputs of the convolution, images along axis 0, in pieces.
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
        """Prepare a convolution; None if mixing its channels suffices or a refit takes too long.

        Args:
            geometry: geometry of the convolution.
            x_shape: shape of its input, (any, channels, *sizes).
            y_shape: shape of its output, (any, outputs, *places).
            images: number of images available.
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
        """Store more inputs, up to ``images`` in total."""
        room = self.images - sum(map(len, self.values))
        if room > 0:
            self.values.append(x[:room].astype(np.float32))

    def ablate(self, gone: Ids, matrix: Sums, *, has_intercept: bool) -> tuple[Sums, Floats]:
        """(weights without these channels and the rest refitted, change of the mean outputs).

        Args:
            gone: removed channels.
            matrix: present weights, shape (1, channels * taps, outputs).
            has_intercept: whether there is a bias.
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
        # With fewer channels, proportionally more images are affordable.
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
        """(mean products of the channels' spectra, spectra of the kernels) at some frequencies.

        Shapes (frequencies, channels, channels) and (frequencies, channels, outputs): at every
        frequency, or at every other (third, ...) one where there are too many. Neighbouring
        frequencies are alike because signals are short.
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
    """MACs per image of a refit that measures: two products of complex numbers per step."""
    return 2.0 * STEPS * 4 * geometry.frequencies(x_shape[2:]) * x_shape[1] * outputs


def _reach(geometry: KernelGeometry) -> list[int]:
    pairs = zip(geometry.kernel, geometry.dilation, strict=True)
    return [dilation * (kernel - 1) + 1 for kernel, dilation in pairs]


def _counts(lengths: Sequence[int]) -> Floats:
    """Multiplicity of each frequency of a real transform: 2 with its mirror image, else 1."""
    last = np.full(lengths[-1] // 2 + 1, 2.0)
    last[0] = 1.0
    if lengths[-1] % 2 == 0:
        last[-1] = 1.0
    return np.tile(last, math.prod(lengths[:-1]))
