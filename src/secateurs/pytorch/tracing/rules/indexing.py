"""Rules for indexing: the indexed axes are frozen, the others are carried."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from secateurs.channels.network import Role
from secateurs.pytorch.tracing.interpreter import aten
from secateurs.pytorch.tracing.op_call import Call, iterate_tensors
from secateurs.pytorch.tracing.op_record import Axes, Place
from secateurs.pytorch.tracing.rules.registry import packets, rule
from secateurs.pytorch.tracing.tracer import Tracer


@rule(aten.embedding)
def embedding(tracer: Tracer, call: Call) -> object:
    """Rows are selected by the data; columns are channels."""
    weight = call["weight"]
    output = call.run_one()
    tracer.freeze(weight, f"rows looked up by the data at {tracer.where()}", (0,))
    tracer.put(output, {output.dim() - 1: tracer.axes(weight).get(1)})
    tracer.play(Place(weight, 1), Role.FILTER)
    return output


@rule(*packets("_embedding_bag _embedding_bag_forward_only"))
def embedding_bag(tracer: Tracer, call: Call) -> object:
    """The sum, mean or maximum of several rows; columns are channels."""
    weight = call["weight"]
    output = call.run()
    tracer.freeze(weight, f"rows looked up by the data at {tracer.where()}", (0,))
    columns = tracer.axes(weight).get(1)
    for result in iterate_tensors(output):
        if result.dim() == 2:
            tracer.put(result, {1: columns})
    tracer.play(Place(weight, 1), Role.FILTER)
    return output


@rule(aten.index)
def index(tracer: Tracer, call: Call) -> object:
    """``x[i, :, j]``: indexed axes are frozen; the others are carried."""
    x, indices = call.arguments[:2]
    indexed, places = _look_up(indices, x.dim())
    tracer.freeze(x, f"indexed by position at {tracer.where()}", indexed)
    output = call.run_one()
    known = tracer.axes(x)
    tracer.put(output, {at: known[axis] for axis, at in places.items() if axis in known})
    return output


def _look_up(indices: Sequence[torch.Tensor | None], rank: int) -> tuple[list[int], dict[int, int]]:
    """(indexed axes, other axis -> its position in the result).

    In the result, the axes of the indices replace the indexed axes; they come first of all where
    the indexed axes are not adjacent. A boolean mask indexes as many axes as it has.
    """
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
    width = len(torch.broadcast_shapes(*found))
    side_by_side = bool(indexed) and indexed == list(range(indexed[0], indexed[-1] + 1))
    first = indexed[0] if side_by_side else 0
    others = [axis for axis in range(rank) if axis not in indexed]
    return indexed, {at: n if n < first else n + width for n, at in enumerate(others)}


@rule(aten.index_put, aten.index_put_)
def index_put(tracer: Tracer, call: Call) -> object:
    """``x[:, i] = y``: indexed axes are frozen; the others are equal to those of y."""
    x, indices, values = call.arguments[:3]
    indexed, places = _look_up(indices, x.dim())
    why = f"written to by position at {tracer.where()}"
    tracer.freeze(x, why, indexed)
    size = len(places) + _width(indices)
    offset = size - values.dim()  # values broadcast from the last axis backwards
    met = {at - offset: axis for axis, at in places.items() if at >= offset}
    tracer.freeze(values, why, [at for at in range(values.dim()) if at not in met])
    beside = {axis: at for at, axis in met.items()}
    units: Axes = {}
    for axis in places:
        at = beside.get(axis)
        known = tracer.unify([Place(x, axis), *([] if at is None else [Place(values, at)])])
        if known is not None:
            units[axis] = known
    output = call.run_one()
    tracer.put(output, units)
    return output


def _width(indices: Sequence[torch.Tensor | None]) -> int:
    """The number of axes of the broadcast indices."""
    shapes = [
        torch.Size([1]) if tensor.dtype is torch.bool else tensor.shape
        for tensor in indices
        if tensor is not None
    ]
    return len(torch.broadcast_shapes(*shapes))
