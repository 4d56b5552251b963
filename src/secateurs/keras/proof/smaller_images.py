"""Crop images for a proof: which channel goes where does not depend on the image size.

The sizes and conditions are those of PyTorch's proof: both models make exactly the traced calls,
and no feature map gets smaller than three by three. A model that fixes its image size, or one with
composite layers, is proven on the full images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.smaller_images import smaller_sides
from secateurs.keras.tracing.composites import is_composite
from secateurs.keras.tracing.op_record import OpRecord


@dataclass(frozen=True, slots=True)
class SmallerImages:
    """Example inputs with cropped images.

    Attributes:
        arrays: flat list of inputs, in the order of the model's inputs.
        text: description of the crop, '96 x 96 of 224 x 224'.
    """

    arrays: list[NDArray[np.generic]]
    text: str


def crop_images(
    arrays: Sequence[NDArray[np.generic]], operations: Sequence[OpRecord]
) -> SmallerImages | None:
    """Crop large images to their centre, where images are the only inputs.

    Args:
        arrays: inputs of the trace, each of shape (N, H, W, C) or (N, C, H, W).
        operations: calls of that trace.

    Returns:
        The cropped inputs; None where there is nothing to crop.
    """
    if not _are_images(arrays):
        return None
    if any(is_composite(operation.call) for operation in operations):
        return None  # its code may use sizes, and it is also run as a whole
    # Images have fewer channels than pixels along a side, which tells the two layouts apart.
    first = 1 if all(array.shape[3] < min(array.shape[1:3]) for array in arrays) else 2
    sides = {array.shape[first : first + 2] for array in arrays}
    if len(sides) != 1:
        return None
    full = next(iter(sides))
    maps = [
        shape[first : first + 2] for op in operations for shape, _ in op.outputs if len(shape) == 4
    ]
    small = smaller_sides(full, maps)
    if small is None:
        return None
    text = f"{small[0]} x {small[1]} of {full[0]} x {full[1]}"
    return SmallerImages([_take_middle(array, first, small) for array in arrays], text)


def _are_images(arrays: Sequence[NDArray[np.generic]]) -> bool:
    return bool(arrays) and all(array.ndim == 4 and array.dtype.kind == "f" for array in arrays)


def _take_middle(
    array: NDArray[np.generic], first: int, small: Sequence[int]
) -> NDArray[np.generic]:
    """Crop an array to its middle; height and width lie along axis ``first`` and the next."""
    top, left = ((array.shape[first + at] - small[at]) // 2 for at in (0, 1))
    middle = (slice(None),) * first + (slice(top, top + small[0]), slice(left, left + small[1]))
    return np.ascontiguousarray(array[middle])
