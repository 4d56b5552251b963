"""Protocols for Keras objects that have no public type.

Keras ships no type stubs, so mypy treats its classes as ``Any``. They are annotated all the same,
for readers and editors; the protocols in this module are checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import keras


class BackendTensor(Protocol):
    """Tensor of the running backend (TensorFlow, JAX or PyTorch): the part used directly.

    Everything else goes through ``keras.ops``.
    """

    @property
    def shape(self) -> Sequence[int]:
        """Length of each axis."""

    @property
    def dtype(self) -> object:
        """The backend's dtype; ``keras.backend.standardize_dtype`` gives its name."""

    def __getitem__(self, index: object, /) -> BackendTensor:
        """Index or slice the tensor."""

    def __add__(self, other: BackendTensor | float, /) -> BackendTensor:
        """Add element-wise."""

    def __mul__(self, other: BackendTensor | float, /) -> BackendTensor:
        """Multiply element-wise."""

    def __rmul__(self, other: float, /) -> BackendTensor:
        """Multiply element-wise."""

    def __rsub__(self, other: float, /) -> BackendTensor:
        """Subtract the tensor from a number, element-wise."""

    def __truediv__(self, other: BackendTensor | float, /) -> BackendTensor:
        """Divide element-wise."""


class CallArguments(Protocol):
    """Arguments of a call in a graph, with ``keras.KerasTensor`` in place of tensors."""

    args: Sequence[object]
    kwargs: Mapping[str, object]

    def fill_in(
        self, tensor_dict: Mapping[int, object]
    ) -> tuple[Sequence[object], dict[str, object]]:
        """Return (arguments, keywords) with each tensor replaced by the value under its ``id``."""


class Node(Protocol):
    """Keras's record of one call in a graph."""

    operation: keras.Operation
    arguments: CallArguments
    input_tensors: Sequence[keras.KerasTensor]
    outputs: Sequence[keras.KerasTensor]
    is_input: bool
