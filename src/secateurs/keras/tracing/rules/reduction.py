"""Rules for reductions over axes: sums, means, maxima and the like."""

from __future__ import annotations

from collections.abc import Sequence

from secateurs.keras.internals import operation_classes
from secateurs.keras.tracing.op_call import Call
from secateurs.keras.tracing.rules.pointwise import over_the_last
from secateurs.keras.tracing.rules.registry import rule
from secateurs.keras.tracing.tracer import Tracer


def _axes_argument(call: Call, rank: int) -> Sequence[int]:
    given = call.layer.axis
    if given is None:
        return range(rank)
    return [axis % rank for axis in (given if isinstance(given, (list, tuple)) else [given])]


def _reduce(tracer: Tracer, call: Call, exact: bool) -> None:
    """Carry the other axes. A sum over channels ignores zeroed ones; a mean does not."""
    x = call.input
    gone = set(_axes_argument(call, x.rank))
    if exact:
        for axis in gone:
            tracer.mask(call, x, axis)
    else:
        tracer.mixes(call, [x.axes.get(axis) for axis in sorted(gone)])
    kept = [axis for axis in range(x.rank) if axis not in gone]
    same_rank = call.output.rank == x.rank
    tracer.carry(call, {axis: axis if same_rank else kept.index(axis) for axis in kept})


@rule(*operation_classes("Sum", "CountNonzero"))
def total(tracer: Tracer, call: Call) -> None:
    """Reductions that zeros do not change."""
    _reduce(tracer, call, exact=True)


@rule(
    *operation_classes(
        "Mean",
        "Max",
        "Min",
        "Amax",
        "Amin",
        "Var",
        "Std",
        "Median",
        "Norm",
        "Logsumexp",
        "Prod",
        "Any",
        "All",
    )
)
def statistic(tracer: Tracer, call: Call) -> None:
    """Statistic over axes: it depends on the number of elements, or on zeros."""
    _reduce(tracer, call, exact=False)


@rule(*operation_classes("Cumsum", "Cumprod"))
def along(tracer: Tracer, call: Call) -> None:
    """Freeze an axis along which each result depends on all of it."""
    tracer.carry(call)
    if call.layer.axis is None:
        tracer.freeze(call.input, f"{call} over these channels")
        tracer.put(call.output, {})
    else:
        over_the_last(tracer, call, call.output, "accumulated over these channels", call.layer.axis)
