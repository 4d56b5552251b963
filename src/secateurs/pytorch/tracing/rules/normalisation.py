"""Rules for normalisation: input, scale, shift and statistics have the same channels."""

from __future__ import annotations

import torch

from secateurs.channels.network import Role
from secateurs.pytorch.tracing.interpreter import aten
from secateurs.pytorch.tracing.op_call import Call, iterate_tensors
from secateurs.pytorch.tracing.op_record import Place
from secateurs.pytorch.tracing.rules.registry import rule
from secateurs.pytorch.tracing.tracer import Tracer


def _affine(
    tracer: Tracer, x: torch.Tensor, axis: int, *tensors: tuple[torch.Tensor | None, Role]
) -> None:
    """Equate vectors of parameters or statistics with one axis of the input."""
    for tensor, role in tensors:
        if tensor is not None:
            tracer.unify([Place(x, axis), Place(tensor, 0)])
            tracer.play(Place(tensor, 0), role)


@rule(
    aten.batch_norm,
    aten.native_batch_norm,
    aten._native_batch_norm_legit_no_training,
    aten.instance_norm,
)
def batch_norm(tracer: Tracer, call: Call) -> object:
    """Each channel by itself, with stored statistics or with statistics over all other axes."""
    x = call["input"]
    output = call.run()
    axes = tracer.axes(x)
    _affine(
        tracer,
        x,
        1,
        (call.get("running_mean"), Role.MEAN),
        (call.get("running_var"), Role.VARIANCE),
        (call.get("weight"), Role.SCALE),
        (call.get("bias"), Role.SHIFT),
    )
    if 1 in axes:
        tracer.counts[tracer.layer, "num_features"] = axes[1]
    if call.get("training", call.get("use_input_stats", False)):
        tracer.mixes(call, [units for axis, units in axes.items() if axis != 1])
    first, *kept = iterate_tensors(output)
    tracer.put(first, axes)
    for statistic in kept:  # one for each channel, where statistics were computed
        tracer.put(statistic, {0: axes.get(1)} if statistic.dim() == 1 else {})
    return output


@rule(aten.layer_norm, aten.native_layer_norm, aten.rms_norm)
def layer_norm(tracer: Tracer, call: Call) -> object:
    """Mean and variance over the last axes: each channel's result depends on all of them."""
    x, shape = call["input"], call["normalized_shape"]
    output = call.run()
    first = x.dim() - len(shape)
    for name, role in (("weight", Role.SCALE), ("bias", Role.SHIFT)):
        tensor = call.get(name)
        for place in range(len(shape)) if tensor is not None else ():
            tracer.unify([Place(x, first + place), Place(tensor, place)])
            tracer.play(Place(tensor, place), role)
    axes = tracer.axes(x)
    tracer.mixes(call, [axes[axis] for axis in range(first, x.dim()) if axis in axes])
    for result in iterate_tensors(output):  # statistics have length one along the last axes
        tracer.put(result, axes)
    return output


@rule(aten.group_norm)
def group_norm(tracer: Tracer, call: Call) -> object:
    """Channels form a grid (groups, channels in each); only channels of one group are mixed."""
    x, groups = call["input"], call["num_groups"]
    output = call.run_one()
    weight = call.get("weight")
    _affine(tracer, x, 1, (weight, Role.SCALE), (call.get("bias"), Role.SHIFT))
    axes = tracer.axes(x)
    units = axes.get(1)
    if units is not None:
        inside = units
        if groups == len(units):
            inside = units[:0]
            rows = units
        elif groups > 1:
            rows, inside = tracer.equations.factor(units, (groups, len(units) // groups))
        if groups > 1:
            tracer.counts[tracer.layer, "num_groups"] = rows
            tracer.operations[-1].groups = rows
        tracer.mixes(call, [inside] if len(inside) else [])
    tracer.put(output, axes)
    return output


@rule(aten._weight_norm_interface)
def weight_norm(tracer: Tracer, call: Call) -> object:
    """``g v / |v|``, with the norm of each filter over all its inputs."""
    v, axis = call["v"], call.get("dim", 0)
    tracer.unify([Place(v, axis), Place(call["g"], axis)])
    axes = dict(tracer.axes(v))
    tracer.mixes(call, [units for at, units in axes.items() if at != axis])
    output = call.run()
    for result in iterate_tensors(output):  # the weight, and its norms with other axes of one
        tracer.put(result, axes)
    return output
