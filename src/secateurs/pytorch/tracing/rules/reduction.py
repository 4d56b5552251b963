"""Rules for reductions over axes: sums, means, maxima and the like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from secateurs.pytorch.tracing.interpreter import aten
from secateurs.pytorch.tracing.op_call import Call, iterate_tensors
from secateurs.pytorch.tracing.op_record import follow
from secateurs.pytorch.tracing.rules.computed_weights import measures_size
from secateurs.pytorch.tracing.rules.pointwise import apply_pointwise, meet
from secateurs.pytorch.tracing.rules.registry import rule
from secateurs.pytorch.tracing.tracer import Tracer


def _axes_argument(call: Call, rank: int, name: str = "dim") -> Sequence[int]:
    given = call.get(name)
    if given is None or (isinstance(given, (list, tuple)) and not given):
        return range(rank)
    return [axis % rank for axis in (given if isinstance(given, (list, tuple)) else [given])]


def _reduce(tracer: Tracer, call: Call, exact: bool) -> object:
    """Carry the other axes. A sum over channels ignores zeroed ones; a mean does not."""
    x = call.tensors()[0]
    output = call.run()
    gone = set(_axes_argument(call, x.dim()))
    axes = tracer.axes(x)
    exact = exact and not measures_size(tracer.labels(x))
    over = [axes[axis] for axis in sorted(gone) if axis in axes]
    if exact:
        for axis in gone:
            tracer.mask(0, axis, axes.get(axis))
    else:
        tracer.mixes(call, over)
    kept = {axis: units for axis, units in axes.items() if axis not in gone}
    closed_up = {axis - sum(at < axis for at in gone): units for axis, units in kept.items()}
    for tensor in iterate_tensors(output):
        tracer.put(tensor, closed_up if tensor.dim() < x.dim() else kept)
        if over and _holds_indices(call, x, tensor):
            # Whoever reads them relies on the positions of the channels.
            numbered = np.unique(np.concatenate(over))
            follow(tensor, replace(tracer.labels(tensor), positions=numbered))
    return output


def _holds_indices(call: Call, x: torch.Tensor, result: torch.Tensor) -> bool:
    """Whether a result of a reduction holds indices, such as a maximum's."""
    is_number = not result.is_floating_point() and x.is_floating_point()
    return is_number and call.packet not in (aten.count_nonzero, aten.any, aten.all)


@rule(aten.sum, aten.nansum, aten.count_nonzero)
def total(tracer: Tracer, call: Call) -> object:
    """Reductions that zeros do not change."""
    return _reduce(tracer, call, exact=True)


@rule(
    aten.linalg_vector_norm,
    aten.norm,
    aten.mean,
    aten.amax,
    aten.amin,
    aten.max,
    aten.min,
    aten.var,
    aten.std,
    aten.var_mean,
    aten.std_mean,
    aten.logsumexp,
    aten.prod,
    aten.any,
    aten.all,
    aten.aminmax,
)
def statistic(tracer: Tracer, call: Call) -> object:
    """Reductions that depend on the number of channels or on zeros, or are norms to divide by."""
    if len(call.tensors()) > 1:  # element-wise, as in max(x, y)
        return apply_pointwise(tracer, call)
    return _reduce(tracer, call, exact=False)


@rule(
    aten.mse_loss,
    aten.smooth_l1_loss,
    aten.huber_loss,
    aten.soft_margin_loss,
    aten.binary_cross_entropy,
    aten.binary_cross_entropy_with_logits,
)
def loss_between(tracer: Tracer, call: Call) -> object:
    """An element-wise loss, maybe with a reduction, as for a commitment loss beside the output."""
    output = call.run_one()
    operands = call.tensors()
    shape = torch.broadcast_shapes(*(tensor.shape for tensor in operands))
    if output.shape == shape:
        meet(tracer, operands, output)
        return output
    each = torch.empty(shape, device="meta")
    meet(tracer, operands, each)
    tracer.mixes(call, tracer.axes(each).values())
    tracer.put(output, {})
    return output


@rule(
    aten.softmax,
    aten._softmax,
    aten.log_softmax,
    aten._log_softmax,
    aten._fft_r2c,
    aten._fft_c2r,
    aten._fft_c2c,
)
def along(tracer: Tracer, call: Call) -> object:
    """Freeze an axis along which each result depends on all of it."""
    x = call.tensors()[0]
    over = _axes_argument(call, x.dim())
    tracer.freeze_known(x, f"{call.name} over these channels", over)
    output = call.run_one()
    tracer.put(output, {at: units for at, units in tracer.axes(x).items() if at not in over})
    return output
