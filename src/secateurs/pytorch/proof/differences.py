"""How far two models' answers are apart, and what rounding explains."""

from __future__ import annotations

import torch
from torch import nn

from secateurs.channels import proof
from secateurs.channels.proof import finite_or_inf
from secateurs.pytorch.tracing.op_call import iterate_tensors

TOLERANCE = {getattr(torch, name): value for name, value in proof.TOLERANCE.items()}
"""The same by PyTorch's types."""


def largest_difference(one: object, other: object) -> tuple[float, float]:
    """(largest absolute difference, largest absolute value) over all tensors of two results."""
    difference = scale = 0.0
    for mine, theirs in zip(iterate_tensors(one), iterate_tensors(other), strict=True):
        if mine.shape != theirs.shape:
            return float("inf"), scale
        if mine.numel() and (mine.is_floating_point() or mine.is_complex()):
            difference = max(difference, finite_or_inf((mine - theirs).abs().max().item()))
            scale = max(scale, finite_or_inf(theirs.abs().max().item()))
    return difference, scale


def has_values(one: object, other: object) -> bool:
    """Whether there is any value in two results that tells something.

    Whole numbers do where they agree: an index may be another one by rounding alone.
    """
    for mine, theirs in zip(iterate_tensors(one), iterate_tensors(other), strict=True):
        is_number = mine.is_floating_point() or mine.is_complex()
        if mine.numel() and (is_number or torch.equal(mine, theirs)):
            return True
    return False


def precision_of(model: nn.Module) -> torch.dtype:
    """The coarsest floating-point type of the model's parameters."""
    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return max(types, key=lambda t: torch.finfo(t).eps, default=torch.float32)
