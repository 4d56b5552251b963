"""Rules for pooling, padding and resampling: channels are carried, spatial axes are frozen."""

from __future__ import annotations

from keras import layers

from secateurs.keras.internals import find_classes, operation_classes
from secateurs.keras.tracing.op_call import Call
from secateurs.keras.tracing.rules.contraction import channel_axis
from secateurs.keras.tracing.rules.registry import rule
from secateurs.keras.tracing.tracer import Tracer


def _carry_channels(tracer: Tracer, call: Call, channel: int, result: int) -> None:
    """Carry the batch, the channels and untouched spatial axes; freeze the other spatial axes."""
    x = call.input
    space = [axis for axis in range(1, x.rank) if axis != channel]
    left = [
        axis
        for place, axis in enumerate(space)
        if _leaves_axis_unchanged(call.layer, place, len(space))
    ]
    read = [axis for axis in space if axis not in left]
    tracer.freeze_known(x, f"{call} reads every position", read)
    tracer.carry(call, {0: 0, channel: result, **{axis: axis for axis in left}})


_NEUTRAL_SETTINGS = {"pool_size": 1, "strides": 1, "size": 1, "padding": (0, 0), "cropping": (0, 0)}
"""Settings with which a layer leaves an axis unchanged."""

_AXIS_BY_AXIS = (
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.UpSampling2D,
    layers.UpSampling3D,
    layers.Cropping2D,
    layers.Cropping3D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
)
"""Layers that treat each spatial axis independently."""


def _leaves_axis_unchanged(layer: object, place: int, spatial: int) -> bool:
    """Return whether a layer leaves one of its spatial axes unchanged.

    Channels may lie along such an axis, if a ``Permute`` before the layer moved them there.
    """
    if not isinstance(layer, _AXIS_BY_AXIS):
        return False
    settings = {name: getattr(layer, name, None) for name in _NEUTRAL_SETTINGS}
    return all(
        value[place] == plain
        for (name, plain) in _NEUTRAL_SETTINGS.items()
        if isinstance(value := settings[name], tuple | list) and len(value) == spatial
    )


@rule(
    *_AXIS_BY_AXIS,
    layers.ZeroPadding1D,
    layers.Resizing,
    layers.CenterCrop,
    layers.RandomCrop,
    *find_classes(
        [layers],
        "AdaptiveAveragePooling1D",
        "AdaptiveAveragePooling2D",
        "AdaptiveAveragePooling3D",
        "AdaptiveMaxPooling1D",
        "AdaptiveMaxPooling2D",
        "AdaptiveMaxPooling3D",
    ),
    *operation_classes(
        "MaxPool",
        "AveragePool",
        "AdaptiveMaxPool",
        "AdaptiveAveragePool",
        "Resize",
        "PadImages",
        "CropImages",
    ),
)
def windows(tracer: Tracer, call: Call) -> None:
    """Windows over images, sequences and volumes, in either data format."""
    rank = call.input.rank
    first = getattr(call.layer, "data_format", None) == "channels_first"
    channel = (rank - 3 if rank == 3 and call.kind == "Resize" else 1) if first else rank - 1
    _carry_channels(tracer, call, channel, channel)


@rule(layers.UpSampling1D, layers.Cropping1D)
def steps(tracer: Tracer, call: Call) -> None:
    """Windows over sequences, which always have their channels last."""
    last = call.input.rank - 1
    _carry_channels(tracer, call, last, last)


@rule(
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
)
def everything(tracer: Tracer, call: Call) -> None:
    """Global pooling over all positions."""
    channel = channel_axis(call.layer, call.input.rank)
    _carry_channels(tracer, call, channel, channel if call.layer.keepdims else 1)
