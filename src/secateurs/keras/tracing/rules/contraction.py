"""Rules for convolutions and matrix products: the axis summed over is equal in both operands."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from keras import layers

from secateurs.channels.equations import Ids
from secateurs.channels.network import Role
from secateurs.keras.internals import Layer, operation_classes
from secateurs.keras.model.tensors import ModelTensor
from secateurs.keras.tracing.op_call import Call
from secateurs.keras.tracing.op_record import Place, Value
from secateurs.keras.tracing.rules.pointwise import activate
from secateurs.keras.tracing.rules.registry import OF_ALL_OPERANDS, rule, unknown
from secateurs.keras.tracing.tracer import Tracer

ContractionOperand = tuple[Value | ModelTensor, str]


def contract(
    tracer: Tracer, call: Call, operands: Sequence[ContractionOperand], result: str
) -> None:
    """Label an einsum: axes of one letter are equal; letters not in the result are summed.

    The masked twin ignores removed channels in a weight that has the summed axis, or else in the
    first operand that has it.
    """
    places: dict[str, list[Place]] = {}
    for thing, word in operands:
        for axis, letter in enumerate(word):
            places.setdefault(letter, []).append(Place(thing, axis))
    units = {letter: tracer.unify(at) for letter, at in places.items()}
    for letter, at in places.items():
        if letter not in result:
            _mask_summed_axis(tracer, call, at)
    for thing, word in operands:
        for axis, letter in enumerate(word):
            if letter in result:
                tracer.play(Place(thing, axis), Role.FILTER)
    tracer.put(call.output, {axis: units[letter] for axis, letter in enumerate(result)})
    if len(operands) > 1:
        total = math.prod(max(place.length for place in at) for at in places.values())
        tracer.costs(call.path, total, units.values())


def _mask_summed_axis(tracer: Tracer, call: Call, places: Sequence[Place]) -> None:
    weights = [place for place in places if isinstance(place.thing, ModelTensor)]
    given = [p for p in places if isinstance(p.thing, Value) and p.thing.leaf is None]
    for other in places:
        if isinstance(other.thing, Value) and other.thing.leaf is not None:
            tracer.play(other, Role.INPUT)
    place = (weights or given or list(places))[0]
    if isinstance(place.thing, ModelTensor):
        tracer.reads(
            place.thing, place.axis, call, given[0] if len(places) == 2 and given else None
        )
    else:
        tracer.mask(call, place.thing, place.axis)


def shift(tracer: Tracer, value: Value, axis: int, bias: ModelTensor | None) -> None:
    """Add a bias along an axis of the result."""
    if bias is not None:
        tracer.unify([Place(value, axis), Place(bias, 0)])
        tracer.play(Place(bias, 0), Role.SHIFT)


@rule(layers.Dense)
def dense(tracer: Tracer, call: Call) -> None:
    """y[..., o] = x[..., i] w[i, o] + b[o]."""
    layer, x = call.layer, call.input
    kernel = tracer.weight(layer.kernel)
    if kernel is None:
        return unknown(tracer, call, "its kernel is not its own variable")
    lead = "abcdefgh"[: x.rank - 1]
    contract(tracer, call, [(x, f"{lead}i"), (kernel, "io")], f"{lead}o")
    shift(tracer, call.output, -1, tracer.weight(layer.bias))
    tracer.counts(call.path, "units", kernel.axes.get(1))
    return activate(tracer, call, layer.activation)


@rule(layers.EinsumDense)
def einsum_dense(tracer: Tracer, call: Call) -> None:
    """Any einsum with one weight, and a bias along some of the result's axes."""
    layer, x = call.layer, call.input
    kernel = tracer.weight(layer.kernel)
    if kernel is None:
        return unknown(tracer, call, "its kernel is not its own variable")
    read, weight, result = spell_out(layer.equation, x.rank)
    contract(tracer, call, [(x, read), (kernel, weight)], result)
    bias = tracer.weight(layer.bias)
    for axis in range(len(bias.shape)) if bias is not None else ():
        at = axis - len(bias.shape)  # type: ignore[union-attr]
        tracer.unify([Place(call.output, at), Place(bias, at)])  # type: ignore[arg-type]
        tracer.play(Place(bias, at), Role.SHIFT)  # type: ignore[arg-type]
    asked = layer.partial_output_shape
    elided = len(result) - 1 - len(asked) if layer.equation.startswith("...") else 0
    for position, size in enumerate(asked):
        if size is not None:
            units = call.output.axes.get(position + 1 + elided)
            tracer.counts(call.path, "output_shape", units, position)
    return activate(tracer, call, layer.activation)


def spell_out(equation: str, rank: int) -> tuple[str, str, str]:
    """Return the (input, weight, output) letters of an equation, with new letters for '...'."""
    read, weight, result = re.split(",|->", equation.replace(" ", ""))
    free = [letter for letter in "αβγδεζηθικλμ" if letter not in equation]
    elided = "".join(free[: rank - len(read.replace("...", ""))])
    return read.replace("...", elided), weight, result.replace("...", elided)


def channel_axis(layer: Layer, rank: int) -> int:
    """Return the channel axis of a layer with a data format."""
    return 1 if layer.data_format == "channels_first" else rank - 1


def _space(x: Value, channel: int) -> list[int]:
    return [axis for axis in range(1, x.rank) if axis != channel]


@rule(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def convolution(tracer: Tracer, call: Call) -> None:
    """y[n, ..., o] = x[n, ..., i] w[..., i, o]; with groups, each side's channels form a grid."""
    layer, x = call.layer, call.input
    kernel = tracer.weight(layer.kernel)
    if kernel is None:
        return unknown(tracer, call, "its kernel is not its own variable")
    channel = channel_axis(layer, x.rank)
    tracer.freeze_known(x, f"{call} runs along this axis", _space(x, channel))
    if layer.groups == 1:
        counted = [
            tracer.unify([Place(x, channel), Place(kernel, -2)]),
            tracer.unify([Place(kernel, -1)]),
        ]
        made = counted[1]
        tracer.reads(kernel, -2, call, Place(x, channel))
    else:
        made, counted = _wire_groups(tracer, call, kernel, channel)
    tracer.play(Place(kernel, -1), Role.FILTER)
    tracer.counts(call.path, "filters", made)
    positions = math.prod(call.output.shape) // call.output.shape[channel]
    tracer.costs(call.path, positions * math.prod(kernel.shape), counted)
    return _label_result(tracer, call, channel, made)


def _label_result(tracer: Tracer, call: Call, channel: int, made: Ids | None) -> None:
    """Label the result's channels and the bias, and apply the activation."""
    tracer.put(call.output, {channel: made})
    shift(tracer, call.output, channel, tracer.weight(call.layer.bias))
    activate(tracer, call, call.layer.activation)


def _wire_groups(
    tracer: Tracer, call: Call, kernel: ModelTensor, channel: int
) -> tuple[Ids | None, list[Ids | None]]:
    """Label a grouped convolution; return (output units, units that its cost is proportional to).

    The input is a grid of (groups, channels per group), the output one of the same groups and
    (groups, filters per group).
    """
    x, groups, equations = call.input, call.layer.groups, tracer.equations
    read = x.axes.get(channel)
    if read is None:
        tracer.freeze(kernel, f"{call}: groups of {x.why}", (-2, -1))
        return None, []
    filters = kernel.shape[-1] // groups
    rows, inside = read, None
    if len(read) > groups:
        rows, inside = equations.factor(read, (groups, len(read) // groups))
        tracer.join(kernel, -2, inside, Role.INPUT)
        tracer.reads(kernel, -2)
    tracer.counts(call.path, "groups", rows)
    if filters == 1:
        made = rows
    else:
        units = kernel.axes.get(len(kernel.shape) - 1)
        columns = (
            equations.units(filters)
            if units is None
            else equations.factor(units, (groups, filters))[1]
        )
        made = equations.compose((rows, columns))
    tracer.join(kernel, -1, made)
    return made, [made, inside]


@rule(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def transposed_convolution(tracer: Tracer, call: Call) -> None:
    """Transposed convolution: like a convolution, with a kernel (..., output, input)."""
    layer, x = call.layer, call.input
    kernel = tracer.weight(layer.kernel)
    if kernel is None:
        return unknown(tracer, call, "its kernel is not its own variable")
    channel = channel_axis(layer, x.rank)
    tracer.freeze_known(x, f"{call} runs along this axis", _space(x, channel))
    read = tracer.unify([Place(x, channel), Place(kernel, -1)])
    made = tracer.unify([Place(kernel, -2)])
    tracer.reads(kernel, -1, call, Place(x, channel))
    tracer.play(Place(kernel, -2), Role.FILTER)
    tracer.counts(call.path, "filters", made)
    positions = math.prod(x.shape) // x.shape[channel]
    tracer.costs(call.path, positions * math.prod(kernel.shape), [read, made])
    return _label_result(tracer, call, channel, made)


@rule(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def depthwise_convolution(tracer: Tracer, call: Call) -> None:
    """Depthwise convolution: ``depth_multiplier`` filters for each channel."""
    channel = channel_axis(call.layer, call.input.rank)
    kernel = tracer.weight(call.layer.kernel)
    if kernel is None:
        return unknown(tracer, call, "its kernel is not its own variable")
    positions = math.prod(call.output.shape) // call.output.shape[channel]
    made = _each_channel(tracer, call, kernel, channel, positions)
    return _label_result(tracer, call, channel, made)


def _each_channel(
    tracer: Tracer, call: Call, kernel: ModelTensor, channel: int, positions: int
) -> Ids | None:
    """Return the output units of a depthwise kernel of shape (..., input, multiplier)."""
    x, multiplier = call.input, kernel.shape[-1]
    tracer.freeze_known(x, f"{call} runs along this axis", _space(x, channel))
    read = x.axes.get(channel)
    if read is None:
        tracer.freeze(kernel, f"{call}: channel by channel of {x.why}", (-2, -1))
        tracer.costs(call.path, positions * math.prod(kernel.shape), [])
        return None
    tracer.join(kernel, -2, read)
    columns = None
    if multiplier > 1:
        columns = tracer.unify([Place(kernel, -1)])
        tracer.play(Place(kernel, -1), Role.FILTER)
        tracer.counts(call.path, "depth_multiplier", columns)
    tracer.costs(call.path, positions * math.prod(kernel.shape), [read, columns])
    return read if columns is None else tracer.equations.compose((read, columns))


@rule(layers.SeparableConv1D, layers.SeparableConv2D)
def separable_convolution(tracer: Tracer, call: Call) -> None:
    """Separable convolution: a depthwise and a pointwise convolution."""
    layer = call.layer
    depthwise = tracer.weight(layer.depthwise_kernel)
    pointwise = tracer.weight(layer.pointwise_kernel)
    if depthwise is None or pointwise is None:
        return unknown(tracer, call, "its kernels are not its own variables")
    channel = channel_axis(layer, call.input.rank)
    positions = math.prod(call.output.shape) // call.output.shape[channel]
    between = _each_channel(tracer, call, depthwise, channel, positions)
    if between is None:
        tracer.freeze(pointwise, f"{call}: channel by channel of {call.input.why}", (-2,))
    else:
        tracer.join(pointwise, -2, between, Role.INPUT)
        tracer.reads(pointwise, -2)
    made = tracer.unify([Place(pointwise, -1)])
    tracer.play(Place(pointwise, -1), Role.FILTER)
    tracer.counts(call.path, "filters", made)
    tracer.costs(call.path, positions * math.prod(pointwise.shape), [between, made])
    return _label_result(tracer, call, channel, made)


@rule(layers.Dot)
def dot(tracer: Tracer, call: Call) -> None:
    """Dot product of two values along an axis of each, for each example."""
    left, right = call.inputs
    axes = call.layer.axes
    axes = (axes, axes) if isinstance(axes, int) else axes
    first, second = (axis % value.rank for axis, value in zip(axes, (left, right), strict=True))
    if call.layer.normalize:  # each operand is divided by its norm over these channels
        tracer.mixes(call, [left.axes.get(first), right.axes.get(second)])
    if left.rank == right.rank == 2:  # one number per example, as an axis of length one
        units = tracer.unify([Place(left, first), Place(right, second)])
        tracer.mask(call, left, first)
        return tracer.costs(call.path, math.prod(left.shape), [units])
    words = ["n", "n"]
    for number, (value, summed) in enumerate(((left, first), (right, second))):
        names = iter("abcdef" if number == 0 else "uvwxyz")
        words[number] += "".join(
            "k" if axis == summed else next(names) for axis in range(1, value.rank)
        )
    result = words[0].replace("k", "") + words[1].replace("k", "")[1:]
    return contract(tracer, call, [(left, words[0]), (right, words[1])], result)


@rule(*operation_classes("Matmul"))
def matmul(tracer: Tracer, call: Call) -> None:
    """Matrix products of every rank; leading axes are broadcast."""
    operands = call.operands
    left, right = operands
    lead = "abcdefgh"[: max(left.rank - 2, right.rank - 2, 0)]
    rows = "r" if left.rank > 1 else ""
    columns = "s" if right.rank > 1 else ""
    words = [
        lead[len(lead) - max(left.rank - 2, 0) :] + f"{rows}k",
        lead[len(lead) - max(right.rank - 2, 0) :] + f"k{columns}",
    ]
    contract(tracer, call, list(zip(operands, words, strict=True)), f"{lead}{rows}{columns}")


@rule(*operation_classes("Einsum"))
def einsum(tracer: Tracer, call: Call) -> None:
    """Explicit einsum without repeated letters in one operand."""
    inputs, arrow, result = call.layer.subscripts.replace(" ", "").partition("->")
    words = inputs.split(",")
    repeated = any(len(set(word)) < len(word) for word in words)
    if not arrow or "." in inputs or repeated or len(words) != len(call.operands):
        return unknown(tracer, call, f"the einsum {call.layer.subscripts!r} cannot be followed")
    return contract(tracer, call, list(zip(call.operands, words, strict=True)), result)


OF_ALL_OPERANDS |= {matmul, einsum}
