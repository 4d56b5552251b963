"""Rules for wrappers: layers that contain another layer or model."""

from __future__ import annotations

from functools import partial

import keras
import numpy as np
from keras import layers

from secateurs.channels.network import Role
from secateurs.keras.internals import graph_of, is_model
from secateurs.keras.tracing.op_call import Call
from secateurs.keras.tracing.op_record import Axes, Place, Value
from secateurs.keras.tracing.rules.registry import rule, unknown
from secateurs.keras.tracing.symbolic import Enter
from secateurs.keras.tracing.tracer import Tracer


@rule(layers.TimeDistributed)
def time_distributed(tracer: Tracer, call: Call) -> None:
    """The inner layer runs on each step, so it is traced as one call with batch times steps."""
    x, inner = call.input, call.layer.layer
    if is_model(inner):
        why = f" ({tracer.closed})" if tracer.closed else ""
        return unknown(
            tracer,
            call,
            f"the model inside it cannot be followed{why}; call that model outside the wrapper",
        )
    tracer.freeze_known(x, f"{call} runs along this axis", [1])
    merged = (x.shape[0] * x.shape[1], *x.shape[2:])
    step = Value(keras.KerasTensor(merged, dtype=x.spec.dtype), _without_steps(x), x.why)
    results = tracer.inside(call.path_of(inner), inner, [step], {})
    _number(tracer, call, call.path_of(inner))
    for output, result in zip(call.outputs, results, strict=True):
        tracer.put(output, {axis + 1: units for axis, units in result.axes.items() if axis})
    return None


def _number(tracer: Tracer, call: Call, inner: str) -> None:
    """Number the channels of a wrapper like the filters of the layer inside."""
    leaves = [leaf for leaf in tracer.leaves.values() if leaf.layer == inner]
    for leaf in leaves:
        for axis, role in leaf.roles.items():
            if role is Role.FILTER:
                tracer.numbers(call.path, leaf.axes.get(axis))
                return


def _without_steps(x: Value) -> Axes:
    return {axis - 1: units for axis, units in x.axes.items() if axis > 1}


INPUT = "input_"
"""Prefix of the attribute names for a nested model's input sizes, followed by the position."""


@rule(Enter)
def enter(tracer: Tracer, call: Call) -> None:
    """Equate the input sizes of a model nested in a layer with the tensor that it is called on."""
    layer, owner = call.layer, call.path.rpartition(".")[0]
    tracer.freeze_known(call.input, "the batch axis of a model inside a layer", [0])
    for axis, units in call.input.axes.items():
        key = id(layer.model), layer.number, axis
        known = tracer.remember(key, partial(np.asarray, units))
        tracer.equations.equate(units, known)
        if graph_of(layer.model).inputs[layer.number].shape[axis] is not None:
            tracer.counts(owner, f"{INPUT}{layer.number}", units, axis)
    tracer.carry(call)


@rule(layers.SpectralNormalization)
def spectral_normalization(tracer: Tracer, call: Call) -> None:
    """Spectral normalisation: acts in training only; its vector has the kernel's last axis."""
    inner = call.layer.layer
    results = tracer.inside(call.path_of(inner), inner, [call.input], {})
    vector, kernel = tracer.weight(call.layer.vector_u), tracer.weight(call.layer.kernel)
    if vector is None or kernel is None:
        return unknown(tracer, call, "its kernel is not its own variable")
    tracer.unify([Place(kernel, -1), Place(vector, 1)])
    _number(tracer, call, call.path_of(inner))
    for output, result in zip(call.outputs, results, strict=True):
        tracer.put(output, dict(result.axes))
    return None
