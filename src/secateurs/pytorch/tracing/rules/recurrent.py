"""Rule for whole recurrent layers: all gates of a hidden unit go with it, in every layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from secateurs.channels.equations import Ids
from secateurs.channels.network import Role
from secateurs.pytorch.tracing.interpreter import aten
from secateurs.pytorch.tracing.op_call import Call, iterate_tensors
from secateurs.pytorch.tracing.op_record import Place
from secateurs.pytorch.tracing.rules.registry import rule, unknown
from secateurs.pytorch.tracing.tracer import Tracer

GATES = {aten.lstm: 4, aten.gru: 3, aten.rnn_tanh: 1, aten.rnn_relu: 1}


@rule(*GATES)
def follow_recurrent(tracer: Tracer, call: Call) -> object:
    """h_t from x_t and h_(t-1), with matrix products of both for each gate."""
    weights: Sequence[torch.Tensor] | None = call.get("params")
    if weights is None or _has_projection(call, weights):
        return unknown(tracer, call)
    x, output = call["data" if "batch_sizes" in call.named else "input"], call.run()
    directions = 2 if call["bidirectional"] else 1
    gates = GATES[call.packet]
    step = (4 if call["has_biases"] else 2) * directions
    first = next(i for i, t in enumerate(call.tensors()) if t is weights[0])
    given = [Place(state, state.dim() - 1) for state in iterate_tensors(call["hx"])]
    hidden = tracer.unify([*_hidden_places(weights, step, directions), *given])
    read = tracer.labels(x).axes.get(x.dim() - 1)
    sources = [Place(x, x.dim() - 1)]
    for place in range(0, len(weights), step):
        layer = weights[place : place + step]
        for tensor in layer:
            _gates(tracer, tensor, hidden, gates)
        for number in range(0, step, step // directions):
            read = tracer.unify([*sources, Place(layer[number], 1)])
            if not sources:  # deeper layers read one hidden state for each direction
                _join(tracer, layer[number], hidden, directions)
                read = tracer.labels(layer[number]).axes.get(1)
            _note(tracer, layer[number : number + 2])
            tracer.mask(first + place + number, 1, read)
            tracer.mask(first + place + number + 1, 1, hidden)
            _count(tracer, x, layer[number], read, hidden, gates)
            _count(tracer, x, layer[number + 1], hidden, hidden, gates)
        sources = []
    _count_sides(tracer, input_size=tracer.labels(x).axes.get(x.dim() - 1), hidden_size=hidden)
    made = None if hidden is None else np.concatenate([hidden] * directions)
    first_output, *states = iterate_tensors(output)
    tracer.put(first_output, {first_output.dim() - 1: made})
    for state in states:
        tracer.put(state, {state.dim() - 1: hidden})
    return output


def _count_sides(tracer: Tracer, **sides: Ids | None) -> None:
    """Note what the layer's sizes count; computed weights (weight norm) have no names to go by."""
    known = {(tracer.layer, name): units for name, units in sides.items() if units is not None}
    tracer.counts |= known


def _has_projection(call: Call, weights: Sequence[torch.Tensor]) -> bool:
    each = 4 if call["has_biases"] else 2
    layers = call["num_layers"] * (2 if call["bidirectional"] else 1)
    return bool(len(weights) != each * layers)


def _hidden_places(weights: Sequence[torch.Tensor], step: int, directions: int) -> Iterator[Place]:
    """Axes that read the hidden state again; all of them have its width."""
    for place in range(0, len(weights), step // directions):
        yield Place(weights[place + 1], 1)


def _gates(tracer: Tracer, tensor: torch.Tensor, hidden: Ids | None, gates: int) -> None:
    """The first axis of a weight or bias: a grid of gates by hidden units."""
    units = tracer.axes(tensor).get(0)
    if units is None:
        return
    rows, columns = tracer.equations.factor(units, (gates, len(units) // gates))
    tracer.equations.freeze(rows, "a recurrent layer needs all its gates")
    if hidden is None:
        tracer.equations.freeze(columns, "a recurrent layer of fixed width")
    else:
        tracer.equations.equate(columns, hidden)


def _join(tracer: Tracer, weight: torch.Tensor, hidden: Ids | None, directions: int) -> None:
    units = tracer.axes(weight).get(1)
    if units is not None and hidden is not None:
        tracer.equations.equate(units, np.concatenate([hidden] * directions))


def _note(tracer: Tracer, weights: Sequence[torch.Tensor]) -> None:
    for weight in weights:
        tracer.play(Place(weight, 0), Role.FILTER)
        tracer.play(Place(weight, 1), Role.INPUT)


def _count(
    tracer: Tracer,
    x: torch.Tensor,
    weight: torch.Tensor,
    read: Ids | None,
    hidden: Ids | None,
    gates: int,
) -> None:
    """Count multiply-accumulates: every step of every sequence multiplies by the whole weight."""
    steps = x.numel() // x.shape[-1]
    fixed = 1 if read is not None else weight.shape[1]
    fixed *= gates if hidden is not None else weight.shape[0]
    leaf = tracer.labels(weight).leaf
    axes = [units for units in (read, hidden) if units is not None]
    tracer.costs(leaf.layer if leaf is not None else "", steps * fixed, axes)
