"""A second proof that shares nothing with the rules: silence who reads, and nothing may change.

Nothing is asked of the rules but which slices of which tensors go. In a copy of the dense model
the *readers* among these slices are set to zero: by the layout of Keras's kernels, whose last axis
is what they make. That is a guess, and poking tells whether it was right:

1. poking at every other slice that goes must leave the answers as they are: nobody reads it;
2. the small model must answer what this copy answers.

Where a poke is seen, one more slice at a time is tried for the reader. What is read all the same is
read by something besides weights: a norm, a sum, weights computed of others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
Poke = Callable[[FloatArray, FloatArray], FloatArray]


def prove_independently(
    model: keras.Model, cut: Cut, arrays: Sequence[NDArray[np.generic]]
) -> Independent:
    """Silence what reads the channels that go, and compare.

    Args:
        model: the dense model; unchanged.
        cut: of channels that no operation mixes.
        arrays: inputs; real ones: what they do not reach proves nothing.

    Raises:
        CutError: something else reads the channels, or the answers are not the same.
    """
    if not cut:
        return Independent(0, 0.0, 0.0, 0.0)
    relative = TOLERANCE[precision_of(model)]
    silenced = _Silenced(cut_copy(model, Cut(), compiled=False), cut, arrays, relative)
    unheard = silenced.find_unread()
    read = silenced.silence()
    if read:
        raise still_read(read)
    received = _answers(cut_copy(model, cut, compiled=False), arrays)
    difference, scale = largest_difference(received, silenced.answers())
    tolerance = relative * scale
    if not difference <= tolerance:
        raise other_answers(model.name, silenced.zero, difference, tolerance)
    return Independent(cut.removed_channels, difference, scale, tolerance, unheard)


class _Silenced:
    """A copy of the dense model, and which of the slices that go read the others.

    Attributes:
        zero: those that were found to read, and are at zero.
    """

    def __init__(
        self, model: keras.Model, cut: Cut, arrays: Sequence[NDArray[np.generic]], relative: float
    ) -> None:
        self._model, self._arrays, self._relative = model, arrays, relative
        self._variables = {leaf.name: leaf.variable for leaf in list_tensors(model)}
        self._random = np.random.default_rng(0)
        self._parts = [part for part in slices_of(cut) if self._is_float(part)]
        self.zero: list[Slice] = []

    def answers(self) -> list[FloatArray]:
        """What the copy answers as it is now."""
        return _answers(self._model, self._arrays)

    def silence(self) -> list[Slice]:
        """Set the readers to zero; returns the slices that the answers depend on all the same."""
        kernels = [part for part in self._parts if self._is_kernel(part)]
        for part in kernels:
            if part.axis < self._rank(part) - 1:
                self._keep_zero(part)
        read = self._find_read()
        tries = [*([part] for part in kernels), *self._factors(read)]
        # One that is read twice falls silent with its second reader: the first is tried once more.
        for parts in [*tries, *tries]:
            if not read or all(is_all_in(part, self.zero) for part in parts):
                continue
            with self._change(parts, _zeros):
                still = self._find_read(but=parts)
            if any(other not in still for other in read if not is_all_in(other, parts)):
                for part in parts:
                    self._keep_zero(part)
                read = [other for other in self._find_read() if other in read]
        return read

    def find_unread(self) -> tuple[str, ...]:
        """Layers whose filters that go do not show in the answers though nobody is silenced yet."""
        filters: dict[str, list[Slice]] = {}
        for part in self._parts:
            if self._is_kernel(part) and part.axis == self._rank(part) - 1:
                filters.setdefault(part.layer, []).append(part)
        expected = self.answers()
        return tuple(
            layer for layer, parts in filters.items() if not self._is_read(parts, (), expected)
        )

    def _factors(self, read: Sequence[Slice]) -> Iterator[list[Slice]]:
        """All that a layer makes, in case that another is multiplied by it and so read by it."""
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

    def _keep_zero(self, part: Slice) -> None:
        self.zero.append(part)
        variable = self._variables[part.tensor]
        values = _numbers(variable.value)
        values[_index(part)] = 0
        variable.assign(values)

    # -- what is read

    def _find_read(self, but: Sequence[Slice] = ()) -> list[Slice]:
        """Of the slices that are not zero, those that change the answers when they change."""
        zero = [*self.zero, *but]
        parts = [part for part in self._parts if not is_all_in(part, zero)]
        expected = self.answers()
        if not self._is_read(parts, zero, expected):
            return []
        return [part for part in parts if self._is_read([part], zero, expected)]

    def _is_read(
        self,
        parts: Sequence[Slice],
        zero: Sequence[Slice],
        expected: Sequence[FloatArray],
    ) -> bool:
        with self._change(parts, self._poke, spare=zero):
            difference, scale = largest_difference(self.answers(), expected)
        return bool(difference > self._relative * scale)

    def _poke(self, values: FloatArray, whole: FloatArray) -> FloatArray:
        size = float(np.abs(whole).mean()) or 1.0
        return np.asarray(values + size * (0.5 + self._random.random(values.shape)))

    @contextmanager
    def _change(
        self, parts: Sequence[Slice], change: Poke, spare: Sequence[Slice] = ()
    ) -> Iterator[None]:
        """With other values in these slices, but not in those spared."""
        before = {name: _numbers(self._variables[name].value) for name in {p.tensor for p in parts}}
        after = {name: values.copy() for name, values in before.items()}
        for part in parts:
            values = after[part.tensor]
            values[_index(part)] = change(values[_index(part)], before[part.tensor])
        for part in spare:
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


def _answers(model: keras.Model, arrays: Sequence[NDArray[np.generic]]) -> list[FloatArray]:
    given = [keras.ops.convert_to_tensor(array) for array in arrays]
    answers = model(pack_inputs(model, given), training=False)
    return [_numbers(one) for one in keras.tree.flatten(answers)]
