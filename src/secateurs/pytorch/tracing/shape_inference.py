"""Shapes of the commonest results, quicker than PyTorch's own inference on tensors without data.

That inference is written in Python and takes a tenth of a millisecond and more an operation, which
is most of a trace's time. Anything unusual is left to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from secateurs.pytorch.tracing.interpreter import aten
from secateurs.pytorch.tracing.op_call import Call

UNARY = {
    aten.relu,
    aten.silu,
    aten.gelu,
    aten.hardswish,
    aten.hardsigmoid,
    aten.hardtanh,
    aten.relu6,
    aten.sigmoid,
    aten.tanh,
    aten.elu,
    aten.leaky_relu,
    aten.mish,
    aten.softplus,
    aten.dropout,
    aten.clone,
}
IN_PLACE = {
    aten.relu_,
    aten.silu_,
    aten.hardswish_,
    aten.hardsigmoid_,
    aten.hardtanh_,
    aten.relu6_,
    aten.sigmoid_,
    aten.tanh_,
    aten.elu_,
    aten.leaky_relu_,
    aten.mish_,
    aten.dropout_,
    aten.add_,
    aten.mul_,
    aten.sub_,
    aten.div_,
}
BINARY = {aten.add, aten.mul, aten.sub, aten.div}


def like_first(call: Call) -> object:
    """The shape and type of the first tensor."""
    first = call.arguments[0]
    return torch.empty_like(first) if first.is_meta else call.run()


def pointwise(call: Call) -> object:
    """An operation that works element by element."""
    first = call.arguments[0] if call.arguments else None
    if not isinstance(first, torch.Tensor) or not first.is_meta or not first.is_floating_point():
        return call.run()
    if call.packet in UNARY:
        return torch.empty_like(first)
    if call.packet in IN_PLACE or call.packet in BINARY:
        other = call.arguments[1] if len(call.arguments) > 1 else None
        plain = not isinstance(other, torch.Tensor) or (
            other.shape == first.shape and other.dtype == first.dtype
        )
        if plain and not isinstance(other, complex):
            return first if call.packet in IN_PLACE else torch.empty_like(first)
    return call.run()


def convolution(call: Call) -> torch.Tensor:
    """A convolution whose padding is given in numbers."""
    x, weight, padding = call["input"], call["weight"], call.get("padding", 0)
    rank = weight.dim() - 2
    if (
        not x.is_meta
        or isinstance(padding, str)
        or x.dim() != weight.dim()
        or call.get("transposed")
    ):
        return call.run_one()
    channels = weight.shape[1] * call.get("groups", 1)
    if x.shape[1] != channels:
        return call.run_one()  # which says what is wrong
    steps = [per_axis(call.get(name, 1), rank) for name in ("stride", "dilation")]
    space = [
        (size + 2 * pad - hole * (tap - 1) - 1) // step + 1
        for size, pad, step, hole, tap in zip(
            x.shape[2:], per_axis(padding, rank), *steps, weight.shape[2:], strict=True
        )
    ]
    if min(space) < 1:
        return call.run_one()
    made: torch.Tensor = x.new_empty((x.shape[0], weight.shape[0], *space))
    return made


def per_axis(value: int | Sequence[int], rank: int) -> list[int]:
    """A convolution's setting for each of its axes."""
    given = [value] if isinstance(value, int) else list(value)
    return given * rank if len(given) == 1 else given
