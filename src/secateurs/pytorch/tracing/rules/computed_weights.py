"""Numbers computed from weights, such as norms: removing some channels changes them for all others.

A consumer reads a channel, and its weight can be zeroed to ignore it. A norm of weights, the sigma
of spectral norm, or a sum of squares that filters are divided by is no consumer: in the dense model
it still includes the channels to be removed. So these sums mix channels, as a layer normalisation
does.
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
    """Whether a sum of this measures how large a weight is, instead of being a consumer's result.

    Sums of weights alone do, except for products of two different weights, which make a third
    weight. So do sums of squares and magnitudes of a weight that the input has scaled
    (demodulation).
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
    """Whether a contraction gives numbers computed from weights, such as a norm.

    Products of two matrices give a third weight (low-rank factors), which does not count. A matrix
    times a vector kept beside it (power iteration), or times itself, does.
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
    """Whether it is computed from weights alone, or is a weight that the input has scaled."""
    if labels.weight is not None:
        return True
    if labels.call is None or labels.call.packet not in _PRODUCTS:
        return False
    factors = [labels_of(tensor) for tensor in labels.call.tensors()]
    return any(f.weight is not None and not _is_vector(f.weight.tensor) for f in factors)


def _is_vector(tensor: torch.Tensor) -> bool:
    """Whether at most one of its axes is longer than one."""
    return sum(size > 1 for size in tensor.shape) < 2


def leaves_behind(labels: Labels) -> dict[int, ModelTensor]:
    """The model's tensors that a value was computed from, by id."""
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
