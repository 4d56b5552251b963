"""Differences between the outputs of two models, and the tolerance for rounding."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from secateurs.channels import proof
from secateurs.channels.proof import finite_or_inf
from secateurs.pytorch.model.copies import list_modules
from secateurs.pytorch.tracing.op_call import iterate_tensors

TOLERANCE = {getattr(torch, name): value for name, value in proof.TOLERANCE.items()}
"""Relative tolerance by PyTorch dtype."""


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
    """Whether two results hold any value that a comparison can use.

    Integers count only where they agree: an index may differ by rounding alone.
    """
    for mine, theirs in zip(iterate_tensors(one), iterate_tensors(other), strict=True):
        is_number = mine.is_floating_point() or mine.is_complex()
        if mine.numel() and (is_number or torch.equal(mine, theirs)):
            return True
    return False


def precision_of(model: nn.Module) -> torch.dtype:
    """The coarsest floating-point dtype of the model's parameters."""
    held = (module._parameters.values() for _, module in list_modules(model))
    parameters = (p for p in itertools.chain.from_iterable(held) if p is not None)
    types = {p.dtype for p in parameters if p.is_floating_point()}
    return max(types, key=lambda t: torch.finfo(t).eps, default=torch.float32)
