"""Layers as matrix products of patches in NumPy, the form in which least squares are solved.

A convolution of any rank, stride, padding, dilation and number of groups, a depthwise and a
transposed one, a dense layer, an einsum with one weight, and the scale and shift of a
normalisation all become ``y = u Z + b`` with ``u`` of shape (groups, rows, inputs). A transposed
convolution reads its patches from an input with zeros inserted between its values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import EllipsisType
from typing import Protocol, TypeVar

import keras
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from secateurs.keras.internals import Layer, Variable
from secateurs.keras.tracing.op_record import Axes
from secateurs.keras.tracing.rules.contraction import channel_axis, spell_out
from secateurs.reconstruction.drawing import EVERYWHERE, Present, draw_rows
from secateurs.reconstruction.long_kernels import KernelGeometry

Numbers = NDArray[np.float32]
Sums = NDArray[np.float64]
Places = NDArray[np.int64]
AxesOf = Callable[[Variable], Axes]

Scalar = TypeVar("Scalar", bound=np.generic)


class Map(Protocol):
    """A contraction, or a normalisation's scale and shift, as a linear map of patches."""

    kernel: Variable
    bias: Variable | None

    @property
    def groups(self) -> int:
        """Number of groups, each with a matrix of its own."""

    @property
    def inputs(self) -> int:
        """Number of inputs for each output."""

    @property
    def outputs(self) -> int:
        """Number of outputs of each group."""

    @property
    def is_norm(self) -> bool:
        """Whether it belongs to a normalisation."""

    @property
    def channel(self) -> int | None:
        """Axis of the result along which all outputs lie; None if there are several."""

    def matrix(self, weights: Numbers) -> Sums:
        """The weights as (groups, inputs, outputs)."""

    def weight_from(self, matrix: Sums) -> Sums:
        """The inverse of ``matrix``: values in the weight's shape."""

    def bias_from(self, intercept: Sums) -> Sums:
        """Reshape an intercept (groups, outputs) to the shape of the bias."""

    def bias_rows(self, bias: Numbers) -> Numbers:
        """Return the bias in the shape (groups, 1, outputs)."""

    def patches(self, x: Numbers, like: Sequence[int], chosen: Places | None) -> Numbers:
        """Return patches of the input, (groups, rows, inputs); ``like`` is the result's shape."""

    def rows(self, y: Numbers) -> Numbers:
        """Return a value of the result's shape as rows, (groups, rows, outputs)."""

    def along_channels(self, vector: NDArray[Scalar], rank: int) -> NDArray[Scalar]:
        """Reshape a vector with one number per output to broadcast against the result."""

    def output_axes(self, axes_of: AxesOf) -> Axes:
        """Return the units along the axes of the result, taken from the weights."""

    def input_axes(self, axes_of: AxesOf) -> Axes:
        """Return the units along the axes of the input, taken from the weights."""


def tables(
    known: Map,
    x: Numbers,
    targets: Sequence[Numbers],
    per_image: int,
    seed: int,
    present: Present = EVERYWHERE,
) -> tuple[Numbers, list[Numbers]]:
    """Sample rows of patches for least squares, with rows of the targets; padding is excluded.

    Args:
        known: the contraction.
        x: its input.
        targets: values of the shape of its result.
        per_image: maximum number of rows per image, sampled at random.
        seed: seed of the random generator.
        present: positions that are not padding.

    Returns:
        (patches of shape (groups, rows, inputs), targets of shape (groups, rows, outputs)).
    """
    rows = [known.rows(target) for target in targets]
    each = max(1, rows[0].shape[1] // len(x))
    chosen = draw_rows(len(x), each, per_image, seed, present)
    if chosen is not None:
        rows = [table[:, chosen] for table in rows]
    return known.patches(x, targets[0].shape, chosen), rows


# -- einsums


@dataclass(eq=False, slots=True)
class EinsumMap:
    """A dense layer, or any einsum with one weight, as a linear map.

    Attributes:
        kernel: the weight.
        bias: the bias, or None.
        words: letters of the input, the weight and the result.
        front: letter of the weight that orders the inputs first; '' keeps their order.
    """

    kernel: Variable
    bias: Variable | None
    words: tuple[str, str, str]
    front: str = ""
    is_norm: bool = False

    @classmethod
    def of(
        cls, kernel: Variable, bias: Variable | None, words: tuple[str, str, str]
    ) -> EinsumMap | None:
        """Build the map; None if a letter is summed in one operand only, or the bias misfits."""
        read, weight, result = words
        known = all(len(set(word)) == len(word) for word in words)
        met = set(weight) <= set(read) | set(result) and set(read) <= set(weight) | set(result)
        made = cls(kernel, bias, words)
        if not known or not met or not set(result) <= set(read) | set(weight):
            return None
        if bias is not None and math.prod(bias.shape) != made.groups * made.outputs:
            return None
        return made

    @classmethod
    def of_matrix(cls, weight: Variable, rank: int) -> EinsumMap | None:
        """Build the map of a plain matrix product."""
        if len(weight.shape) != 2 or rank < 2:
            return None
        lead = "abcdefgh"[: rank - 1]
        return cls.of(weight, None, (f"{lead}i", "io", f"{lead}o"))

    def with_front(self, letter: str) -> EinsumMap:
        """Return the map with its inputs ordered by this letter first."""
        return EinsumMap(self.kernel, self.bias, self.words, letter)

    @property
    def input_letters(self) -> str:
        """The summed letters, in the order of the inputs."""
        read, weight, result = self.words
        letters = [one for one in weight if one in read and one not in result]
        return "".join(sorted(letters, key=lambda one: one != self.front))

    @property
    def _group_letters(self) -> str:
        read, weight, result = self.words
        return "".join(one for one in result if one in read and one in weight)

    @property
    def _output_letters(self) -> str:
        read, weight, result = self.words
        return "".join(one for one in result if one in weight and one not in read)

    @property
    def _batch_letters(self) -> str:
        read, weight, result = self.words
        return "".join(one for one in result if one in read and one not in weight)

    def _size(self, letters: str) -> int:
        return math.prod(self.kernel.shape[self.words[1].index(one)] for one in letters)

    @property
    def groups(self) -> int:
        return self._size(self._group_letters)

    @property
    def inputs(self) -> int:
        return self._size(self.input_letters)

    @property
    def outputs(self) -> int:
        return self._size(self._output_letters)

    @property
    def channel(self) -> int | None:
        both = self._group_letters + self._output_letters
        return self.words[2].index(both) if len(both) == 1 else None

    def taps(self, letter: str) -> int:
        """Return the number of inputs per index along a letter."""
        return self.inputs // self._size(letter)

    def matrix(self, weights: Numbers) -> Sums:
        order = self._group_letters + self.input_letters + self._output_letters
        found = _transpose(weights, self.words[1], order)
        return found.reshape(self.groups, self.inputs, self.outputs).astype(np.float64)

    def weight_from(self, matrix: Sums) -> Sums:
        order = self._group_letters + self.input_letters + self._output_letters
        shape = [self._size(one) for one in order]
        return _transpose(matrix.reshape(shape), order, self.words[1])

    def bias_from(self, intercept: Sums) -> Sums:
        """Reorder outputs to the letters of the result, which is the order of the bias."""
        order = self._group_letters + self._output_letters
        shape = [self._size(one) for one in order]
        wanted = "".join(one for one in self.words[2] if one in order)
        moved = _transpose(intercept.reshape(shape), order, wanted)
        found: Sums = moved.reshape(tuple(self.bias.shape)) if self.bias is not None else moved
        return found

    def bias_rows(self, bias: Numbers) -> Numbers:
        order = self._group_letters + self._output_letters
        given = "".join(one for one in self.words[2] if one in order)
        laid = bias.reshape([self._size(one) for one in given])
        return _transpose(laid, given, order).reshape(self.groups, 1, self.outputs)

    def patches(self, x: Numbers, like: Sequence[int], chosen: Places | None) -> Numbers:
        del like
        order = self._group_letters + self._batch_letters + self.input_letters
        found = _transpose(x, self.words[0], order).reshape(self.groups, -1, self.inputs)
        return found if chosen is None else found[:, chosen]

    def rows(self, y: Numbers) -> Numbers:
        order = self._group_letters + self._batch_letters + self._output_letters
        return _transpose(y, self.words[2], order).reshape(self.groups, -1, self.outputs)

    def along_channels(self, vector: NDArray[Scalar], rank: int) -> NDArray[Scalar]:
        if vector.ndim == 0:
            return vector
        order = self._group_letters + self._output_letters
        sizes = [self._size(one) for one in order]
        wanted = "".join(one for one in self.words[2] if one in order)
        moved = _transpose(vector.reshape(sizes), order, wanted)
        shape = [self._size(one) if one in order else 1 for one in self.words[2]]
        return moved.reshape(shape)

    def output_axes(self, axes_of: AxesOf) -> Axes:
        return self._along(self.words[2], axes_of)

    def input_axes(self, axes_of: AxesOf) -> Axes:
        return self._along(self.words[0], axes_of)

    def _along(self, word: str, axes_of: AxesOf) -> Axes:
        along, weight = axes_of(self.kernel), self.words[1]
        return {
            axis: along[weight.index(one)]
            for axis, one in enumerate(word)
            if one in weight and weight.index(one) in along
        }


def _transpose(array: NDArray[Scalar], word: str, order: str) -> NDArray[Scalar]:
    return array.transpose([word.index(one) for one in order])


def dense_map(layer: Layer, rank: int) -> EinsumMap | None:
    """Return the map of a dense layer."""
    lead = "abcdefgh"[: rank - 1]
    return EinsumMap.of(layer.kernel, layer.bias, (f"{lead}i", "io", f"{lead}o"))


def einsum_map(layer: Layer, rank: int) -> EinsumMap | None:
    """Return the map of an ``EinsumDense``."""
    return EinsumMap.of(layer.kernel, layer.bias, spell_out(layer.equation, rank))


# -- convolutions


@dataclass(eq=False, slots=True)
class ConvolutionMap:
    """A convolution as a linear map.

    Attributes:
        kernel: weight of shape (*kernel, inputs, outputs); transposed (*kernel, outputs, inputs).
        bias: the bias, or None.
        channel: channel axis of the input and the result.
        strides: strides of the patches.
        dilation: dilation of the kernel.
        padding: 'valid', 'same' or 'causal'.
        groups: number of groups of channels.
        is_depthwise: whether each channel is a group.
        is_transposed: whether it is a transposed convolution, whose strides spread the input.
    """

    kernel: Variable
    bias: Variable | None
    channel: int
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: str
    groups: int = 1
    is_depthwise: bool = False
    is_transposed: bool = False
    is_norm: bool = False

    @property
    def taps(self) -> int:
        """Number of inputs per channel: the kernel's positions."""
        return math.prod(self.kernel.shape[:-2])

    @property
    def inputs(self) -> int:
        if self.is_depthwise:
            return self.taps
        return self.taps * int(self.kernel.shape[-1 if self.is_transposed else -2])

    @property
    def outputs(self) -> int:
        if self.is_depthwise:
            return int(self.kernel.shape[-1])
        return int(self.kernel.shape[-2 if self.is_transposed else -1]) // self.groups

    def matrix(self, weights: Numbers) -> Sums:
        kernel = weights.astype(np.float64)
        space = tuple(range(kernel.ndim - 2))
        if self.is_depthwise:
            return np.moveaxis(kernel, -2, 0).reshape(self.groups, self.inputs, self.outputs)
        if self.is_transposed:
            flipped = np.flip(kernel, space)
            return np.moveaxis(flipped, -1, 0)[None].reshape(1, self.inputs, self.outputs)
        moved = np.moveaxis(kernel, -2, 0)  # inputs, kernel, outputs
        split = moved.reshape(self.inputs, self.groups, self.outputs)
        return split.transpose(1, 0, 2)

    def weight_from(self, matrix: Sums) -> Sums:
        shape = tuple(self.kernel.shape)
        kernel = shape[:-2]
        if self.is_depthwise:
            return np.moveaxis(matrix.reshape(self.groups, *kernel, self.outputs), 0, -2)
        if self.is_transposed:
            moved = np.moveaxis(matrix.reshape(shape[-1], *kernel, self.outputs), 0, -1)
            return np.flip(moved, tuple(range(len(kernel))))
        joined = matrix.transpose(1, 0, 2).reshape(shape[-2], *kernel, shape[-1])
        return np.moveaxis(joined, 0, -2)

    def bias_from(self, intercept: Sums) -> Sums:
        return intercept.reshape(-1)

    def bias_rows(self, bias: Numbers) -> Numbers:
        return bias.reshape(self.groups, 1, self.outputs)

    def long_geometry(self, x: Sequence[int], y: Sequence[int]) -> KernelGeometry | None:
        """Return the geometry of a convolution with a long kernel and one group; else None.

        Args:
            x: shape of the input.
            y: shape of the result.
        """
        if self.is_transposed or self.is_depthwise or self.groups > 1:
            return None
        kernel = tuple(map(int, self.kernel.shape[:-2]))
        zeros = tuple(self._zeros(self._space(x), self._space(y)))
        geometry = KernelGeometry(kernel, self.strides, zeros, self.dilation)
        return geometry if geometry.is_long() else None

    def channels_second(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Reorder the shape of an input or result to (images, channels, *sizes)."""
        return (shape[0], shape[self.channel], *self._space(shape))

    def patches(self, x: Numbers, like: Sequence[int], chosen: Places | None) -> Numbers:
        windows = self._windows(np.moveaxis(x, self.channel, -1), self._space(like))
        rank = len(self.strides)
        places = windows.shape[1 : 1 + rank]
        if chosen is not None:
            windows = windows[np.unravel_index(chosen, (len(x), *places))]
        flat = windows.reshape(-1, self.groups, self.inputs)
        return np.ascontiguousarray(flat.transpose(1, 0, 2))

    def _space(self, shape: Sequence[int]) -> list[int]:
        return [length for axis, length in enumerate(shape) if axis not in (0, self.channel)]

    def _windows(self, x: Numbers, places: Sequence[int]) -> Numbers:
        """Return windows (images, *places, channels, *kernel), a view where there is no padding."""
        space = tuple(range(1, 1 + len(places)))
        x = self._spread(x) if self.is_transposed else x
        x = np.pad(x, [(0, 0), *self._zeros(x.shape[1:-1], places), (0, 0)])
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel.shape, strict=False)]
        every = sliding_window_view(x, reach, axis=space)
        steps = (1,) * len(places) if self.is_transposed else self.strides
        index: list[slice | EllipsisType] = [slice(None)]
        index += [slice(None, None, step) for step in steps]
        index += [..., *(slice(None, None, step) for step in self.dilation)]
        found: Numbers = every[tuple(index)]
        return found

    def _spread(self, x: Numbers) -> Numbers:
        lengths = [(n - 1) * s + 1 for n, s in zip(x.shape[1:-1], self.strides, strict=True)]
        spread = np.zeros((len(x), *lengths, x.shape[-1]), x.dtype)
        spread[(slice(None), *(slice(None, None, step) for step in self.strides))] = x
        return spread

    def _zeros(self, space: Sequence[int], places: Sequence[int]) -> list[tuple[int, int]]:
        """Return the padding (before, after) of each spatial axis."""
        found = []
        sizes = zip(space, places, self.kernel.shape, self.strides, self.dilation, strict=False)
        for length, count, kernel, stride, dilation in sizes:
            reach = dilation * (kernel - 1)
            if self.is_transposed:
                # 'same' crops half of the kernel's reach beyond the stride at the front.
                off = max(reach + 1 - stride, 0) // 2 if self.padding == "same" else 0
                before = reach - off
                found.append((before, max(0, count - 1 - (length - 1) + reach - before)))
                continue
            missing = max(0, (count - 1) * stride + reach + 1 - length)
            before = {"same": missing // 2, "causal": missing}.get(self.padding, 0)
            found.append((before, missing - before))
        return found

    def rows(self, y: Numbers) -> Numbers:
        flat = np.moveaxis(y, self.channel, -1).reshape(-1, self.groups, self.outputs)
        return flat.transpose(1, 0, 2)

    def along_channels(self, vector: NDArray[Scalar], rank: int) -> NDArray[Scalar]:
        return _along(vector, self.channel, rank)

    def output_axes(self, axes_of: AxesOf) -> Axes:
        """Return the units of the result; in a depthwise one, a channel's outputs are adjacent."""
        along, last = axes_of(self.kernel), len(self.kernel.shape) - 1
        if not self.is_depthwise:
            made = along.get(last - 1 if self.is_transposed else last)
            return {} if made is None else {self.channel: made}
        made = along.get(last - 1)
        return {} if made is None else {self.channel: np.repeat(made, self.outputs)}

    def input_axes(self, axes_of: AxesOf) -> Axes:
        along, last = axes_of(self.kernel), len(self.kernel.shape) - 1
        read = along.get(last if self.is_transposed else last - 1)
        return {} if read is None or self.groups > 1 else {self.channel: read}


def _along(vector: NDArray[Scalar], axis: int, rank: int) -> NDArray[Scalar]:
    if vector.ndim == 0:
        return vector
    shape = [1] * rank
    shape[axis] = -1
    return vector.reshape(shape)


def kernel_map(layer: Layer, rank: int) -> ConvolutionMap | None:
    """Return the map of a convolution, which may be depthwise or transposed."""
    depthwise = hasattr(layer, "depth_multiplier")
    transposed = hasattr(layer, "output_padding")
    channel = channel_axis(layer, rank)
    kernel = layer.kernel
    groups = int(kernel.shape[-2]) if depthwise else getattr(layer, "groups", 1)
    return ConvolutionMap(
        kernel,
        layer.bias,
        channel,
        _each(layer.strides, rank - 2),
        _each(layer.dilation_rate, rank - 2),
        layer.padding,
        groups,
        depthwise,
        transposed,
    )


def depthwise_map(layer: Layer, rank: int) -> ConvolutionMap:
    """Return the map of a separable convolution's depthwise step, which has no bias."""
    kernel = layer.depthwise_kernel
    return ConvolutionMap(
        kernel,
        None,
        channel_axis(layer, rank),
        _each(layer.strides, rank - 2),
        _each(layer.dilation_rate, rank - 2),
        layer.padding,
        int(kernel.shape[-2]),
        True,
    )


def pointwise_map(layer: Layer, rank: int) -> ConvolutionMap:
    """Return the map of a separable convolution's pointwise step."""
    ones = (1,) * (rank - 2)
    channel = channel_axis(layer, rank)
    return ConvolutionMap(layer.pointwise_kernel, layer.bias, channel, ones, ones, "valid")


def _each(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


# -- normalisations


@dataclass(eq=False, slots=True)
class NormMap:
    """The scale and shift of a normalisation as a linear map: one input and output per channel.

    Attributes:
        kernel: the scale.
        bias: the shift, or None.
        channel: channel axis.
        normalise: function that computes the result without scale and shift.
    """

    kernel: Variable
    bias: Variable | None
    channel: int
    normalise: Callable[[Numbers], Numbers]
    groups: int = field(init=False)
    inputs: int = 1
    outputs: int = 1
    is_norm: bool = True

    def __post_init__(self) -> None:
        self.groups = int(self.kernel.shape[0])

    def matrix(self, weights: Numbers) -> Sums:
        return weights.reshape(-1, 1, 1).astype(np.float64)

    def weight_from(self, matrix: Sums) -> Sums:
        return matrix.reshape(-1)

    def bias_from(self, intercept: Sums) -> Sums:
        return intercept.reshape(-1)

    def bias_rows(self, bias: Numbers) -> Numbers:
        return bias.reshape(self.groups, 1, self.outputs)

    def patches(self, x: Numbers, like: Sequence[int], chosen: Places | None) -> Numbers:
        del like
        found = self.rows(self.normalise(x))
        return found if chosen is None else found[:, chosen]

    def rows(self, y: Numbers) -> Numbers:
        flat = np.moveaxis(y, self.channel, -1).reshape(-1, self.groups)
        return flat.T[:, :, None]

    def along_channels(self, vector: NDArray[Scalar], rank: int) -> NDArray[Scalar]:
        return _along(vector, self.channel, rank)

    def output_axes(self, axes_of: AxesOf) -> Axes:
        units = axes_of(self.kernel).get(0)
        return {} if units is None else {self.channel: units}

    def input_axes(self, axes_of: AxesOf) -> Axes:
        return self.output_axes(axes_of)


def norm_map(layer: Layer, rank: int) -> NormMap | None:
    """Return the map of a normalisation; None if it has no scale along a single axis."""
    kind = type(layer).__name__
    root_only = kind == "RMSNormalization" or bool(getattr(layer, "rms_scaling", False))
    kernel = layer.scale if kind == "RMSNormalization" else getattr(layer, "gamma", None)
    axis = getattr(layer, "axis", -1)
    axes = list(axis) if isinstance(axis, (list, tuple)) else [axis]
    if not isinstance(kernel, Variable) or len(kernel.shape) != 1 or len(axes) != 1:
        return None
    channel = axes[0] % rank
    bias = getattr(layer, "beta", None)
    if kind == "BatchNormalization":
        return NormMap(kernel, bias, channel, _by_moments(layer, channel))
    if kind == "GroupNormalization":
        return NormMap(kernel, bias, channel, _by_groups(layer, channel))
    return NormMap(kernel, bias, channel, _by_channels(layer.epsilon, channel, root_only))


def _by_channels(epsilon: float, axis: int, root_only: bool) -> Callable[[Numbers], Numbers]:
    def normalise(x: Numbers) -> Numbers:
        mean = 0.0 if root_only else x.mean(axis=axis, keepdims=True)
        square = np.square(x - mean).mean(axis=axis, keepdims=True)
        found: Numbers = (x - mean) / np.sqrt(square + epsilon)
        return found

    return normalise


def _by_groups(layer: Layer, axis: int) -> Callable[[Numbers], Numbers]:
    def normalise(x: Numbers) -> Numbers:
        moved = np.moveaxis(x, axis, -1)
        groups = layer.groups if layer.groups != -1 else moved.shape[-1]
        split = moved.reshape(*moved.shape[:-1], groups, -1)
        over = (*range(1, moved.ndim - 1), moved.ndim)
        mean = split.mean(axis=over, keepdims=True)
        square = np.square(split - mean).mean(axis=over, keepdims=True)
        found = (split - mean) / np.sqrt(square + layer.epsilon)
        return np.moveaxis(found.reshape(moved.shape), -1, axis)

    return normalise


def _by_moments(layer: Layer, axis: int) -> Callable[[Numbers], Numbers]:
    def normalise(x: Numbers) -> Numbers:
        mean, variance = (
            _along(np.asarray(keras.ops.convert_to_numpy(one.value)), axis, x.ndim)
            for one in (layer.moving_mean, layer.moving_variance)
        )
        found: Numbers = (x - mean) / np.sqrt(variance + layer.epsilon)
        return found

    return normalise
