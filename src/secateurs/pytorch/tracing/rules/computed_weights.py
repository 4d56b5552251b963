"""Numbers computed of weights, or of squares: where removal of some changes what the others give.

A consumer reads a channel and can be told to ignore it. A norm of weights, sigma of spectral norm,
or a sum of squares that filters are divided by is no consumer: in the dense model the channels that
go are still in it, whoever reads them. So these sums mix channels, as a layer normalisation does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from secateurs.pytorch.model.tensors import ModelTensor
from secateurs.pytorch.tracing.interpreter import aten
from secateurs.pytorch.tracing.op_record import Labels, labels_of

_SIZES = {aten.square, aten.square_, aten.pow, aten.pow_, aten.abs, aten.abs_, aten.exp, aten.exp_}
_PRODUCTS = {aten.mul, aten.mul_}


def measures_size(labels: Labels) -> bool:
    """Whether a sum of this says how large a weight is, and not what a consumer makes of it.

    Sums of weights alone do, but for those of products of two weights: they make a third; so do
    sums of squares and magnitudes of a weight that the input has scaled (demodulation).
    """
    call = labels.call
    tensors = call.tensors() if call is not None else []
    if call is not None and call.packet in _PRODUCTS and len(tensors) == 2:
        if tensors[0] is tensors[1]:
            return _is_weight(labels_of(tensors[0]))
        return labels.weight is not None and len(leaves_behind(labels)) < 2
    if call is not None and call.packet in _SIZES:
        return _is_weight(labels_of(tensors[0]))
    return labels.weight is not None


def is_of_weights_alone(operands: Sequence[tuple[torch.Tensor, str]]) -> bool:
    """Whether a contraction is a number computed of weights.

    Products of two matrices make a third weight (low-rank factors), and are none; a matrix times a
    vector kept beside it (power iteration), or times itself, is.
    """
    if len(operands) != 2:
        return False
    (one, letters), (other, others) = operands
    if one is other and letters == others:
        return _is_weight(labels_of(one))
    known = [labels_of(one), labels_of(other)]
    if any(labels.weight is None for labels in known):
        return False
    is_vector = any(_is_vector(tensor) for tensor in (one, other))
    behind = [leaves_behind(labels) for labels in known]
    return is_vector or not set(behind[0]).isdisjoint(behind[1])


def _is_weight(labels: Labels) -> bool:
    """Whether it is made of weights alone, or is one that the input has scaled."""
    if labels.weight is not None:
        return True
    if labels.call is None or labels.call.packet not in _PRODUCTS:
        return False
    factors = [labels_of(tensor) for tensor in labels.call.tensors()]
    return any(f.weight is not None and not _is_vector(f.weight.tensor) for f in factors)


def _is_vector(tensor: torch.Tensor) -> bool:
    """Whether it is one row of numbers, however it lies."""
    return sum(size > 1 for size in tensor.shape) < 2


def leaves_behind(labels: Labels) -> dict[int, ModelTensor]:
    """The model's tensors that something was made of, by id."""
    found: dict[int, ModelTensor] = {}
    seen: set[int] = set()
    waiting = [labels]
    while waiting:
        present = waiting.pop()
        if id(present) in seen:
            continue
        seen.add(id(present))
        if present.leaf is not None:
            found[id(present.leaf)] = present.leaf
        waiting += present.sources
    return found
