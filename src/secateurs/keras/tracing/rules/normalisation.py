"""Rules for normalisation: input, scale, shift and statistics have the same channels."""

from __future__ import annotations

from keras import layers

from secateurs.channels.network import Role
from secateurs.keras.internals import Variable, find_classes, operation_classes
from secateurs.keras.tracing.op_call import Call
from secateurs.keras.tracing.op_record import Place
from secateurs.keras.tracing.rules.registry import rule, unknown
from secateurs.keras.tracing.tracer import Tracer


def _affine(tracer: Tracer, call: Call, axis: int, *weights: tuple[Variable | None, Role]) -> None:
    """Equate vectors of parameters or statistics with one axis of the input."""
    for variable, role in weights:
        leaf = tracer.weight(variable)
        if leaf is not None:
            tracer.unify([Place(call.input, axis), Place(leaf, 0)])
            tracer.play(Place(leaf, 0), role)


@rule(layers.BatchNormalization)
def batch_normalization(tracer: Tracer, call: Call) -> None:
    """Batch normalisation: each channel has its own statistics, scale and shift."""
    layer = call.layer
    _affine(
        tracer,
        call,
        layer.axis,
        (layer.moving_mean, Role.MEAN),
        (layer.moving_variance, Role.VARIANCE),
        (layer.gamma, Role.SCALE),
        (layer.beta, Role.SHIFT),
        *[(getattr(layer, name, None), role) for name, role in _RENORMALISATION],
    )
    tracer.carry(call)


_RENORMALISATION = (
    ("moving_stddev", Role.VARIANCE),
    ("renorm_mean", Role.MEAN),
    ("renorm_stddev", Role.VARIANCE),
)
"""Statistics that batch normalisation with ``renorm=True`` keeps for training."""


@rule(layers.LayerNormalization, *find_classes([layers], "RMSNormalization"))
def layer_normalization(tracer: Tracer, call: Call) -> None:
    """Layer normalisation: mean and variance over axes mix the channels along them."""
    layer, x = call.layer, call.input
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    vectors = (
        (getattr(layer, "gamma", None), Role.SCALE),
        (getattr(layer, "scale", None), Role.SCALE),  # of RMSNormalization
        (getattr(layer, "beta", None), Role.SHIFT),
    )
    for variable, role in vectors:
        leaf = None if isinstance(variable, bool) else tracer.weight(variable)
        for place, axis in enumerate(axes) if leaf is not None else ():
            tracer.unify([Place(x, axis), Place(leaf, place)])  # type: ignore[arg-type]
            tracer.play(Place(leaf, place), role)  # type: ignore[arg-type]
    tracer.mixes(call, [x.axes.get(axis % x.rank) for axis in axes])
    tracer.carry(call)


@rule(layers.GroupNormalization)
def group_normalization(tracer: Tracer, call: Call) -> None:
    """Group normalisation: a grid of (groups, channels per group), mixed within each group."""
    layer = call.layer
    _affine(tracer, call, layer.axis, (layer.gamma, Role.SCALE), (layer.beta, Role.SHIFT))
    units = call.input.axes.get(layer.axis % call.input.rank)
    if units is not None:
        rows = inside = units
        if layer.groups == len(units):
            inside = units[:0]
        elif layer.groups > 1:
            shape = (layer.groups, len(units) // layer.groups)
            rows, inside = tracer.equations.factor(units, shape)
        if layer.groups > 1:
            tracer.counts(call.path, "groups", rows)
        tracer.mixes(call, [inside])
    tracer.carry(call)


@rule(layers.UnitNormalization, *operation_classes("Normalize"))
def unit_normalization(tracer: Tracer, call: Call) -> None:
    """Division by the norm over axes mixes the channels along them."""
    axis = call.layer.axis
    axes = axis if isinstance(axis, (list, tuple)) else [axis]
    x = call.input
    tracer.mixes(call, [x.axes.get(at % x.rank) for at in axes])
    tracer.carry(call)


@rule(layers.Normalization)
def normalization(tracer: Tracer, call: Call) -> None:
    """Normalisation of input data by adapted statistics; it normally precedes any channels."""
    if call.input.axes:
        return unknown(tracer, call, "it holds statistics of the data it was adapted to")
    return tracer.carry(call)
