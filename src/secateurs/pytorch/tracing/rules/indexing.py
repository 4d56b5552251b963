"""Looking things up by number: the axis looked into may not change, the others are carried."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from secateurs.channels.network import Role
from secateurs.pytorch.tracing.interpreter import aten
from secateurs.pytorch.tracing.op_call import Call
from secateurs.pytorch.tracing.op_record import Axes, Place
from secateurs.pytorch.tracing.rules.registry import rule, unknown
from secateurs.pytorch.tracing.tracer import Tracer


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
    indexed, width = _indexed(indices)
    if not indexed or indexed != list(range(indexed[0], indexed[-1] + 1)):
        return unknown(tracer, call)
    tracer.freeze(x, f"indexed by position at {tracer.where()}", indexed)
    output = call.run()
    axes: Axes = {}
    for axis, units in tracer.axes(x).items():
        if axis < indexed[0]:
            axes[axis] = units
        elif axis > indexed[-1]:
            axes[axis - len(indexed) + width] = units
    tracer.put(output, axes)
    return output


def _indexed(indices: Sequence[torch.Tensor | None]) -> tuple[list[int], int]:
    """(axes looked into, how many axes the result has in their place); a mask takes all of its."""
    indexed: list[int] = []
    found = []
    axis = 0
    for tensor in indices:
        is_mask = tensor is not None and tensor.dtype is torch.bool
        span = tensor.dim() if tensor is not None and is_mask else 1
        if tensor is not None:
            indexed += range(axis, axis + span)
            found.append(torch.Size([1]) if is_mask else tensor.shape)
        axis += span
    return indexed, len(torch.broadcast_shapes(*found))


@rule(aten.index_put, aten.index_put_)
def index_put(tracer: Tracer, call: Call) -> Any:
    """``x[i] = y``: indexed axes may not change; those behind are one with the last of y."""
    x, indices, values = call.arguments[:3]
    indexed, _ = _indexed(indices)
    if not indexed or indexed != list(range(len(indexed))):
        return unknown(tracer, call)
    why = f"written to by position at {tracer.where()}"
    tracer.freeze(x, why, indexed)
    behind = x.dim() - len(indexed)
    tracer.freeze(values, why, range(max(0, values.dim() - behind)))
    return _written(tracer, call, x, values, range(len(indexed), x.dim()))


@rule(aten.index_add, aten.index_add_)
def index_add(tracer: Tracer, call: Call) -> Any:
    """Slices added to those of these numbers: that axis may not change, the others are one."""
    x, source = call["self"], call["source"]
    axis = call["dim"] % max(1, x.dim())
    for tensor in (x, source):
        tracer.freeze(tensor, f"added to by position at {tracer.where()}", (axis,))
    return _written(tracer, call, x, source, [at for at in range(x.dim()) if at != axis])


def _written(
    tracer: Tracer, call: Call, x: torch.Tensor, values: torch.Tensor, axes: Iterable[int]
) -> Any:
    """The result of writing into a tensor; these axes of it are the values', from the last on."""
    units: Axes = {}
    for axis in axes:
        at = axis - x.dim() + values.dim()
        places = [Place(x, axis), *([Place(values, at)] if at >= 0 else [])]
        known = tracer.unify(places)
        if known is not None:
            units[axis] = known
    output = call.run()
    tracer.put(output, units)
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
