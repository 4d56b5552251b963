"""Layers of TensorFlow's that a proof runs in one or two operations instead of twenty.

On the small images of a proof, Keras's conversions around a convolution or a batch normalisation
take five to ten times as long as the operation itself. What a layer computes is not assumed: the
first of each kind is run both ways, and where the results differ, Keras's own code is run for all
of that kind.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache
from typing import Any, cast

import keras
import numpy as np

from secateurs.keras.internals import (
    NOT_PLAIN,
    Layer,
    Operation,
    Variable,
    assumed_or_read,
    check_input,
    in_tensorflow,
    runs_plainly,
    take_over,
)

_CLOSE = 1e-5
"""Largest difference between both ways, relative to the largest value."""

_MOST_KINDS = 4096

_WRAPPED = {"build", "quantize"}
"""Methods that Keras itself wraps for each layer."""

_AGREES: dict[Hashable, bool] = {}
"""Kind of a layer -> whether both ways gave the same for the first of its kind."""


def call_in_few_operations(
    layer: Operation,
    arguments: Sequence[object],
    keywords: Mapping[str, object],
    *,
    any_width: bool = False,
) -> object:
    """Run a layer in inference mode by TensorFlow's own operations.

    Args:
        layer: any layer or operation.
        arguments: positional arguments of the call.
        keywords: keyword arguments of the call.
        any_width: True accepts fewer channels than the layer was built for, which Keras does not;
            so only where the first of its kind has been run both ways.

    Returns:
        The output; ``NOT_PLAIN``, and nothing is run, where it has to be run by Keras.
    """
    known = _KINDS.get(type(layer))
    if known is None or keras.backend.backend() != "tensorflow":
        return NOT_PLAIN
    if not runs_plainly(layer, arguments, keywords) or not in_tensorflow().is_eager():
        return NOT_PLAIN
    if layer.compute_dtype != "float32" or _has_own_methods(layer):
        return NOT_PLAIN
    describe, run = known
    given: Any = arguments[0]
    kind = describe(layer, given)
    if kind is None or not _AGREES.get(kind, not any_width):
        return NOT_PLAIN
    if not any_width:
        check_input(layer, given)
    made = run(in_tensorflow().operations, layer, given)
    return made if kind in _AGREES else _compare(kind, layer, given, made)


def _compare(kind: Hashable, layer: Layer, given: object, made: object) -> object:
    """Run the first layer of its kind by Keras too, whose result is returned; note if it agrees.

    Nothing is noted of a result of zeros, which layers that differ may agree on.
    """
    options = {"training": False} if isinstance(layer, keras.layers.BatchNormalization) else {}
    expected: object = layer.call(given, **options)
    mine, theirs = (np.asarray(one) for one in (made, expected))
    if not theirs.any():
        return expected
    if len(_AGREES) >= _MOST_KINDS:
        _AGREES.clear()
    _AGREES[kind] = mine.shape == theirs.shape and bool(
        np.abs(mine - theirs).max(initial=0) <= _CLOSE * np.abs(theirs).max(initial=0)
    )
    return expected


def _has_own_methods(layer: Layer) -> bool:
    """Whether a layer may compute otherwise than its class does."""
    return not _methods_of(cast("Hashable", type(layer))).isdisjoint(vars(layer))


@cache
def _methods_of(kind: type[Layer]) -> frozenset[str]:
    """The names of a class's methods that no layer holds itself."""
    return frozenset(
        name for name in dir(kind) if callable(getattr(kind, name, None)) and name not in _WRAPPED
    )


def _describe_convolution(layer: Any, given: Any) -> Hashable | None:
    """All that a convolution computes depends on, besides values; None for unusual ones."""
    del given
    if layer.data_format != "channels_last" or getattr(layer, "groups", 1) != 1:
        return None
    if not isinstance(layer.kernel, Variable):  # with LoRA it is computed
        return None
    if layer.padding not in ("same", "valid") or not isinstance(layer.activation, Hashable):
        return None
    is_depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    if is_depthwise and (len(set(layer.strides)) > 1 or max(layer.dilation_rate) > 1):
        return None
    return (
        *(type(layer).call, getattr(type(layer), "convolution_op", None)),
        *(tuple(layer.strides), layer.padding, tuple(layer.dilation_rate), layer.use_bias),
        layer.activation,
    )


def _convolve(operations: Any, layer: Any, given: object) -> object:
    steps = {
        "strides": [1, *layer.strides, 1],
        "padding": layer.padding.upper(),
        "dilations": [1, *layer.dilation_rate, 1],
    }
    kernel = assumed_or_read(layer.kernel)
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        made = operations.DepthwiseConv2dNative(input=given, filter=kernel, **steps)
    else:
        made = operations.Conv2D(input=given, filter=kernel, **steps)
    if layer.use_bias:
        made = operations.BiasAdd(value=made, bias=assumed_or_read(layer.bias))
    return _activate(operations, layer, made)


def _describe_activation(layer: Any, given: Any) -> Hashable | None:
    """All that an activation of one operation computes depends on."""
    del given
    known = (keras.activations.relu, keras.activations.relu6)
    return (type(layer).call, layer.activation) if layer.activation in known else None


def _activate(operations: Any, layer: Any, given: object) -> object:
    """Apply a layer's activation, of whatever kind."""
    function = layer.activation
    if function in (None, keras.activations.linear):
        return given
    if function is keras.activations.relu:
        return operations.Relu(features=given)
    if function is keras.activations.relu6:
        return operations.Relu6(features=given)
    return function(given)


def _describe_relu(layer: Any, given: Any) -> Hashable | None:
    """All that a ReLU of one operation computes depends on; None for others."""
    del given
    if layer.negative_slope or layer.threshold or layer.max_value not in (None, 6):
        return None
    return type(layer).call, layer.max_value


def _rectify(operations: Any, layer: Any, given: object) -> object:
    rectify = operations.Relu if layer.max_value is None else operations.Relu6
    return rectify(features=given)


def _describe_sum(layer: Any, given: Any) -> Hashable | None:
    """All that a sum of tensors of one shape computes depends on."""
    shapes = {tuple(one.shape) for one in given}
    if len(shapes) > 1 or layer._reshape_required:
        return None
    return type(layer).call, type(layer)._merge_function, len(given)


def _add(operations: Any, layer: Any, given: Sequence[object]) -> object:
    del layer
    total, *others = given
    for other in others:
        total = operations.AddV2(x=total, y=other)
    return total


def _describe_padding(layer: Any, given: Any) -> Hashable | None:
    del given
    return (type(layer).call, layer.padding) if layer.data_format == "channels_last" else None


def _pad(operations: Any, layer: Any, given: object) -> object:
    sides = np.array([(0, 0), *layer.padding, (0, 0)], np.int32)  # of a list, it takes a while
    return operations.Pad(input=given, paddings=take_over(sides, "int32"))


def _describe_normalisation(layer: Any, given: Any) -> Hashable | None:
    """All that a batch normalisation over the last of four axes computes depends on."""
    if len(given.shape) != 4 or layer.axis not in (-1, 3) or not (layer.scale and layer.center):
        return None
    return type(layer).call, layer.epsilon


def _normalise(operations: Any, layer: Any, given: object) -> object:
    return operations.FusedBatchNormV3(
        x=given,
        scale=assumed_or_read(layer.gamma),
        offset=assumed_or_read(layer.beta),
        mean=assumed_or_read(layer.moving_mean),
        variance=assumed_or_read(layer.moving_variance),
        epsilon=layer.epsilon,
        exponential_avg_factor=1.0,  # its default, a whole number, takes TensorFlow's slow path
        is_training=False,
    ).y


_KINDS: dict[
    type, tuple[Callable[[Any, Any], Hashable | None], Callable[[Any, Any, Any], object]]
] = {
    keras.layers.Conv2D: (_describe_convolution, _convolve),
    keras.layers.DepthwiseConv2D: (_describe_convolution, _convolve),
    keras.layers.BatchNormalization: (_describe_normalisation, _normalise),
    keras.layers.Activation: (_describe_activation, _activate),
    keras.layers.ReLU: (_describe_relu, _rectify),
    keras.layers.Add: (_describe_sum, _add),
    keras.layers.ZeroPadding2D: (_describe_padding, _pad),
}
"""Class of a layer -> (its kind, how it is run)."""
