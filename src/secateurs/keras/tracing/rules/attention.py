"""Rules for attention: heads, key channels and value channels are axes of the kernels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import keras
from keras import layers

from secateurs.channels.equations import Ids
from secateurs.channels.network import Role
from secateurs.keras.internals import Layer, operation_classes
from secateurs.keras.model.tensors import ModelTensor
from secateurs.keras.tracing.op_call import Call
from secateurs.keras.tracing.op_record import Place, Value
from secateurs.keras.tracing.rules.registry import rule, unknown
from secateurs.keras.tracing.tracer import Tracer

SCALED_BY = ("key_dim", "head_dim")
"""Sizes whose square root divides the scores; the query's weights compensate for a cut of one."""


def _arguments(call: Call) -> tuple[Value, Value, Value]:
    """Return (query, key, value); the key defaults to the value."""
    named = call.by_name
    query, value = named["query"], named["value"]
    key = named.get("key")
    return query, value if key is None else key, value


def _project(tracer: Tracer, x: Value, kernel: ModelTensor) -> Ids | None:
    """Return the units that a projection reads along the last axis of its input."""
    read = tracer.unify([Place(x, -1), Place(kernel, 0)])
    tracer.reads(kernel, 0)
    return read


def _bias(tracer: Tracer, dense: Layer, units: Iterable[Ids | None]) -> None:
    bias = tracer.weight(dense.bias)
    for axis, along in enumerate(units):
        if bias is not None and along is not None:
            tracer.join(bias, axis, along, Role.SHIFT)


def _filters(tracer: Tracer, *leaves: ModelTensor) -> None:
    """Mark the last two axes of projection kernels as filters."""
    for leaf in leaves:
        tracer.play(Place(leaf, -1), Role.FILTER)
        tracer.play(Place(leaf, -2), Role.FILTER)


def _freeze_positions(tracer: Tracer, call: Call) -> None:
    for value in call.inputs:
        tracer.freeze_known(value, f"{call} sums over positions", range(1, value.rank - 1))


def _dense_layers(layer: Layer) -> list[Layer]:
    parts = [layer._query_dense, layer._key_dense, layer._value_dense, layer._output_dense]
    return [*parts, *([layer._gate_dense] if getattr(layer, "_gate_dense", None) else [])]


def _kernels(tracer: Tracer, call: Call) -> list[ModelTensor] | None:
    """Return the kernels of query, key, value, output (and gate); None if any is customised."""
    base = (
        layers.GroupQueryAttention
        if isinstance(call.layer, layers.GroupQueryAttention)
        else layers.MultiHeadAttention
    )
    plain = type(call.layer)._compute_attention is base._compute_attention
    found = [tracer.weight(dense.kernel) for dense in _dense_layers(call.layer)]
    return [leaf for leaf in found if leaf is not None] if plain and None not in found else None


@rule(layers.MultiHeadAttention)
def multi_head_attention(tracer: Tracer, call: Call) -> None:
    """Multi-head attention: softmax(q k^T / sqrt(d)) v, with input and output projections."""
    kernels = _kernels(tracer, call)
    if kernels is None:
        return unknown(tracer, call, "its projections or its attention are not Keras's own")
    query, key, value, output, *gate = kernels
    into = [_project(tracer, x, k) for x, k in zip(_arguments(call), kernels[:3], strict=True)]
    heads = tracer.unify([Place(k, -2) for k in (query, key, value, *gate)] + [Place(output, 0)])
    inner = tracer.unify([Place(query, -1), Place(key, -1)])
    carried = tracer.unify([Place(value, -1), *(Place(g, -1) for g in gate), Place(output, 1)])
    if keras.backend.backend() == "jax" and not call.layer.dropout:
        # Keras calls JAX's attention here, which requires values as wide as keys.
        tracer.unify([Place(query, -1), Place(value, -1)])
    units = _Units(heads, heads, inner, carried)
    into += [_project(tracer, call.by_name["query"], kernel) for kernel in gate]
    _filters(tracer, query, key, value, *gate)
    _wire(tracer, call, units)
    _label_result(tracer, call, output, units)
    tracer.counts(call.path, "num_heads", heads)
    tracer.counts(call.path, "key_dim", inner)
    tracer.counts(call.path, "value_dim", carried)
    for axis in range(2, len(output.shape)):
        tracer.counts(call.path, "output_shape", output.axes.get(axis), axis - 2)
    _count_costs(tracer, call, kernels, into, units)
    return None


@dataclass(frozen=True, slots=True)
class _Units:
    """The units of an attention layer.

    Attributes:
        heads: query heads.
        shared: heads of keys and values; fewer where several query heads share one.
        inner: channels of a head of queries and keys, which the scores sum over.
        carried: channels of a head of values.
    """

    heads: Ids | None
    shared: Ids | None
    inner: Ids | None
    carried: Ids | None


def _wire(tracer: Tracer, call: Call, units: _Units) -> None:
    """Label biases, record what the masked twin ignores, and freeze the positions."""
    layer = call.layer
    query, key, value, _, *gate = _dense_layers(layer)
    _bias(tracer, query, (units.heads, units.inner))
    _bias(tracer, key, (units.shared, units.inner))
    _bias(tracer, value, (units.shared, units.carried))
    for dense in gate:
        _bias(tracer, dense, (units.heads, units.carried))
    # Scores sum products of queries and keys: with the query's factor zero, a channel adds nothing.
    tracer.silences(tracer.weight(query.kernel), -1)
    tracer.silences(tracer.weight(query.bias), -1)
    output = tracer.weight(layer._output_dense.kernel)
    if output is not None:
        tracer.reads(output, 0)
        tracer.reads(output, 1)
    _freeze_positions(tracer, call)


def _label_result(tracer: Tracer, call: Call, output: ModelTensor, units: _Units) -> None:
    """Label the result's channels, and the heads of the attention scores if they are returned."""
    axes = {}
    made = range(2, len(output.shape))
    for axis in made:
        axes[call.output.rank - len(output.shape) + axis] = tracer.unify([Place(output, axis)])
        tracer.play(Place(output, axis), Role.FILTER)
    tracer.put(call.output, axes)
    _bias(tracer, call.layer._output_dense, [output.axes.get(axis) for axis in made])
    for scores in call.outputs[1:]:
        tracer.put(scores, {1: units.heads})


def _count_costs(
    tracer: Tracer,
    call: Call,
    kernels: list[ModelTensor],
    into: list[Ids | None],
    units: _Units,
) -> None:
    """Record the multiply-accumulates of the projections and of the two attention products."""
    query, key, value, output, *gate = kernels
    x, source, _ = _arguments(call)
    ahead, behind = math.prod(x.shape[:-1]), math.prod(source.shape[:-1])
    sides = (
        (units.heads, units.inner),
        (units.shared, units.inner),
        (units.shared, units.carried),
        (units.heads, units.carried),
    )
    rows = (ahead, behind, behind, ahead)
    for leaf, side, times, read in zip((query, key, value, *gate), sides, rows, into, strict=False):
        tracer.costs(call.path, times * math.prod(leaf.shape), [read, *side])
    made = [output.axes.get(axis) for axis in range(2, len(output.shape))]
    total = ahead * math.prod(output.shape)
    tracer.costs(call.path, total, [units.heads, units.carried, *made])
    pairs = ahead * math.prod(source.shape[1:-1]) * query.shape[-2]
    tracer.costs(call.path, pairs * query.shape[-1], [units.heads, units.inner])
    tracer.costs(call.path, pairs * value.shape[-1], [units.heads, units.carried])


@rule(layers.GroupQueryAttention)
def group_query_attention(tracer: Tracer, call: Call) -> None:
    """Grouped-query attention: query heads are a grid of (key-value heads, queries per head)."""
    kernels = _kernels(tracer, call)
    if kernels is None:
        return unknown(tracer, call, "its projections or its attention are not Keras's own")
    query, key, value, output, *gate = kernels
    into = [_project(tracer, x, k) for x, k in zip(_arguments(call), kernels[:3], strict=True)]
    shared = tracer.unify([Place(key, -2), Place(value, -2)])
    heads = tracer.unify([Place(k, -2) for k in (query, *gate)] + [Place(output, 0)])
    if heads is not None:
        _share(tracer, call, heads, shared)
    # A single size, head_dim, is the width of queries, keys and values.
    inner = tracer.unify([Place(k, -1) for k in (query, key, value, *gate)] + [Place(output, 1)])
    units = _Units(heads, shared, inner, inner)
    into += [_project(tracer, call.by_name["query"], kernel) for kernel in gate]
    # Keras requires the result, the query's input and the value's input to have the same width.
    named = call.by_name
    tracer.unify([Place(named["query"], -1), Place(named["value"], -1), Place(output, 2)])
    _filters(tracer, query, key, value, *gate)
    _wire(tracer, call, units)
    _label_result(tracer, call, output, units)
    tracer.counts(call.path, "num_query_heads", heads)
    tracer.counts(call.path, "num_key_value_heads", shared)
    tracer.counts(call.path, "head_dim", inner)
    _count_costs(tracer, call, kernels, into, units)
    return None


def _share(tracer: Tracer, call: Call, heads: Ids, shared: Ids | None) -> None:
    groups, each = call.layer.num_key_value_heads, call.layer.num_repeats
    if shared is None:  # a single head of keys and values, which all queries share
        return
    if each == 1:
        tracer.equations.equate(heads, shared)
        return
    rows, _ = tracer.equations.factor(heads, (groups, each))
    tracer.equations.equate(rows, shared)


@rule(layers.Attention, layers.AdditiveAttention)
def attend(tracer: Tracer, call: Call) -> None:
    """Attention without projections: scores sum over the last axis; values are carried."""
    query, value, *rest = call.inputs[:3]
    key = rest[0] if rest else value
    layer = call.layer
    scale = tracer.weight(layer.scale) if isinstance(layer, layers.AdditiveAttention) else None
    units = tracer.unify(
        [Place(query, -1), Place(key, -1), *([Place(scale, 0)] if scale is not None else [])]
    )
    if scale is not None:
        tracer.reads(scale, 0)
    elif key is value and units is not None:
        # Masking the keys also masks the values, which are the same tensor. Where a score needs it,
        # that is harmless: nothing reads removed channels of the values afterwards.
        tracer.mask(call, query, -1)
        if isinstance(layer, layers.AdditiveAttention) or layer.score_mode != "dot":
            tracer.mask(call, key, -1)
    else:
        tracer.mask(call, query, -1)
        tracer.mask(call, key, -1)
    _freeze_positions(tracer, call)
    tracer.put(call.output, {call.output.rank - 1: value.axes.get(value.rank - 1)})
    pairs = math.prod(query.shape[:-1]) * key.shape[-2]
    tracer.costs(call.path, pairs * query.shape[-1], [units])
    tracer.costs(call.path, pairs * value.shape[-1], [value.axes.get(value.rank - 1)])


@rule(*operation_classes("DotProductAttention"))
def dot_product_attention(tracer: Tracer, call: Call) -> None:
    """softmax(q k^T scale) v on tensors of shape (batch, positions, heads, channels)."""
    named = call.by_name
    query, key, value = (named[name] for name in ("query", "key", "value"))
    if not all(isinstance(x, Value) and x.rank == 4 for x in (query, key, value)):
        return unknown(tracer, call, "its inputs are constants")
    for x in (query, key, value):
        tracer.freeze_known(x, f"{call} sums over positions", [1])
    for name in ("mask", "bias"):
        if isinstance(named.get(name), Value):
            tracer.freeze(named[name], f"{call} reads its {name}")
    heads = _heads_of(tracer, call, query, key, value)
    inner = tracer.unify([Place(query, 3), Place(key, 3)])
    if named.get("scale") is None:
        if inner is not None:
            tracer.equations.freeze(inner, f"{call} divides by the square root of their number")
    else:
        tracer.mask(call, query, 3)
    # The backends' attention functions require values as wide as queries.
    carried = tracer.unify([Place(query, 3), Place(value, 3)])
    tracer.put(call.output, {2: heads, 3: carried})
    pairs = math.prod(query.shape[:-1]) * key.shape[1]
    for channels in (inner, carried):
        tracer.costs(call.path, pairs * query.shape[3], [heads, channels])
    return None


def _heads_of(tracer: Tracer, call: Call, query: Value, key: Value, value: Value) -> Ids | None:
    """Return the query heads; where several share one of keys and values, they form a grid."""
    heads, shared = query.axes.get(2), tracer.unify([Place(key, 2), Place(value, 2)])
    if heads is not None and shared is not None:
        rows = heads
        if len(heads) > len(shared):
            shape = (len(shared), len(heads) // len(shared))
            rows, _ = tracer.equations.factor(heads, shape)
        tracer.equations.equate(rows, shared)
    elif heads is not None:
        tracer.equations.freeze(heads, f"{call}: heads of {key.why}")
    return heads
