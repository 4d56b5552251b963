"""Rules for recurrent layers: all gates of a hidden unit go with it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from keras import layers
from keras.src.layers.rnn import conv_lstm

from secateurs.channels.equations import Ids
from secateurs.channels.network import Role
from secateurs.errors import ModelError
from secateurs.keras.internals import Layer, find_classes
from secateurs.keras.model.layer_tree import named_children, path_below, size_path
from secateurs.keras.tracing.op_call import Call
from secateurs.keras.tracing.op_record import Place, Value, values_in
from secateurs.keras.tracing.rules.contraction import channel_axis
from secateurs.keras.tracing.rules.pointwise import (
    along_the_last_axis,
    is_one_of,
    works_by_element,
)
from secateurs.keras.tracing.rules.registry import rule, unknown
from secateurs.keras.tracing.tracer import Tracer

GATES: dict[type, int] = {layers.LSTMCell: 4, layers.GRUCell: 3, layers.SimpleRNNCell: 1}
"""Cell class -> number of gates: blocks of ``units`` columns in its kernels."""


CONVOLUTIONAL = find_classes([conv_lstm], "ConvLSTMCell")
GATES |= dict.fromkeys(CONVOLUTIONAL, 4)

TWO_STATES = (layers.LSTMCell, *CONVOLUTIONAL)
"""Cells with two states instead of one."""


def _cells_of(layer: Layer) -> list[Layer] | None:
    """Return the cells of a recurrent layer in execution order; None if one has no rule."""
    cell = layer.cell
    cells = list(cell.cells) if isinstance(cell, layers.StackedRNNCells) else [cell]
    return cells if all(type(one) in GATES for one in cells) else None


@rule(
    layers.RNN,
    layers.LSTM,
    layers.GRU,
    layers.SimpleRNN,
    layers.ConvLSTM1D,
    layers.ConvLSTM2D,
    layers.ConvLSTM3D,
)
def follow_recurrent(tracer: Tracer, call: Call) -> None:
    """Recurrent layer: the result has the units of its last cell, each state those of its cell."""
    layer = call.layer
    cells = _cells_of(layer)
    if cells is None:
        return unknown(tracer, call, f"its cell {type(layer.cell).__name__} has no rule")
    if layer.stateful:
        return unknown(tracer, call, "it is stateful: its state is kept between batches")
    x, initial = (
        call.by_name["sequences"],
        values_in(call.by_name.get("initial_state")),
    )
    channel = _channel_axis(layer, x)
    others = [axis for axis in range(1, x.rank) if axis != channel]
    tracer.freeze_known(x, f"{call} runs along this axis", others)
    place: Place | Ids | None = Place(x, channel)
    states: list[Ids | None] = []
    for cell in cells:
        units = _cell(tracer, call, cell, place)
        tracer.numbers(call.path if cell is layer.cell else _path_of_cell(call, cell), units)
        states += [units] * (2 if isinstance(cell, TWO_STATES) else 1)
        place = units
    tracer.numbers(call.path, states[-1])
    _label_outputs(tracer, call, states, initial, channel - 1)
    return None


def _path_of_cell(call: Call, cell: Layer) -> str:
    """Return the path of one of several stacked cells."""
    names = {id(child): name for name, child in named_children(call.layer.cell)}
    return path_below(call.path, names[id(cell)])


def _channel_axis(layer: Layer, x: Value) -> int:
    """Return the channel axis of the sequences, whose first axes are the batch and the steps."""
    if isinstance(layer.cell, CONVOLUTIONAL):
        return 1 + channel_axis(layer.cell, x.rank - 1)
    return x.rank - 1


def _label_outputs(
    tracer: Tracer,
    call: Call,
    states: Sequence[Ids | None],
    initial: Sequence[Value],
    axis: int,
) -> None:
    """Label the result and the states; ``axis`` is the channel axis of a state."""
    last = states[-1]
    for value, units in zip(initial, states, strict=False):
        given = value.axes.get(axis)
        if units is not None and given is not None:
            tracer.equations.equate(units, given)
        elif units is not None:
            tracer.equations.freeze(units, f"{call}: its initial state is {value.why}")
    result, *final_states = call.outputs
    tracer.put(result, {axis + int(bool(call.layer.return_sequences)): last})
    for value, units in zip(final_states, states, strict=False):
        tracer.put(value, {axis: units})


def _cell(tracer: Tracer, call: Call, cell: Layer, place: Place | Ids | None) -> Ids | None:
    """Return the units of a cell that reads an axis, or the units of the cell before it."""
    kernel, recurrent_kernel = tracer.weight(cell.kernel), tracer.weight(cell.recurrent_kernel)
    if kernel is None or recurrent_kernel is None:
        raise ModelError(f"{call}: expected a cell whose kernels are variables of the model")
    if isinstance(place, np.ndarray):
        read: Ids | None = place
        tracer.join(kernel, -2, place, Role.INPUT)
    else:
        read = tracer.unify([place, Place(kernel, -2)])
    tracer.reads(kernel, -2)
    units = tracer.unify([Place(recurrent_kernel, -2)])
    columns = None if units is None else _columns(tracer, call, cell, units)
    if units is not None and columns is not None:
        tracer.reads(recurrent_kernel, -2)
        for leaf in (kernel, recurrent_kernel):
            tracer.join(leaf, -1, columns)
        tracer.join(tracer.weight(cell.bias), -1, columns, Role.SHIFT)
        _check_activations(tracer, call, cell, units)
        _count_units(tracer, call, cell, units)
    times = _positions(call, cell)
    tracer.costs(call.path, times * math.prod(kernel.shape), [read, columns])
    tracer.costs(call.path, times * math.prod(recurrent_kernel.shape), [units, columns])
    return units


def _columns(tracer: Tracer, call: Call, cell: Layer, units: Ids) -> Ids:
    """Return the units of a kernel's columns: a frozen axis of gates times the cell's units."""
    gates = GATES[type(cell)]
    if gates == 1:
        return units
    blocks = tracer.remember((id(cell), "gates"), lambda: tracer.equations.units(gates))
    tracer.equations.freeze(blocks, f"{call}: all gates are needed")
    return tracer.equations.compose((blocks, units))


def _check_activations(tracer: Tracer, call: Call, cell: Layer, units: Ids) -> None:
    for function in (cell.activation, getattr(cell, "recurrent_activation", None)):
        if not works_by_element(function, rank=2):
            along = is_one_of(function, along_the_last_axis())
            reason = "mixes units" if along else "is not known to be element-wise"
            name = getattr(function, "__name__", type(function).__name__)
            tracer.equations.freeze(units, f"{call}: its activation {name} {reason}")


def _count_units(tracer: Tracer, call: Call, cell: Layer, units: Ids) -> None:
    """Record the number of units, in the configuration of the layer or of its cell."""
    attribute = "filters" if hasattr(cell, "filters") else "units"
    owner = call.path
    if not hasattr(call.layer, attribute):
        owner = size_path(call.path, call.layer, call.layer.cell)
        if cell is not call.layer.cell:
            owner = size_path(owner, call.layer.cell, cell)
    tracer.counts(owner, attribute, units)


def _positions(call: Call, cell: Layer) -> int:
    """Return how often a cell's kernels are applied: batch times steps times positions."""
    x = call.input
    positions = x.shape[0] * x.shape[1]
    if hasattr(cell, "filters"):
        space = list(call.output.shape[1 + int(bool(call.layer.return_sequences)) :])
        del space[0 if cell.data_format == "channels_first" else -1]
        positions *= math.prod(space)
    return positions


@rule(layers.Bidirectional)
def bidirectional(tracer: Tracer, call: Call) -> None:
    """Bidirectional layer: Keras requires equal widths, so both directions lose the same units."""
    layer = call.layer
    if isinstance(getattr(layer.forward_layer, "cell", None), CONVOLUTIONAL):
        return unknown(tracer, call, "bidirectional convolutional cells are not supported")
    x, initial = (
        call.by_name["sequences"],
        values_in(call.by_name.get("initial_state")),
    )
    half = len(initial) // 2
    given = [initial[:half], initial[half:]]
    runs = []
    for inner, states in zip((layer.forward_layer, layer.backward_layer), given, strict=True):
        keywords = {"initial_state": list(states)} if states else {}
        runs.append(tracer.inside(call.path_of(inner), inner, [x], keywords))
    forward, backward = (run[0] for run in runs)
    axis = forward.rank - 1
    one, other = forward.axes.get(axis), backward.axes.get(axis)
    if one is not None and other is not None:
        tracer.equations.equate(one, other)
    elif one is not None or other is not None:
        return unknown(tracer, call, "only one of its directions can be followed")
    tracer.numbers(call.path, one)
    results = call.outputs
    if layer.merge_mode == "concat" and one is not None and other is not None:
        tracer.put(results[0], {axis: np.concatenate([one, other])})
    else:
        tracer.put(results[0], {axis: one})
    rest = 1
    if layer.merge_mode is None:
        tracer.put(results[1], {axis: other})
        rest = 2
    for value, state in zip(results[rest:], [*runs[0][1:], *runs[1][1:]], strict=True):
        tracer.put(value, dict(state.axes))
    return None
