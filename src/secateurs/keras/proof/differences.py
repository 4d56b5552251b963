"""Differences between the outputs of two models, and the tolerance for rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.channels.proof import TOLERANCE, finite_or_inf
from secateurs.keras.model.tensors import calls_of
from secateurs.keras.protocols import BackendTensor


def precision_of(model: keras.Model) -> str:
    """The coarsest floating-point dtype that a layer of the model computes in."""
    types = {getattr(operation, "compute_dtype", "float32") for _, operation in calls_of(model)}
    if "float64" in types:  # on PyTorch, Keras computes means in float32 even so
        types.add(keras.backend.result_type("float64", "float32"))
    return max(types & set(TOLERANCE), key=TOLERANCE.__getitem__, default="float32")


def largest_difference(
    received: Sequence[NDArray[np.number]], expected: Sequence[NDArray[np.number]]
) -> tuple[float, float]:
    """(largest absolute difference, largest absolute value) over all tensors of two results."""
    difference = scale = 0.0
    for mine, theirs in zip(received, expected, strict=True):
        if mine.shape != theirs.shape:
            return math.inf, scale
        if mine.size and mine.dtype.kind == "f":
            difference = max(difference, finite_or_inf(np.abs(mine - theirs).max()))
            scale = max(scale, finite_or_inf(np.abs(theirs).max()))
    return difference, scale


def as_numbers(tensor: BackendTensor | NDArray[np.number]) -> NDArray[np.number]:
    """Convert a tensor to an array; half precision becomes float32."""
    if isinstance(tensor, np.ndarray):
        return tensor
    kind = keras.backend.standardize_dtype(tensor.dtype)
    if kind in ("bfloat16", "float16"):
        tensor = keras.ops.cast(tensor, "float32")
    return np.asarray(keras.ops.convert_to_numpy(tensor))
