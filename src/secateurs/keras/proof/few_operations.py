"""Layers of TensorFlow's that a proof runs in one or two operations instead of twenty.

On the small images of a proof, Keras's conversions around a convolution or a batch normalisation
take five to ten times as long as the operation itself. What a layer computes is not assumed: the
first of each kind is run both ways, and where the results differ, Keras's own code is run for all
of that kind.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from importlib import import_module
from typing import Any

import keras
import numpy as np

from secateurs.keras.internals import (
    NOT_PLAIN,
    Layer,
    Operation,
    Variable,
    read_value,
    runs_plainly,
)
from secateurs.keras.protocols import BackendTensor

_CLOSE = 1e-5
"""Largest difference between both ways, relative to the largest value."""

_MOST_KINDS = 4096

_WRAPPED = {"build", "quantize"}
"""Methods that Keras itself wraps for each layer."""

_AGREES: dict[Hashable, bool] = {}
"""Kind of a layer -> whether both ways gave the same for the first of its kind."""


def call_in_few_operations(
    layer: Operation, arguments: Sequence[object], keywords: Mapping[str, object]
) -> object:
    """Run a layer in inference mode by TensorFlow's own operations.

    Args:
        layer: any layer or operation.
        arguments: positional arguments of the call.
        keywords: keyword arguments of the call.

    Returns:
        The output; ``NOT_PLAIN``, and nothing is run, where it has to be run by Keras.
    """
    known = _KINDS.get(type(layer))
    if known is None or keras.backend.backend() != "tensorflow":
        return NOT_PLAIN
    describe, run = known
    tensorflow = import_module("tensorflow")
    if not runs_plainly(layer, arguments, keywords) or not tensorflow.executing_eagerly():
        return NOT_PLAIN
    given: Any = arguments[0]
    is_usual = layer.compute_dtype == "float32" and len(given.shape) == 4
    kind = describe(layer) if is_usual and not _has_own_methods(layer) else None
    if kind is None or not _AGREES.get(kind, True):
        return NOT_PLAIN
    layer._assert_input_compatibility(given)
    made = run(tensorflow.raw_ops, layer, given)
    return made if kind in _AGREES else _compare(kind, layer, given, made)


def _compare(kind: Hashable, layer: Layer, given: object, made: object) -> object:
    """Run the first layer of its kind by Keras too, whose result is returned; note if it agrees."""
    options = {"training": False} if isinstance(layer, keras.layers.BatchNormalization) else {}
    expected: object = layer.call(given, **options)
    mine, theirs = (np.asarray(one) for one in (made, expected))
    if len(_AGREES) >= _MOST_KINDS:
        _AGREES.clear()
    _AGREES[kind] = mine.shape == theirs.shape and bool(
        np.abs(mine - theirs).max(initial=0) <= _CLOSE * np.abs(theirs).max(initial=0)
    )
    return expected


def _has_own_methods(layer: Layer) -> bool:
    """Whether a layer may compute otherwise than its class does."""
    held = vars(layer).keys() - _WRAPPED
    return any(callable(getattr(type(layer), name, None)) for name in held)


def _present(variable: Variable) -> BackendTensor:
    """The value of a variable: the one assumed for the proof, if there is one."""
    value: BackendTensor = variable.value
    return read_value(value) if hasattr(value, "read_value") else value


def _describe_convolution(layer: Any) -> Hashable | None:
    """All that a convolution computes depends on, besides values; None for unusual ones."""
    if layer.data_format != "channels_last" or getattr(layer, "groups", 1) != 1:
        return None
    if not isinstance(layer.kernel, Variable):  # with LoRA it is computed
        return None
    if layer.padding not in ("same", "valid"):
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
    kernel = _present(layer.kernel)
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        made = operations.DepthwiseConv2dNative(input=given, filter=kernel, **steps)
    else:
        made = operations.Conv2D(input=given, filter=kernel, **steps)
    if layer.use_bias:
        made = operations.BiasAdd(value=made, bias=_present(layer.bias))
    is_linear = layer.activation in (None, keras.activations.linear)
    return made if is_linear else layer.activation(made)


def _describe_normalisation(layer: Any) -> Hashable | None:
    """All that a batch normalisation over the last of four axes computes depends on."""
    if layer.axis not in (-1, 3) or not (layer.scale and layer.center):
        return None
    return type(layer).call, layer.epsilon


def _normalise(operations: Any, layer: Any, given: object) -> object:
    return operations.FusedBatchNormV3(
        x=given,
        scale=_present(layer.gamma),
        offset=_present(layer.beta),
        mean=_present(layer.moving_mean),
        variance=_present(layer.moving_variance),
        epsilon=layer.epsilon,
        is_training=False,
    ).y


_KINDS: dict[type, tuple[Callable[[Any], Hashable | None], Callable[[Any, Any, Any], object]]] = {
    keras.layers.Conv2D: (_describe_convolution, _convolve),
    keras.layers.DepthwiseConv2D: (_describe_convolution, _convolve),
    keras.layers.BatchNormalization: (_describe_normalisation, _normalise),
}
"""Class of a layer -> (its kind, how it is run)."""
