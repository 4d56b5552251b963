"""Rules for pooling, resampling and the like: channels are carried, positions are read."""

from __future__ import annotations

import torch

from secateurs.pytorch.tracing.interpreter import aten
from secateurs.pytorch.tracing.op_call import Call, iterate_tensors
from secateurs.pytorch.tracing.op_record import Place
from secateurs.pytorch.tracing.rules.registry import rule
from secateurs.pytorch.tracing.tracer import Tracer


def _carry(tracer: Tracer, call: Call, spatial: int) -> object:
    """Carry all axes except spatial ones that the operation acts along, which are frozen."""
    x = call.tensors()[0]
    first = x.dim() - spatial
    output = call.run()
    changed = _changed_axes(call, x, output, spatial)
    tracer.freeze_known(x, f"{call.name} reads every position", changed)
    axes = {axis: units for axis, units in tracer.axes(x).items() if axis not in changed}
    if any(axis >= first for axis in axes):
        tracer.reads_sizes = True  # an output size may be a hard-coded number of positions
    for tensor in iterate_tensors(output):
        tracer.put(tensor, axes)
    return output


def _changed_axes(call: Call, x: torch.Tensor, output: object, spatial: int) -> list[int]:
    """Those of the last ``spatial`` axes that the operation acts along.

    A pool over images whose axes were moved may leave the channels' axis unchanged: with windows of
    one position, or as many results as positions. Where indices of positions are returned too, they
    count over all axes at once, so all axes are affected; so they are by operations outside the
    table.
    """
    positions = range(x.dim() - spatial, x.dim())
    if not isinstance(output, torch.Tensor) or call.packet not in _AXIS_BY_AXIS[spatial]:
        return list(positions)

    def is_left(axis: int) -> bool:
        from_end = axis - x.dim()
        given = [
            (_along(call.get(name), from_end, spatial), plain)
            for name, plain in _LEAVES_AS_IT_IS.items()
        ]
        given += [(call.get(name), 1) for name in _SCALES[from_end]]
        same_length = output.shape[axis] == x.shape[axis]
        return same_length and all(value is None or value == plain for value, plain in given)

    return [axis for axis in positions if not is_left(axis)]


_LEAVES_AS_IT_IS = {"kernel_size": 1, "stride": 1, "padding": 0, "scale_factors": 1}
"""Settings along an axis that leave its positions unchanged."""

_SCALES = {-1: ("scales", "scales_w"), -2: ("scales_h",), -3: ("scales_d",)}
"""Axis, counted from the end -> name of its scale argument in resizing operations."""

_AXIS_BY_AXIS = {
    1: (
        aten.max_pool1d,
        aten.avg_pool1d,
        aten.adaptive_avg_pool1d,
        aten.upsample_nearest1d,
        aten._upsample_nearest_exact1d,
        aten.upsample_linear1d,
    ),
    2: (
        aten.max_pool2d,
        aten.avg_pool2d,
        aten.adaptive_avg_pool2d,
        aten._adaptive_avg_pool2d,
        aten.upsample_nearest2d,
        aten._upsample_nearest_exact2d,
        aten.upsample_bilinear2d,
    ),
    3: (
        aten.max_pool3d,
        aten.avg_pool3d,
        aten.adaptive_avg_pool3d,
        aten._adaptive_avg_pool3d,
        aten.upsample_nearest3d,
        aten._upsample_nearest_exact3d,
        aten.upsample_trilinear3d,
    ),
}
"""Number of axes -> operations that act along each axis independently of the others."""


def _along(value: object, axis: int, spatial: int) -> float | None:
    """A setting along an axis counted from the end; None where it is not given."""
    if isinstance(value, list | tuple):
        found = [*value, *value][axis + spatial] if len(value) in (1, spatial) else None
    else:
        found = value
    return found if isinstance(found, int | float) else None


@rule(
    *_AXIS_BY_AXIS[1],
    aten.max_pool1d_with_indices,
    aten.adaptive_max_pool1d,
    aten.reflection_pad1d,
    aten.replication_pad1d,
)
def carry_1d(tracer: Tracer, call: Call) -> object:
    """Pooling and resampling of sequences."""
    return _carry(tracer, call, 1)


@rule(
    *_AXIS_BY_AXIS[2],
    aten.max_pool2d_with_indices,
    aten.adaptive_max_pool2d,
    aten.fractional_max_pool2d,
    aten._upsample_bilinear2d_aa,
    aten.upsample_bicubic2d,
    aten._upsample_bicubic2d_aa,
    aten.reflection_pad2d,
    aten.replication_pad2d,
)
def carry_2d(tracer: Tracer, call: Call) -> object:
    """Pooling and resampling of images."""
    return _carry(tracer, call, 2)


@rule(
    *_AXIS_BY_AXIS[3],
    aten.max_pool3d_with_indices,
    aten.adaptive_max_pool3d,
    aten.reflection_pad3d,
    aten.replication_pad3d,
)
def carry_3d(tracer: Tracer, call: Call) -> object:
    """Pooling and resampling of volumes and videos."""
    return _carry(tracer, call, 3)


@rule(aten.max_unpool2d, aten.max_unpool3d)
def put_back(tracer: Tracer, call: Call) -> object:
    """Unpooling: each channel's values go to the positions that a pooling found for it."""
    x, indices = call.tensors()[:2]
    first = x.dim() - (2 if call.packet is aten.max_unpool2d else 3)
    for axis in range(first):
        tracer.unify([Place(x, axis), Place(indices, axis)])
    tracer.freeze_known(indices, f"{call.name} reads every position", range(first, x.dim()))
    return _carry(tracer, call, x.dim() - first)


@rule(aten.grid_sampler, aten.grid_sampler_2d, aten.grid_sampler_3d)
def sample(tracer: Tracer, call: Call) -> object:
    """Sample each channel at positions whose coordinates the grid holds."""
    x, grid = call.tensors()[:2]
    tracer.unify([Place(x, 0), Place(grid, 0)])
    tracer.freeze_known(grid, f"{call.name} reads coordinates from it", range(1, grid.dim()))
    return _carry(tracer, call, x.dim() - 2)
