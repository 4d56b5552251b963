"""Operations that run along one axis and carry the others: one rule for all of them.

``sort``, ``gather``, ``scatter_add``, ``cummax``, ``index_select``, ``segment_reduce``, ... differ
in what they do along their axis. That axis is read by position, so nothing there may go. Along
every other axis each place is on its own, whatever the operation does: all tensors that have it lie
side by side there, and so does every result.

A family is a table of operations and of the names of the tensors that lie side by side; one that
PyTorch adds tomorrow is one more line.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from secateurs.channels.equations import Ids
from secateurs.pytorch.tracing.interpreter import aten
from secateurs.pytorch.tracing.op_call import Call, iterate_tensors
from secateurs.pytorch.tracing.op_record import Place
from secateurs.pytorch.tracing.rules.reduction import statistic
from secateurs.pytorch.tracing.rules.registry import packets, rule, unknown
from secateurs.pytorch.tracing.tracer import Tracer


def carry_beside(
    tracer: Tracer, call: Call, axis: int, beside: Sequence[torch.Tensor], what: str
) -> object:
    """Freeze one axis, and let all tensors that lie side by side carry the others.

    Args:
        tracer: of the trace.
        call: the operation.
        axis: the one it runs along, counted from the front.
        beside: tensors of the same axes; one that lacks ``axis`` has the others in order.
        what: it does to that axis, for the reason.
    """
    rank = beside[0].dim()
    output = call.run()
    if not rank:
        return output
    for tensor in beside:
        if tensor.dim() == rank:
            tracer.freeze_known(tensor, what, (axis,))
    known: dict[int, Ids | None] = {}
    for other in range(rank):
        if other != axis:
            known[other] = _met(tracer, _places(beside, rank, axis, other), call)
    for result in iterate_tensors(output):
        if result.dim() == rank:
            tracer.put(result, known)
        elif result.dim() == rank - 1:
            tracer.put(result, {at - (at > axis): units for at, units in known.items()})
    return output


def _places(beside: Iterable[torch.Tensor], rank: int, axis: int, other: int) -> list[Place]:
    """An axis in each of the tensors."""
    return [
        Place(tensor, other if tensor.dim() == rank else other - (other > axis))
        for tensor in beside
        if tensor.dim() in (rank, rank - 1)
    ]


def _met(tracer: Tracer, places: Sequence[Place], call: Call) -> Ids | None:
    """The units along axes that lie side by side; an index may cover only the first of them."""
    if len({place.tensor.shape[place.axis] for place in places}) == 1:
        return tracer.unify(places)
    for tensor, axis in places:
        tracer.freeze_known(tensor, f"{call.name} covers some of them", (axis,))
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
    """Each line along the axis is sorted, summed up, picked from, ... on its own."""
    beside = _beside(call, "self", "other")
    return carry_beside(tracer, call, _axis(call, beside[0]), beside, f"{call.name} along it")


@rule(aten.median, aten.nanmedian)
def median(tracer: Tracer, call: Call) -> object:
    """Along an axis, or of all values."""
    return along(tracer, call) if "dim" in call.named else statistic(tracer, call)


@rule(aten.argmax, aten.argmin)
def position(tracer: Tracer, call: Call) -> object:
    """Where along an axis something is: nothing there may go, or others would move up."""
    x = call.tensors()[0]
    if call.get("dim") is None:
        tracer.freeze_known(x, f"{call.name} of all values", range(x.dim()))
        return call.run()
    return carry_beside(tracer, call, _axis(call, x), [x], f"{call.name} along it")


@rule(
    *packets(
        "gather scatter scatter_ scatter_add scatter_add_ scatter_reduce scatter_reduce_ "
        "index_add index_add_ index_copy index_copy_ index_reduce index_reduce_ "
        "select_scatter slice_scatter"
    )
)
def by_number(tracer: Tracer, call: Call) -> object:
    """Picked from or written to places along the axis, given by number.

    An index of as many axes is one for each place beside it (``gather``); one of a single axis is
    for all of them (``index_add``).
    """
    beside = _beside(call, "self", "src", "source")
    index = call.get("index")
    if isinstance(index, torch.Tensor) and call.name.startswith(("gather", "scatter")):
        beside.append(index)
    return carry_beside(tracer, call, _axis(call, beside[0]), beside, f"{call.name} along it")


@rule(aten.segment_reduce)
def segments(tracer: Tracer, call: Call) -> object:
    """Stretches of the first axis, each brought to one."""
    x, lengths = call["data"], call.get("lengths")
    if call.get("axis", 0) != 0 or (lengths is not None and lengths.dim() > 1):
        return unknown(tracer, call)
    return carry_beside(tracer, call, 0, [x], "segment_reduce along it")


@rule(*packets("_pack_padded_sequence"))
def pack(tracer: Tracer, call: Call) -> object:
    """Sequences of different lengths end to end: (time, batch, ...) becomes (rows, ...)."""
    x = call["input"]
    tracer.freeze_known(x, "packed by length", (0, 1))
    output = call.run_one()
    axes = tracer.axes(x)
    tracer.put(output[0], {axis - 1: units for axis, units in axes.items() if axis > 1})
    return output


@rule(*packets("_pad_packed_sequence"))
def unpack(tracer: Tracer, call: Call) -> object:
    """The reverse of ``pack``."""
    x = call["data"]
    tracer.freeze_known(x, "unpacked by length", (0,))
    output = call.run_one()
    axes = tracer.axes(x)
    tracer.put(output[0], {axis + 1: units for axis, units in axes.items() if axis > 0})
    return output


@rule(
    *packets(
        "tril triu linalg_qr linalg_inv_ex linalg_eig linalg_matrix_exp linalg_cholesky_ex "
        "linalg_lu_factor_ex linalg_lu linalg_pinv linalg_solve_triangular triangular_solve "
        "cholesky_solve _linalg_det _linalg_slogdet _linalg_solve_ex _linalg_svd _linalg_eigh"
    )
)
def of_matrices(tracer: Tracer, call: Call) -> object:
    """Of the matrices that lie along the last two axes; axes before them are a batch."""
    tensors = call.tensors()
    for tensor in tensors:
        what = f"{call.name} needs the whole matrix"
        tracer.freeze_known(tensor, what, range(max(0, tensor.dim() - 2), tensor.dim()))
    output = call.run()
    batch = tensors[0].dim() - 2
    places = {
        axis: [
            Place(tensor, at) for tensor in tensors if (at := axis - batch + tensor.dim() - 2) >= 0
        ]
        for axis in range(batch)
    }
    known = {axis: tracer.unify(met) for axis, met in places.items()}
    for result in iterate_tensors(output):
        if result.dim() >= batch:
            tracer.put(result, known)
    return output
