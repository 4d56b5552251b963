"""Rules for indexing: the indexed axes are frozen, the others are carried."""

from __future__ import annotations

from keras import layers

from secateurs.channels.network import Role
from secateurs.keras.internals import find_classes, operation_classes
from secateurs.keras.tracing.op_call import Call
from secateurs.keras.tracing.op_record import Place
from secateurs.keras.tracing.rules.contraction import contract
from secateurs.keras.tracing.rules.registry import OF_ALL_OPERANDS, rule, unknown
from secateurs.keras.tracing.tracer import Tracer


@rule(layers.Embedding)
def embedding(tracer: Tracer, call: Call) -> None:
    """Rows are selected by the data; columns are channels."""
    table = tracer.weight(call.layer.embeddings)
    if table is None:
        return unknown(tracer, call, "its table is not its own variable")
    tracer.freeze(table, f"{call}: rows looked up by the data", (0,))
    units = tracer.unify([Place(table, 1)])
    tracer.play(Place(table, 1), Role.FILTER)
    tracer.put(call.output, {-1: units})
    tracer.counts(call.path, "output_dim", units)
    if call.input.source is not None:
        known = tracer.index_ranges.get(call.input.source, call.layer.input_dim)
        tracer.index_ranges[call.input.source] = min(known, call.layer.input_dim)
    return None


@rule(*find_classes([layers], "ReversibleEmbedding"))
def reversible_embedding(tracer: Tracer, call: Call) -> None:
    """Reversible embedding: in reverse, a matrix product with its table, or with a second one."""
    if not call.by_name.get("reverse", False):
        if not call.layer.tie_weights:  # as tall as the table is wide, even if never called
            other = tracer.weight(call.layer.reverse_embeddings)
            table = tracer.weight(call.layer.embeddings)
            if table is not None and other is not None:
                tracer.unify([Place(table, 1), Place(other, 0)])
                tracer.freeze(other, f"{call}: one per row of its table", (1,))
        return embedding(tracer, call)
    layer, x = call.layer, call.input
    table = tracer.weight(layer.embeddings if layer.tie_weights else layer.reverse_embeddings)
    if table is None:
        return unknown(tracer, call, "its table is not its own variable")
    lead = "abcdefgh"[: x.rank - 1]
    letters = "oi" if layer.tie_weights else "io"
    contract(tracer, call, [(x, f"{lead}i"), (table, letters)], f"{lead}o")
    return None


@rule(*operation_classes("Take"))
def take(tracer: Tracer, call: Call) -> None:
    """Select slices along one axis of a value or a weight (a codebook) by index."""
    x, axis = call.input, call.layer.axis
    numbers = call.inputs[1:]
    if not isinstance(axis, int) or any(value.axes for value in numbers):
        return unknown(tracer, call, "it indexes several axes, or with indices that have channels")
    axis %= x.rank
    reason = f"{call}: entries looked up by the data" if numbers else f"{call} runs along this axis"
    tracer.freeze_known(x, reason, [axis])
    longer = call.output.rank - x.rank
    moved = {at: at if at < axis else at + longer for at in x.axes if at != axis}
    tracer.put(call.output, {new: x.axes[old] for old, new in moved.items()})
    return None


OF_ALL_OPERANDS.add(take)


@rule(layers.Masking)
def masking(tracer: Tracer, call: Call) -> None:
    """Masking: a step is masked if all its features equal one value, so all of them are read."""
    tracer.freeze_known(call.input, f"{call} reads all features of a step", [-1])
    tracer.carry(call)
