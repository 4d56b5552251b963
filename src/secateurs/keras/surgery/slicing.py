"""Slice the values of a tensor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.cut import TensorCut
from secateurs.keras.internals import present_numbers
from secateurs.keras.protocols import BackendTensor


def slice_tensor(tensor: BackendTensor, cut: TensorCut | None) -> NDArray[np.generic]:
    """Return a copy of a tensor without the removed indices, as an array.

    It is always a copy: on JAX a variable keeps the array it is assigned, and training one model
    would free the buffer of the other.
    """
    values = present_numbers(tensor)
    if cut is None or not cut.removed:
        return np.array(values)
    for axis in sorted(cut.removed):
        values = np.take(values, cut.list_kept(axis), axis=axis)
    return values
