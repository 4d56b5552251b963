"""Looking things up by number: the axis looked into may not change, the others are carried."""

from __future__ import annotations

from typing import Any

import torch

from secateurs.channels.network import Role
from secateurs.pytorch.calls import Call
from secateurs.pytorch.counted import aten
from secateurs.pytorch.operations import Axes, Place
from secateurs.pytorch.rules.registry import rule, unknown
from secateurs.pytorch.tracer import Tracer


@rule(aten.embedding)
def embedding(tracer: Tracer, call: Call) -> Any:
    """A row for each number: rows are picked by the data, columns are channels."""
    weight = call["weight"]
    output = call.run()
    tracer.freeze(weight, f"looked up by the data at {tracer.where()}", (0,))
    tracer.put(output, {output.dim() - 1: tracer.axes(weight).get(1)})
    tracer.play(Place(weight, 1), Role.FILTER)
    return output


@rule(aten.index)
def index(tracer: Tracer, call: Call) -> Any:
    """``x[i, :, j]``: indexed axes may not change; those before and behind are carried."""
    x, indices = call.arguments[:2]
    indexed = [axis for axis, tensor in enumerate(indices) if tensor is not None]
    masks = any(tensor is not None and tensor.dtype is torch.bool for tensor in indices)
    if masks or indexed != list(range(indexed[0], indexed[-1] + 1)):
        return unknown(tracer, call)
    tracer.freeze(x, f"indexed by position at {tracer.where()}", indexed)
    output = call.run()
    width = len(torch.broadcast_shapes(*(t.shape for t in indices if t is not None)))
    axes: Axes = {}
    for axis, units in tracer.axes(x).items():
        if axis < indexed[0]:
            axes[axis] = units
        elif axis > indexed[-1]:
            axes[axis - len(indexed) + width] = units
    tracer.put(output, axes)
    return output


@rule(aten.index_select, aten.take_along_dim)
def index_select(tracer: Tracer, call: Call) -> Any:
    """One axis looked into by number."""
    x = call.arguments[0]
    if call.packet is aten.take_along_dim:
        return unknown(tracer, call)
    axis = call["dim"] % x.dim()
    tracer.freeze(x, f"indexed by position at {tracer.where()}", (axis,))
    output = call.run()
    tracer.put(output, {at: units for at, units in tracer.axes(x).items() if at != axis})
    return output
