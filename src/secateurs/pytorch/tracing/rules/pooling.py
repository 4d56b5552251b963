"""Pooling, resampling and the like: channels are carried, positions are read."""

from __future__ import annotations

from secateurs.pytorch.tracing.interpreter import aten
from secateurs.pytorch.tracing.op_call import Call, iterate_tensors
from secateurs.pytorch.tracing.op_record import Place
from secateurs.pytorch.tracing.rules.registry import rule
from secateurs.pytorch.tracing.tracer import Tracer


def _carry(tracer: Tracer, call: Call, spatial: int) -> object:
    """All axes but the last ``spatial`` are carried; those may not change."""
    x = call.tensors()[0]
    first = x.dim() - spatial
    tracer.freeze_known(x, f"{call.name} reads every position", range(first, x.dim()))
    output = call.run()
    axes = {axis: units for axis, units in tracer.axes(x).items() if axis < first}
    for tensor in iterate_tensors(output):
        tracer.put(tensor, axes)
    return output


@rule(
    aten.max_pool1d,
    aten.max_pool1d_with_indices,
    aten.avg_pool1d,
    aten.adaptive_avg_pool1d,
    aten.adaptive_max_pool1d,
    aten.upsample_nearest1d,
    aten._upsample_nearest_exact1d,
    aten.upsample_linear1d,
    aten.reflection_pad1d,
    aten.replication_pad1d,
)
def carry_1d(tracer: Tracer, call: Call) -> object:
    """Over sequences."""
    return _carry(tracer, call, 1)


@rule(
    aten.max_pool2d,
    aten.max_pool2d_with_indices,
    aten.avg_pool2d,
    aten.adaptive_avg_pool2d,
    aten._adaptive_avg_pool2d,
    aten.adaptive_max_pool2d,
    aten.fractional_max_pool2d,
    aten.upsample_nearest2d,
    aten._upsample_nearest_exact2d,
    aten.upsample_bilinear2d,
    aten._upsample_bilinear2d_aa,
    aten.upsample_bicubic2d,
    aten._upsample_bicubic2d_aa,
    aten.reflection_pad2d,
    aten.replication_pad2d,
)
def carry_2d(tracer: Tracer, call: Call) -> object:
    """Over images."""
    return _carry(tracer, call, 2)


@rule(
    aten.max_pool3d,
    aten.max_pool3d_with_indices,
    aten.avg_pool3d,
    aten.adaptive_avg_pool3d,
    aten._adaptive_avg_pool3d,
    aten.adaptive_max_pool3d,
    aten.upsample_nearest3d,
    aten._upsample_nearest_exact3d,
    aten.upsample_trilinear3d,
    aten.reflection_pad3d,
    aten.replication_pad3d,
)
def carry_3d(tracer: Tracer, call: Call) -> object:
    """Over volumes and videos."""
    return _carry(tracer, call, 3)


@rule(aten.max_unpool2d, aten.max_unpool3d)
def put_back(tracer: Tracer, call: Call) -> object:
    """Each channel's values go where a pooling of as many channels found them."""
    x, indices = call.tensors()[:2]
    first = x.dim() - (2 if call.packet is aten.max_unpool2d else 3)
    for axis in range(first):
        tracer.unify([Place(x, axis), Place(indices, axis)])
    tracer.freeze_known(indices, f"{call.name} reads every position", range(first, x.dim()))
    return _carry(tracer, call, x.dim() - first)


@rule(aten.grid_sampler, aten.grid_sampler_2d, aten.grid_sampler_3d)
def sample(tracer: Tracer, call: Call) -> object:
    """Channels are read at places that the grid gives as so many coordinates."""
    x, grid = call.tensors()[:2]
    tracer.unify([Place(x, 0), Place(grid, 0)])
    tracer.freeze_known(grid, f"{call.name} reads places from it", range(1, grid.dim()))
    return _carry(tracer, call, x.dim() - 2)
