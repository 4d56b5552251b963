"""Rules for element-wise operations, and for those that change no value."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from secateurs.channels.network import Role
from secateurs.pytorch.tracing.interpreter import aten
from secateurs.pytorch.tracing.op_call import Call, iterate_tensors
from secateurs.pytorch.tracing.op_record import Place, labels_of
from secateurs.pytorch.tracing.rules.registry import rule
from secateurs.pytorch.tracing.tracer import Tracer


def meet(tracer: Tracer, operands: Sequence[torch.Tensor], result: torch.Tensor) -> None:
    """Equate axes of the operands that broadcast to the same axis of the result."""
    axes = {}
    rank = result.dim()
    starts = [(tensor, rank - tensor.dim()) for tensor in operands]
    has_weights = any(labels_of(tensor).weight is not None for tensor in operands)
    for axis in range(rank):
        places = [Place(tensor, axis - start) for tensor, start in starts if axis >= start]
        axes[axis] = tracer.unify(places)
        if has_weights:
            _note_roles(tracer, places)
    tracer.put(result, axes)


def _note_roles(tracer: Tracer, places: Sequence[Place]) -> None:
    """Note that a weight combined with an activation scales or shifts it; which does not matter."""
    if any(tracer.labels(place.tensor).weight is None for place in places):
        for place in places:
            tracer.play(place, Role.SCALE)


def apply_pointwise(tracer: Tracer, call: Call) -> object:
    """Apply an element-wise operation: axes aligned by broadcasting are equal."""
    output = call.run()
    for tensor in iterate_tensors(output):
        meet(tracer, call.tensors(), tensor)
    return output


# Element-wise operations that are not tagged as pointwise in every release of PyTorch.
rule(
    aten.hardswish,
    aten.hardswish_,
    aten.copy_,
    aten.where,
    aten.masked_fill,
    aten.masked_fill_,
    aten.lerp,
    aten.addcmul,
    aten.addcdiv,
    aten.rrelu,
    aten.bernoulli,
    aten.bernoulli_,
    aten.dropout,
    aten.dropout_,
    aten.feature_dropout,
    aten.alpha_dropout,
    aten.native_dropout,
    aten.clone,
    aten.contiguous,
    aten.detach,
    aten.detach_,
    aten.alias,
    aten.lift_fresh,
    aten.to,
    aten._to_copy,
    aten.type_as,
    aten.zeros_like,
    aten.ones_like,
    aten.empty_like,
    aten.full_like,
    aten.rand_like,
    aten.randn_like,
    aten.zero_,
    aten.fill_,
    aten.square,
    aten.softplus,
    aten.selu,
    aten.float_power,
    aten.conj,
    aten.resolve_conj,
    aten.resolve_neg,
    aten.complex,
    aten.polar,
)(apply_pointwise)


@rule(aten.prelu, aten._prelu_kernel)
def prelu(tracer: Tracer, call: Call) -> object:
    """A slope for each channel, or one for all."""
    output = call.run_one()
    x, weight = call.tensors()
    meet(tracer, [x], output)
    axis = 1 if x.dim() > 1 else 0
    if weight.numel() > 1:
        along = weight.shape.index(max(weight.shape))
        tracer.unify([Place(x, axis), Place(weight, along)])
        tracer.play(Place(weight, along), Role.SCALE)
    return output


@rule(aten.glu)
def glu(tracer: Tracer, call: Call) -> object:
    """One half of an axis times the sigmoid of the other: both lose the same channels."""
    x = call["self"]
    axis = call.get("dim", -1) % x.dim()
    output = call.run_one()
    axes = dict(tracer.axes(x))
    if axis in axes:
        units = axes[axis]
        halves, _ = tracer.equations.factor(units, (2, len(units) // 2))
        tracer.equations.freeze(halves, f"glu at {tracer.where()} needs both halves")
        tracer.equations.equate(units[: len(units) // 2], units[len(units) // 2 :])
        axes[axis] = units[: len(units) // 2]
    tracer.put(output, axes)
    return output
