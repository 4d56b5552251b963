"""Rules for operations that run along one axis and carry the others.

``sort``, ``gather``, ``scatter_add``, ``cummax``, ``index_select``, ``segment_reduce``, ... differ
in what they do along their axis. That axis is read by position, so it is frozen. Along every other
axis, each index is independent of the rest, whatever the operation does: that axis is equal in all
tensors that have it, and in every result.

A family is a table of operations and of the arguments that share the axes; supporting a new
operation takes one more name in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from secateurs.channels.equations import Ids
from secateurs.pytorch.tracing.fresh_tensors import is_uniform
from secateurs.pytorch.tracing.interpreter import aten
from secateurs.pytorch.tracing.op_call import Call, iterate_tensors
from secateurs.pytorch.tracing.op_record import Place
from secateurs.pytorch.tracing.rules.reduction import statistic
from secateurs.pytorch.tracing.rules.registry import packets, rule, unknown
from secateurs.pytorch.tracing.tracer import Tracer


def carry_beside(
    tracer: Tracer, call: Call, axis: int, beside: Sequence[torch.Tensor], reason: str
) -> object:
    """Freeze one axis, and equate the others in all tensors that share them.

    Args:
        tracer: tracer of the trace.
        call: the operation.
        axis: axis it runs along, counted from the front.
        beside: tensors with the same axes; one without ``axis`` has the others in order.
        reason: what it does to that axis, for the reason.
    """
    rank = beside[0].dim()
    output = call.run()
    if not rank:
        return output
    for tensor in beside:
        if tensor.dim() == rank:
            tracer.freeze_known(tensor, reason, (axis,))
    known: dict[int, Ids | None] = {}
    for other in range(rank):
        if other != axis:
            known[other] = _unify(tracer, _places(beside, rank, axis, other), call)
    for result in iterate_tensors(output):
        if result.dim() == rank:
            tracer.put(result, known)
        elif result.dim() == rank - 1:
            tracer.put(result, {at - (at > axis): units for at, units in known.items()})
    return output


def _places(beside: Iterable[torch.Tensor], rank: int, axis: int, other: int) -> list[Place]:
    """The corresponding axis in each of the tensors."""
    return [
        Place(tensor, other if tensor.dim() == rank else other - (other > axis))
        for tensor in beside
        if tensor.dim() in (rank, rank - 1)
    ]


def _unify(tracer: Tracer, places: Sequence[Place], call: Call) -> Ids | None:
    """Equate corresponding axes; where an index is shorter than the others, freeze them instead."""
    if len({place.tensor.shape[place.axis] for place in places}) == 1:
        return tracer.unify(places)
    for tensor, axis in places:
        tracer.freeze_known(tensor, f"{call.name} covers only some of these indices", (axis,))
    return None


def _axis(call: Call, x: torch.Tensor, default: int = -1) -> int:
    given = call.get("dim", default)
    return int(given) % max(1, x.dim())


def _beside(call: Call, *names: str) -> list[torch.Tensor]:
    return [value for name in names if isinstance(value := call.get(name), torch.Tensor)]


@rule(
    *packets(
        "sort topk kthvalue mode cummax cummin cumsum cumprod logcumsumexp "
        "index_select index_fill index_fill_ linalg_cross"
    )
)
def along(tracer: Tracer, call: Call) -> object:
    """Each line along the axis is sorted, accumulated, selected from, ... independently."""
    beside = _beside(call, "self", "other")
    return carry_beside(
        tracer, call, _axis(call, beside[0]), beside, f"{call.name} along this axis"
    )


@rule(aten.median, aten.nanmedian)
def median(tracer: Tracer, call: Call) -> object:
    """The median along an axis, or of all values."""
    return along(tracer, call) if "dim" in call.named else statistic(tracer, call)


@rule(aten.argmax, aten.argmin)
def position(tracer: Tracer, call: Call) -> object:
    """The index of an extremum along an axis, which is frozen: removal would shift indices."""
    x = call.tensors()[0]
    if call.get("dim") is None:
        tracer.freeze_known(x, f"{call.name} over all values", range(x.dim()))
        return call.run()
    return carry_beside(tracer, call, _axis(call, x), [x], f"{call.name} along this axis")


@rule(
    *packets(
        "gather scatter scatter_ scatter_add scatter_add_ scatter_reduce scatter_reduce_ "
        "index_add index_add_ index_copy index_copy_ index_reduce index_reduce_ "
        "select_scatter slice_scatter"
    )
)
def by_number(tracer: Tracer, call: Call) -> object:
    """Reads or writes by index along the axis.

    An index of the same rank has an entry for each position of the other axes (``gather``); one of
    rank one is shared by all of them (``index_add``).
    """
    beside = _beside(call, "self", "src", "source")
    index = call.get("index")
    if isinstance(index, torch.Tensor) and call.name.startswith(("gather", "scatter")):
        beside.append(index)
    return carry_beside(
        tracer, call, _axis(call, beside[0]), beside, f"{call.name} along this axis"
    )


@rule(aten.segment_reduce)
def segments(tracer: Tracer, call: Call) -> object:
    """Reduce consecutive segments of the first axis."""
    x, lengths = call["data"], call.get("lengths")
    if call.get("axis", 0) != 0 or (lengths is not None and lengths.dim() > 1):
        return unknown(tracer, call)
    return carry_beside(tracer, call, 0, [x], "segment_reduce along this axis")


@rule(*packets("_pack_padded_sequence"))
def pack(tracer: Tracer, call: Call) -> object:
    """Pack sequences of different lengths: (time, batch, ...) becomes (rows, ...)."""
    x = call["input"]
    tracer.freeze_known(x, "packed by length", (0, 1))
    output = call.run_one()
    axes = tracer.axes(x)
    tracer.put(output[0], {axis - 1: units for axis, units in axes.items() if axis > 1})
    return output


@rule(*packets("_pad_packed_sequence"))
def unpack(tracer: Tracer, call: Call) -> object:
    """Unpack to padded sequences: the reverse of ``pack``."""
    x = call["data"]
    tracer.freeze_known(x, "unpacked by length", (0,))
    output = call.run_one()
    axes = tracer.axes(x)
    tracer.put(output[0], {axis + 1: units for axis, units in axes.items() if axis > 0})
    return output


@rule(*packets("searchsorted bucketize"))
def search(tracer: Tracer, call: Call) -> object:
    """The insertion index of each value among sorted values; each sorted sequence is frozen."""
    values = call["self"]
    edges = call["boundaries" if call.packet is aten.bucketize else "sorted_sequence"]
    if not isinstance(values, torch.Tensor):
        return unknown(tracer, call)
    reason = f"{call.name} along this axis"
    if edges.dim() == values.dim() > 1:
        return carry_beside(tracer, call, edges.dim() - 1, [edges, values], reason)
    tracer.freeze_known(edges, reason, range(edges.dim()))
    output = call.run_one()
    tracer.put(output, tracer.axes(values))
    return output


@rule(*packets("masked_scatter"))
def fill_by_mask(tracer: Tracer, call: Call) -> object:
    """Write the elements of a source, in order, where a mask is true: image tokens into a text.

    Where the mask is uniform along the last axis, whole rows are written, and that axis is equal to
    the source's last axis. Which row goes where depends on their order, so other axes are frozen.
    """
    x, mask, source = call["self"], call["mask"], call["source"]
    output = call.run_one()
    last = output.dim() - 1
    is_by_rows = (
        x.dim() == output.dim() > 1
        and source.dim() > 1
        and source.shape[-1] == output.shape[-1]
        and (mask.shape[-1] == 1 or mask.stride(-1) == 0 or _is_repeated(mask))
    )
    if not is_by_rows:
        return unknown(tracer, call)
    for tensor in (x, mask, source):
        tracer.freeze_known(tensor, f"{call.name} by order", range(tensor.dim() - 1))
    places = [Place(x, last), Place(source, source.dim() - 1), Place(mask, mask.dim() - 1)]
    tracer.put(output, {last: tracer.unify(places)})
    return output


def _is_repeated(mask: torch.Tensor) -> bool:
    return not mask.is_meta and is_uniform(mask, mask.dim() - 1)


@rule(*packets("renorm"))
def renorm(tracer: Tracer, call: Call) -> object:
    """Limit the norm of each slice along an axis; the norm mixes all other axes."""
    x = call["self"]
    output = call.run_one()
    axes = tracer.axes(x)
    tracer.mixes(call, [units for axis, units in axes.items() if axis != _axis(call, x)])
    tracer.put(output, axes)
    return output


SOLVED = {
    "_linalg_solve_ex": ("A", "B"),
    "linalg_lstsq": ("self", "b"),
    "linalg_solve_triangular": ("self", "B"),
    "triangular_solve": ("A", "self"),
    "cholesky_solve": ("input2", "self"),
}
"""Operations that solve linear systems -> names of the matrix and the right-hand sides."""


@rule(*packets(" ".join(SOLVED)))
def solve(tracer: Tracer, call: Call) -> object:
    """Each right-hand side is solved independently; the matrix is read whole."""
    matrix, right = (call[name] for name in SOLVED[call.name])
    if right.dim() == 1 or right.shape == matrix.shape[:-1]:  # one right-hand side per matrix
        return of_matrices(tracer, call)
    carried, solved = (-1, -2) if call.get("left", True) else (-2, -1)
    reason = f"{call.name} needs the whole matrix"
    tracer.freeze_known(matrix, reason, (matrix.dim() - 2, matrix.dim() - 1))
    tracer.freeze_known(right, reason, (right.dim() + solved,))
    output = call.run()
    first, *others = iterate_tensors(output)
    known = _unify_batch(tracer, (matrix, right), first.dim() - 2)
    units = tracer.axes(right).get(right.dim() + carried)
    tracer.put(first, {**known, first.dim() + carried: units})
    for other in others:
        tracer.put(other, known if other.dim() >= len(known) else {})
    return output


def _unify_batch(
    tracer: Tracer, tensors: Sequence[torch.Tensor], batch: int
) -> dict[int, Ids | None]:
    """Equate the axes before the last two, which are broadcast."""
    places = {
        axis: [
            Place(tensor, at) for tensor in tensors if (at := axis - batch + tensor.dim() - 2) >= 0
        ]
        for axis in range(batch)
    }
    return {axis: tracer.unify(met) for axis, met in places.items()}


@rule(
    *packets(
        "tril triu linalg_qr linalg_inv_ex linalg_eig linalg_matrix_exp linalg_cholesky_ex "
        "linalg_lu_factor_ex linalg_lu linalg_pinv "
        "_linalg_det _linalg_slogdet _linalg_svd _linalg_eigh"
    )
)
def of_matrices(tracer: Tracer, call: Call) -> object:
    """Operations on matrices in the last two axes, which are frozen; earlier axes are a batch."""
    tensors = call.tensors()
    for tensor in tensors:
        reason = f"{call.name} needs the whole matrix"
        tracer.freeze_known(tensor, reason, range(max(0, tensor.dim() - 2), tensor.dim()))
    output = call.run()
    batch = tensors[0].dim() - 2
    known = _unify_batch(tracer, tensors, batch)
    for result in iterate_tensors(output):
        if result.dim() >= batch:
            tracer.put(result, known)
    return output
