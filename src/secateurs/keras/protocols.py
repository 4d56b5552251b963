"""Types of what Keras hands over and has no public name for.

Keras ships no type stubs, so mypy takes its classes for anything at all. They are named all the
same, for readers and editors; what is written here it does check.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import keras


class BackendTensor(Protocol):
    """A tensor of the backend that runs: TensorFlow's, JAX's or PyTorch's, as far as we read it.

    ``keras.ops`` does the rest.
    """

    @property
    def shape(self) -> Sequence[int]:
        """Its lengths."""

    @property
    def dtype(self) -> object:
        """The backend's own type; ``keras.backend.standardize_dtype`` names it."""

    def __getitem__(self, index: object, /) -> BackendTensor:
        """Part of it."""

    def __add__(self, other: BackendTensor | float, /) -> BackendTensor:
        """Element by element."""

    def __mul__(self, other: BackendTensor | float, /) -> BackendTensor:
        """Element by element."""

    def __rmul__(self, other: float, /) -> BackendTensor:
        """Element by element."""

    def __rsub__(self, other: float, /) -> BackendTensor:
        """Element by element."""

    def __truediv__(self, other: BackendTensor | float, /) -> BackendTensor:
        """Element by element."""


class CallArguments(Protocol):
    """The arguments of a call in a graph, with ``keras.KerasTensor`` in the places of tensors."""

    args: Sequence[object]
    kwargs: Mapping[str, object]

    def fill_in(
        self, tensor_dict: Mapping[int, object]
    ) -> tuple[Sequence[object], dict[str, object]]:
        """(arguments, keywords) with what is known under each tensor's ``id`` in its place."""


class Node(Protocol):
    """Keras's note of one call in a graph."""

    operation: keras.Operation
    arguments: CallArguments
    input_tensors: Sequence[keras.KerasTensor]
    outputs: Sequence[keras.KerasTensor]
    is_input: bool
