"""A second proof, independent of the tracing rules: zero the readers and compare.

It takes from the cut only which slices of which tensors are removed. In a copy of the dense model,
those slices that *read* removed channels are set to zero. Which ones read is guessed from the
layout of Keras's kernels, whose last axis is their output. Perturbation tests the guess:

1. perturbing any other removed slice must not change the outputs, so nothing reads it;
2. the small model must give the same outputs as this copy.

Where a perturbation shows in the outputs, further slices are tried as its reader, one at a time. If
none is found, something other than a weight reads the slice: a norm, a sum, computed weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.channels.cut import Cut
from secateurs.channels.independent import (
    Slice,
    is_all_in,
    other_answers,
    slices_of,
    still_read,
)
from secateurs.channels.proof import TOLERANCE, Independent
from secateurs.keras.model.example_inputs import pack_inputs
from secateurs.keras.model.tensors import list_tensors
from secateurs.keras.proof.differences import largest_difference, precision_of
from secateurs.keras.protocols import BackendTensor
from secateurs.keras.surgery.rebuilding import cut_copy

FloatArray = NDArray[np.floating]
Perturbation = Callable[[FloatArray, FloatArray], FloatArray]
"""Function (values of a slice, values of the whole tensor) -> new values of the slice."""


def prove_independently(
    model: keras.Model, cut: Cut, arrays: Sequence[NDArray[np.generic]]
) -> Independent:
    """Zero whatever reads the removed channels, and compare outputs.

    Args:
        model: dense model; unchanged.
        cut: cut without channels that an operation mixes.
        arrays: flat list of inputs. They should be real data: channels that do not affect the
            outputs on them are not proven.

    Raises:
        CutError: something other than a weight reads the channels, or the outputs differ.
    """
    if not cut:
        return Independent(0, 0.0, 0.0, 0.0)
    relative = TOLERANCE[precision_of(model)]
    zeroed = _ZeroedReaders(cut_copy(model, Cut(), compiled=False), cut, arrays, relative)
    unseen = zeroed.find_unread()
    read = zeroed.zero_readers()
    if read:
        raise still_read(read)
    received = _run(cut_copy(model, cut, compiled=False), arrays)
    difference, scale = largest_difference(received, zeroed.outputs())
    tolerance = relative * scale
    if not difference <= tolerance:
        raise other_answers(model.name, zeroed.zero, difference, tolerance)
    return Independent(cut.removed_channels, difference, scale, tolerance, unseen)


class _ZeroedReaders:
    """A copy of the dense model in which the slices that read removed channels are set to zero.

    Attributes:
        zero: slices that were found to read, and are zero.
    """

    def __init__(
        self, model: keras.Model, cut: Cut, arrays: Sequence[NDArray[np.generic]], relative: float
    ) -> None:
        self._model, self._arrays, self._relative = model, arrays, relative
        self._variables = {leaf.name: leaf.variable for leaf in list_tensors(model)}
        self._random = np.random.default_rng(0)
        self._parts = [part for part in slices_of(cut) if self._is_float(part)]
        self.zero: list[Slice] = []

    def outputs(self) -> list[FloatArray]:
        """Return the present outputs of the copy."""
        return _run(self._model, self._arrays)

    def zero_readers(self) -> list[Slice]:
        """Set the readers to zero; return the slices that the outputs still depend on."""
        kernels = [part for part in self._parts if self._is_kernel(part)]
        self._keep_zero(part for part in kernels if part.axis < self._rank(part) - 1)
        read = self._find_read()
        tries = [*([part] for part in kernels), *self._factors(read)]
        # A slice with two readers stops showing only when the second is zero, so the first, which
        # made no difference on its own, is tried once more.
        for parts in [*tries, *tries]:
            if not read or all(is_all_in(part, self.zero) for part in parts):
                continue
            if self._are_readers(parts, read):
                self._keep_zero(parts)
                read = [other for other in self._find_read() if other in read]
        return read

    def _are_readers(self, parts: Sequence[Slice], read: Sequence[Slice]) -> bool:
        """Return whether another slice becomes unread when these are zero."""
        with self._change(parts, _zeros):
            still = self._find_read(but=parts)
        return any(other not in still for other in read if not is_all_in(other, parts))

    def find_unread(self) -> tuple[str, ...]:
        """Return layers whose removed filters do not affect the outputs even before any zeroing."""
        filters: dict[str, list[Slice]] = {}
        for part in self._parts:
            if self._is_kernel(part) and part.axis == self._rank(part) - 1:
                filters.setdefault(part.layer, []).append(part)
        expected = self.outputs()
        return tuple(
            layer for layer, parts in filters.items() if not self._is_read(parts, (), expected)
        )

    def _factors(self, read: Sequence[Slice]) -> Iterator[list[Slice]]:
        """Iterate over all slices of a layer at once, as its output may be a factor that reads."""
        for layer in dict.fromkeys(part.layer for part in read):
            yield [part for part in self._parts if part.layer == layer]

    # -- slices

    def _rank(self, part: Slice) -> int:
        return len(self._variables[part.tensor].shape)

    def _is_float(self, part: Slice) -> bool:
        kind: str = keras.backend.standardize_dtype(self._variables[part.tensor].dtype)
        return "float" in kind

    def _is_kernel(self, part: Slice) -> bool:
        shape: tuple[int, ...] = tuple(self._variables[part.tensor].shape)
        has_one_output = len(shape) > 1 and shape[-1] == 1
        return has_one_output or sum(size > 1 for size in shape) > 1

    def _keep_zero(self, parts: Iterable[Slice]) -> None:
        for part in parts:
            self.zero.append(part)
            variable = self._variables[part.tensor]
            values = _numbers(variable.value)
            values[_index(part)] = 0
            variable.assign(values)

    # -- what is read

    def _find_read(self, but: Sequence[Slice] = ()) -> list[Slice]:
        """Return the non-zero slices that change the outputs when they are perturbed."""
        zero = [*self.zero, *but]
        parts = [part for part in self._parts if not is_all_in(part, zero)]
        expected = self.outputs()
        if not self._is_read(parts, zero, expected):
            return []
        return [part for part in parts if self._is_read([part], zero, expected)]

    def _is_read(
        self,
        parts: Sequence[Slice],
        zero: Sequence[Slice],
        expected: Sequence[FloatArray],
    ) -> bool:
        with self._change(parts, self._perturb, keep=zero):
            difference, scale = largest_difference(self.outputs(), expected)
        return bool(difference > self._relative * scale)

    def _perturb(self, values: FloatArray, whole: FloatArray) -> FloatArray:
        size = float(np.abs(whole).mean()) or 1.0
        return np.asarray(values + size * (0.5 + self._random.random(values.shape)))

    @contextmanager
    def _change(
        self, parts: Sequence[Slice], change: Perturbation, keep: Sequence[Slice] = ()
    ) -> Iterator[None]:
        """Temporarily change the values of some slices, except where they overlap with ``keep``."""
        before = {name: _numbers(self._variables[name].value) for name in {p.tensor for p in parts}}
        after = {name: values.copy() for name, values in before.items()}
        for part in parts:
            values = after[part.tensor]
            values[_index(part)] = change(values[_index(part)], before[part.tensor])
        for part in keep:
            if part.tensor in after:
                after[part.tensor][_index(part)] = before[part.tensor][_index(part)]
        try:
            self._assign(after)
            yield
        finally:
            self._assign(before)

    def _assign(self, values: dict[str, FloatArray]) -> None:
        for name, numbers in values.items():
            self._variables[name].assign(numbers)


def _zeros(values: FloatArray, whole: FloatArray) -> FloatArray:
    del whole
    return np.zeros_like(values)


def _index(part: Slice) -> tuple[slice | list[int], ...]:
    return (*[slice(None)] * part.axis, list(part.indices))


def _numbers(tensor: BackendTensor) -> FloatArray:
    if keras.backend.standardize_dtype(tensor.dtype) == "bfloat16":
        tensor = keras.ops.cast(tensor, "float32")
    return np.array(keras.ops.convert_to_numpy(tensor))


def _run(model: keras.Model, arrays: Sequence[NDArray[np.generic]]) -> list[FloatArray]:
    given = [keras.ops.convert_to_tensor(array) for array in arrays]
    outputs = model(pack_inputs(model, given), training=False)
    return [_numbers(one) for one in keras.tree.flatten(outputs)]
