"""Rules for convolutions and matrix products: the axis summed over is equal in both operands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from secateurs.channels.equations import Ids
from secateurs.channels.network import Role
from secateurs.pytorch.tracing import shape_inference
from secateurs.pytorch.tracing.interpreter import aten
from secateurs.pytorch.tracing.op_call import Call
from secateurs.pytorch.tracing.op_record import Place
from secateurs.pytorch.tracing.rules.computed_weights import is_of_weights_alone
from secateurs.pytorch.tracing.rules.functional_attention import constrain_call
from secateurs.pytorch.tracing.rules.registry import packets, rule, unknown
from secateurs.pytorch.tracing.tracer import Tracer


def contract(
    tracer: Tracer,
    call: Call,
    operands: Sequence[tuple[torch.Tensor, str]],
    result: str,
    output: torch.Tensor,
) -> None:
    """Label an einsum: axes of one letter are equal; letters not in the result are summed.

    The masked twin zeroes removed channels in the first operand that has the summed axis. Where the
    result is a number computed from weights, such as a norm, removal is not exact: channels are
    mixed.
    """
    places: dict[str, list[Place]] = {}
    for tensor, letters in operands:
        for axis, letter in enumerate(letters):
            places.setdefault(letter, []).append(Place(tensor, axis))
    units = {letter: tracer.unify(at) for letter, at in places.items()}
    summed = [letter for letter in places if letter not in result]
    if is_of_weights_alone(operands):
        tracer.mixes(call, [u for letter in summed if (u := units[letter]) is not None])
    else:
        for letter in summed:
            _mask(tracer, operands, letter, units[letter])
        _note_roles(tracer, operands, result)
    tracer.put(output, {axis: units[letter] for axis, letter in enumerate(result)})
    if len(operands) > 1:
        lengths = {
            letter: max(place.tensor.shape[place.axis] for place in at)
            for letter, at in places.items()
        }
        _count(tracer, operands, lengths, units)


def _mask(
    tracer: Tracer, operands: Sequence[tuple[torch.Tensor, str]], letter: str, units: Ids | None
) -> None:
    for number, (_, letters) in enumerate(operands):
        if letter in letters:
            tracer.mask(number, letters.index(letter), units)
            return


def _note_roles(tracer: Tracer, operands: Sequence[tuple[torch.Tensor, str]], result: str) -> None:
    """Note the roles of a weight's axes: summed axes read an activation, others make filters."""
    weights = [tracer.labels(tensor).weight for tensor, _ in operands]
    if all(weights):
        return
    for (tensor, letters), weight in zip(operands, weights, strict=True):
        for axis, letter in enumerate(letters) if weight is not None else ():
            role = Role.FILTER if letter in result else Role.INPUT
            tracer.play(Place(tensor, axis), role)


def _count(
    tracer: Tracer,
    operands: Sequence[tuple[torch.Tensor, str]],
    lengths: Mapping[str, int],
    units: Mapping[str, Ids | None],
) -> None:
    weights = [w for tensor, _ in operands if (w := tracer.labels(tensor).weight) is not None]
    fixed = math.prod(size for letter, size in lengths.items() if units[letter] is None)
    layer = weights[0].layer if weights else ""
    tracer.costs(layer, fixed, [u for letter in lengths if (u := units[letter]) is not None])


def shift(tracer: Tracer, bias: torch.Tensor | None, output: torch.Tensor, axis: int) -> None:
    """Add a bias along an axis of the result."""
    if bias is not None and bias.dim() == 1:
        tracer.unify([Place(output, axis), Place(bias, 0)])
        tracer.play(Place(bias, 0), Role.SHIFT)


@rule(aten.linear)
def linear(tracer: Tracer, call: Call) -> object:
    """y[..., o] = x[..., i] w[o, i] + b[o]."""
    x, weight = call["input"], call["weight"]
    output = call.run_one()
    lead = "abcdefgh"[: x.dim() - 1]
    if weight.dim() == 1:
        contract(tracer, call, [(x, f"{lead}i"), (weight, "i")], lead, output)
        return output
    contract(tracer, call, [(x, f"{lead}i"), (weight, "oi")], f"{lead}o", output)
    constrain_call(tracer, weight)
    shift(tracer, call.get("bias"), output, output.dim() - 1)
    _count_sides(
        tracer,
        weight,
        in_features=tracer.labels(x).axes.get(x.dim() - 1),
        out_features=tracer.labels(output).axes.get(output.dim() - 1),
    )
    return output


@rule(aten.matmul, aten.mm, aten.bmm, aten.mv, aten.dot, aten.vdot)
def matmul(tracer: Tracer, call: Call) -> object:
    """Matrix products of every rank; leading axes are broadcast."""
    left, right = call.arguments[:2]
    output = call.run_one()
    contract(tracer, call, *_matmul_letters(left, right), output)
    return output


def _matmul_letters(
    left: torch.Tensor, right: torch.Tensor
) -> tuple[list[tuple[torch.Tensor, str]], str]:
    lead = "abcdefgh"[: max(left.dim() - 2, right.dim() - 2, 0)]
    rows = "r" if left.dim() > 1 else ""
    columns = "s" if right.dim() > 1 else ""
    left_lead = lead[len(lead) - max(left.dim() - 2, 0) :]
    right_lead = lead[len(lead) - max(right.dim() - 2, 0) :]
    operands = [(left, f"{left_lead}{rows}k"), (right, f"{right_lead}k{columns}")]
    return operands, f"{lead}{rows}{columns}"


@rule(aten.addmm, aten.baddbmm, aten.addmv, aten.addbmm, *packets("_sparse_addmm"))
def addmm(tracer: Tracer, call: Call) -> object:
    """A matrix product added to a tensor."""
    bias, left, right = call.arguments[:3]
    output = call.run_one()
    operands, letters = _matmul_letters(left, right)
    if call.packet is aten.addbmm:  # the products of a batch are summed
        letters = letters[1:]
    contract(tracer, call, operands, letters, output)
    is_added = call.get("beta", 1) != 0  # with beta 0 the tensor is not read
    for axis in range(output.dim()):
        at = axis - output.dim() + bias.dim()
        if at >= 0 and is_added:
            tracer.unify([Place(output, axis), Place(bias, at)])
            tracer.play(Place(bias, at), Role.SHIFT)
    # Masks number tensor arguments, and the bias is the first of them: shift the product's
    # operands.
    operation = tracer.operations[-1]
    operation.masks = [type(m)(m.operand + 1, m.axis, m.units) for m in operation.masks]
    return output


@rule(*packets("_trilinear"))
def trilinear(tracer: Tracer, call: Call) -> object:
    """The product of three tensors with inserted axes, summed over some axes (``Bilinear``)."""
    factors = [call[name] for name in ("i1", "i2", "i3")]
    expanded = [set(call[name]) for name in ("expand1", "expand2", "expand3")]
    letters = "abcdefgh"[: factors[0].dim() + len(expanded[0])]
    words = ["".join(c for at, c in enumerate(letters) if at not in new) for new in expanded]
    result = "".join(c for at, c in enumerate(letters) if at not in set(call["sumdim"]))
    output = call.run_one()
    contract(tracer, call, list(zip(factors, words, strict=True)), result, output)
    return output


@rule(*packets("cdist _cdist_forward _euclidean_dist"))
def distances(tracer: Tracer, call: Call) -> object:
    """Pairwise distances between rows; a channel that is zero in both operands adds nothing."""
    left, right = call.tensors()
    output = call.run_one()
    lead = "abcdefgh"[: output.dim() - 2]
    words = [f"{lead[len(lead) - left.dim() + 2 :]}pm", f"{lead[len(lead) - right.dim() + 2 :]}rm"]
    contract(tracer, call, [(left, words[0]), (right, words[1])], f"{lead}pr", output)
    tracer.mask(1, right.dim() - 1, tracer.labels(right).axes.get(right.dim() - 1))
    return output


@rule(*packets("_grouped_mm"))
def grouped_matmul(tracer: Tracer, call: Call) -> object:
    """Consecutive slices of rows, each times a matrix of its own: experts.

    Experts are selected by index, so that axis is frozen.
    """
    rows, matrices = call.tensors()[:2]
    if (rows.dim(), matrices.dim()) != (2, 3) or call.get("bias") is not None:
        return unknown(tracer, call)
    output = call.run_one()
    tracer.freeze_known(rows, "grouped by index", (0,))
    tracer.freeze_known(matrices, "experts are selected by index", (0,))
    read = tracer.unify([Place(rows, 1), Place(matrices, 1)])
    made = tracer.unify([Place(matrices, 2)])
    for units in (read, made):
        if units is not None:  # the kernel needs rows aligned to 16 bytes
            tracer.multiples.append((units, max(1, 16 // matrices.element_size())))
    tracer.mask(0, 1, read)
    tracer.play(Place(matrices, 1), Role.INPUT)
    tracer.play(Place(matrices, 2), Role.FILTER)
    tracer.put(output, {1: made})
    sizes = ((read, rows.shape[1]), (made, matrices.shape[2]))
    fixed = rows.shape[0] * math.prod(size for units, size in sizes if units is None)
    weight = tracer.labels(matrices).weight
    layer = weight.layer if weight is not None else ""
    tracer.costs(layer, fixed, [units for units, _ in sizes if units is not None])
    return output


@rule(aten.einsum)
def einsum(tracer: Tracer, call: Call) -> object:
    """An einsum with all its letters, none repeated in an operand (``spell_out``)."""
    inputs, _, result = call.arguments[0].partition("->")
    output = call.run_one()
    operands = list(zip(call.arguments[1], inputs.split(","), strict=True))
    contract(tracer, call, operands, result, output)
    return output


@rule(aten.conv1d, aten.conv2d, aten.conv3d, aten.convolution)
def convolution(tracer: Tracer, call: Call) -> object:
    """y[n, o, ...] = x[n, i, ...] w[o, i, ...]; with groups, each side's channels form a grid."""
    if call.packet is aten.convolution and call["transposed"]:
        return transposed_convolution(tracer, call)
    return convolve(tracer, call, call.run_one())


@rule(aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d)
def transposed_convolution(tracer: Tracer, call: Call) -> object:
    """A convolution whose weight is (input, output / groups, ...)."""
    return convolve(tracer, call, call.run_one(), transposed=True)


def convolve(tracer: Tracer, call: Call, output: torch.Tensor, transposed: bool = False) -> object:
    """Label the result of a convolution of any number of dimensions and groups."""
    x, weight = call["input"], call["weight"]
    channel = x.dim() - weight.dim() + 1
    carried = _carry_space(tracer, call, x, weight, channel)
    tracer.fix(weight, "a convolution's kernel", range(2, weight.dim()))
    groups = call.get("groups", 1)
    into, out = (0, 1) if transposed else (1, 0)
    batch = tracer.labels(x).axes.get(0) if channel == 1 else None
    if groups == 1:
        read = tracer.unify([Place(x, channel), Place(weight, into)])
        made = tracer.unify([Place(weight, out)])
        counted = [units for units in (read, made) if units is not None]
    else:
        read, made, counted = _align_groups(tracer, x, weight, channel, groups, transposed)
    _count_sides(tracer, weight, in_channels=read, out_channels=made)
    tracer.mask(0, channel, read)
    tracer.play(Place(weight, into), Role.INPUT)
    tracer.play(Place(weight, out), Role.FILTER)
    tracer.put(output, carried | ({0: batch, channel: made} if channel == 1 else {channel: made}))
    shift(tracer, call.get("bias"), output, channel)
    _count_convolution(tracer, x if transposed else output, weight, channel, batch, counted)
    return output


def _carry_space(
    tracer: Tracer, call: Call, x: torch.Tensor, weight: torch.Tensor, channel: int
) -> dict[int, Ids | None]:
    """Carry spatial axes along which the kernel has size one; freeze the others."""
    rank = weight.dim() - 2
    stride, padding = call.get("stride", 1), call.get("padding", 0)
    pads = [-1] * rank if isinstance(padding, str) else shape_inference.per_axis(padding, rank)
    steps = zip(weight.shape[2:], shape_inference.per_axis(stride, rank), pads, strict=True)
    carried: dict[int, Ids | None] = {}
    for axis, step in enumerate(steps, channel + 1):
        if step == (1, 1, 0):
            carried[axis] = tracer.labels(x).axes.get(axis)
        else:
            tracer.freeze_known(x, "a convolution runs along this axis", (axis,))
    return carried


def _align_groups(
    tracer: Tracer,
    x: torch.Tensor,
    weight: torch.Tensor,
    channel: int,
    groups: int,
    transposed: bool,
) -> tuple[Ids | None, Ids | None, list[Ids]]:
    """(units read, units made, units that the cost depends on) of a grouped convolution.

    The units read are a grid of groups by channels in each; the units made, a grid of the same
    groups by filters in each.
    """
    equations = tracer.equations
    read = tracer.unify(
        [Place(x, channel), Place(weight, 0)] if transposed else [Place(x, channel)]
    )
    if read is None:
        tracer.freeze(weight, f"grouped convolution of {tracer.labels(x).why}", (0, 1))
        return None, None, []
    rows, inside = _sides(tracer, read, groups)
    layer = weight_name(tracer, weight) or tracer.layer  # for a computed weight, the running layer
    if layer not in tracer.convolutions:
        tracer.reads_sizes = True  # user code holds the number of groups
    tracer.counts[layer, "groups"] = rows
    tracer.counts[layer, "in_channels"] = read
    if transposed:
        columns = tracer.unify([Place(weight, 1)])
        made = rows if columns is None else equations.compose((rows, columns))
        tracer.counts[layer, "out_channels"] = made
        counted = [read] if columns is None else [read, columns]
        return read, made, counted
    if inside is not None:
        _join(tracer, weight, 1, inside)
    filters = weight.shape[0] // groups
    if filters == 1:
        made = rows
    else:
        bound = tracer.labels(weight).axes.get(0)
        columns = (
            equations.units(filters)
            if bound is None
            else equations.factor(bound, (groups, filters))[1]
        )
        made = equations.compose((rows, columns))
    _join(tracer, weight, 0, made)
    return read, made, [made] if inside is None else [made, inside]


def _join(tracer: Tracer, weight: torch.Tensor, axis: int, units: Ids) -> None:
    """Bind these units to a weight's axis, or equate them with the units it has."""
    labels = tracer.labels(weight)
    if labels.leaf is not None and axis not in labels.leaf.axes:
        labels.leaf.axes[axis] = units
        return
    known = tracer.free_units(weight, axis)  # a constant kernel repeated for each channel gets some
    if known is None:
        tracer.equations.freeze(units, tracer.explain_meeting(labels))
    else:
        tracer.equations.equate(known, units)


def _sides(tracer: Tracer, read: Ids, groups: int) -> tuple[Ids, Ids | None]:
    if len(read) == groups:
        return read, None
    rows, inside = tracer.equations.factor(read, (groups, len(read) // groups))
    return rows, inside


def _count_sides(tracer: Tracer, weight: torch.Tensor, **sides: Ids | None) -> None:
    """Note the channels that a layer's sizes count where its weight is computed (weight norm, say).

    For a weight of the model's own, the sizes follow the weight.
    """
    if tracer.labels(weight).leaf is None:
        known = {(tracer.layer, name): units for name, units in sides.items() if units is not None}
        tracer.counts |= known


def weight_name(tracer: Tracer, weight: torch.Tensor) -> str:
    """The layer that a weight belongs to, or '' for a computed weight."""
    leaf = tracer.labels(weight).leaf
    return leaf.layer if leaf is not None else ""


def _count_convolution(
    tracer: Tracer,
    positions: torch.Tensor,
    weight: torch.Tensor,
    channel: int,
    batch: Ids | None,
    counted: Sequence[Ids],
) -> None:
    """Count multiply-accumulates: batch times positions times elements of the weight."""
    axes = [*counted, *([batch] if batch is not None else [])]
    size = positions.numel() // positions.shape[channel] * weight.numel()
    constant = size // math.prod(len(units) for units in axes)
    known = tracer.labels(weight).weight
    tracer.costs(known.layer if known is not None else "", constant, axes)


@rule(aten.scaled_dot_product_attention)
def attention(tracer: Tracer, call: Call) -> object:
    """softmax(q k^T / sqrt(d)) v, as one operation."""
    query, key, value = call["query"], call["key"], call["value"]
    output = call.run_one()
    lead = "abcdefgh"[: query.dim() - 2]
    shared = lead
    if call.get("enable_gqa", False) and key.shape[-3] != query.shape[-3]:
        shared = f"{lead[:-1]}h"  # each head of keys and values serves several query heads
    tracer.freeze_known(key, "attention sums over this axis", (key.dim() - 2,))
    tracer.freeze_known(value, "attention sums over this axis", (value.dim() - 2,))
    places = [(query, f"{lead}qd"), (key, f"{shared}kd"), (value, f"{shared}kv")]
    if call.get("attn_mask") is not None:
        mask = call["attn_mask"]
        letters = f"{lead}qk"[len(lead) + 2 - mask.dim() :]
        places.append((mask, letters))
    units = {
        letter: tracer.unify([Place(t, word.index(letter)) for t, word in places if letter in word])
        for letter in dict.fromkeys(f"{lead}{shared}qkdv")
    }
    if shared != lead:
        _join_heads(tracer, units[lead[-1]], units["h"])
    tracer.mask(0, query.dim() - 1, units["d"])
    tracer.put(output, {axis: units[letter] for axis, letter in enumerate(f"{lead}qv")})
    sizes = dict(zip(f"{lead}qd", query.shape, strict=True)) | {
        "k": key.shape[-2],
        "v": value.shape[-1],
    }
    for letters in (f"{lead}qkd", f"{lead}qkv"):
        fixed = math.prod(sizes[letter] for letter in letters if units[letter] is None)
        tracer.costs("", fixed, [u for letter in letters if (u := units[letter]) is not None])
    return output


def _join_heads(tracer: Tracer, queries: Ids | None, keys: Ids | None) -> None:
    """Grouped queries: a head of the keys goes with all its query heads."""
    equations = tracer.equations
    if queries is None or keys is None:
        for units in (queries, keys):
            if units is not None:
                equations.freeze(units, "grouped-query attention with frozen heads")
        return
    rows, _ = equations.factor(queries, (len(keys), len(queries) // len(keys)))
    equations.equate(rows, keys)
