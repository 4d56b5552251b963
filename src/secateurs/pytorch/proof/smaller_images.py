"""Crop images for a proof: which channel goes where does not depend on the image size.

A forward pass takes most of a proof's time and memory, and both grow with the number of pixels. So
large images are cropped to their centre, as long as no feature map gets smaller than three by
three. The proof on them counts only if both models run exactly the traced operations, so nothing
that happens on the full images goes unproven; a model whose path depends on the image size is
proven on the full ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from secateurs.channels.smaller_images import smaller_sides
from secateurs.pytorch.tracing.op_call import iterate_tensors, map_tensors
from secateurs.pytorch.tracing.op_record import OpRecord


@dataclass(frozen=True, slots=True)
class SmallerImages:
    """Example inputs with cropped images.

    Attributes:
        inputs: inputs as the model's forward takes them.
        text: the sizes, as in '96 x 96 of 224 x 224'.
    """

    inputs: object
    text: str


def crop_images(example_inputs: object, operations: Sequence[OpRecord]) -> SmallerImages | None:
    """Crop large images to their centre, where images are the only inputs.

    Args:
        example_inputs: inputs of the trace; images of shape (N, C, H, W).
        operations: operations of the trace.

    Returns:
        The cropped inputs; None where there is nothing to crop.
    """
    tensors = list(iterate_tensors(example_inputs))
    sides = {tuple(tensor.shape[2:]) for tensor in tensors if tensor.dim() == 4}
    if len(sides) != 1 or not all(t.dim() == 4 and t.is_floating_point() for t in tensors):
        return None
    full = next(iter(sides))
    maps = {
        shape[2:] for operation in operations for shape, _ in operation.outputs if len(shape) == 4
    }
    small = smaller_sides(full, maps)
    if small is None:
        return None
    starts = [(old - new) // 2 for new, old in zip(small, full, strict=True)]

    def crop(tensor: torch.Tensor) -> torch.Tensor:
        (top, left), (height, width) = starts, small
        return tensor[:, :, top : top + height, left : left + width].contiguous()

    text = f"{small[0]} x {small[1]} of {full[0]} x {full[1]}"
    return SmallerImages(map_tensors(example_inputs, crop), text)
