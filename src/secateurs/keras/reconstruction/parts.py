"""Split the call of a layer into parts: its contraction, its activation, attention's projections.

A repair fits the output of a contraction before anything else is applied to it. So a layer that
does more in one call is split here: running its parts in sequence gives the output of the call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import keras
from keras import layers

from secateurs.keras.internals import (
    Layer,
    Operation,
    Variable,
    infer,
    intercept_calls,
    is_quantized,
    mask_of,
    operation_classes,
    set_mask,
)
from secateurs.keras.protocols import BackendTensor
from secateurs.keras.reconstruction.contractions import (
    EinsumMap,
    Map,
    dense_map,
    depthwise_map,
    einsum_map,
    kernel_map,
    norm_map,
    pointwise_map,
)
from secateurs.keras.tracing.interpreter import call_layer
from secateurs.keras.tracing.op_record import Axes
from secateurs.keras.tracing.rules.contraction import channel_axis

CallArguments = tuple[list[object], dict[str, object]]
ArgumentsFrom = Callable[[Sequence[object]], CallArguments]
"""Function (outputs of the parts before) -> arguments of a part."""

CONVOLUTIONS = (
    *(layers.Conv1D, layers.Conv2D, layers.Conv3D),
    *(layers.DepthwiseConv1D, layers.DepthwiseConv2D),
    *(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose),
)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
ATTENTION = (layers.MultiHeadAttention, layers.GroupQueryAttention)
NORMS = tuple(
    getattr(layers, name)
    for name in (
        *("LayerNormalization", "RMSNormalization", "GroupNormalization"),
        *("BatchNormalization",),
    )
    if hasattr(layers, name)
)
MATMUL = operation_classes("Matmul")


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """One part of a call.

    Attributes:
        name: description; the same in a network and in one that was cut from it.
        layer: the layer or operation.
        run: function (arguments, keywords) -> output.
        arguments: function (outputs of the parts before) -> its arguments.
        map: linear map of its weights, for a contraction or a normalisation.
        spec: shape and dtype of its output, if that is not the call's output.
        axes: function (axes of a weight) -> axes of its output, if that is not the call's output.
    """

    name: str
    layer: Operation
    run: Callable[[list[object], dict[str, object]], object]
    arguments: ArgumentsFrom
    map: Map | None = None
    spec: keras.KerasTensor | None = None
    axes: Callable[[Callable[[Variable], Axes]], Axes] | None = None


def parts_of(
    layer: Operation,
    given: Sequence[object],
    options: Mapping[str, object],
    specs: Sequence[keras.KerasTensor],
    shapes: Mapping[str, keras.KerasTensor],
) -> list[Part]:
    """Return the parts of a call, in execution order.

    Args:
        layer: the layer or operation.
        given: positional arguments of the call.
        options: keyword arguments of the call.
        specs: the positional arguments as symbolic tensors.
        shapes: the keyword arguments as symbolic tensors.
    """

    def take_given(before: Sequence[object]) -> CallArguments:
        del before
        return list(given), dict(options)

    if isinstance(layer, SEPARABLE):
        return _separable(layer, take_given, specs[0])
    if isinstance(layer, ATTENTION) and not is_quantized(layer):
        found = _attention(layer, given, options, specs, shapes)
        if found is not None:
            return found
    return _plain(layer, take_given, [*given, *options.values()], [*specs, *shapes.values()])


def _plain(
    layer: Operation,
    arguments: ArgumentsFrom,
    given: Sequence[object],
    specs: Sequence[keras.KerasTensor],
) -> list[Part]:
    """Split a layer into its contraction and its activation, if it has both."""
    known = map_of(layer, given, specs)
    whole = partial(_call, layer)
    name = type(layer).__name__
    activation = getattr(layer, "activation", None)
    acts = activation is not None and activation is not keras.activations.linear
    if known is None or isinstance(layer, NORMS) or not acts:
        suffix = "" if not acts else f" {_name_of(activation)}"
        return [Part(f"{name}{suffix}", layer, whole, arguments, known)]
    return [
        Part(name, layer, partial(_before_activation, layer), arguments, known),
        _activation_part(layer),
    ]


def _activation_part(layer: Layer) -> Part:
    return Part(_name_of(layer.activation), layer.activation, partial(_activate, layer), _take_last)


def _name_of(function: object) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _take_last(before: Sequence[object]) -> CallArguments:
    return [before[-1]], {}


def map_of(
    layer: Operation, given: Sequence[object], specs: Sequence[keras.KerasTensor]
) -> Map | None:
    """Return the linear map of a contraction or normalisation; None for other layers.

    Args:
        layer: the layer or operation.
        given: its arguments, with weights as they are.
        specs: the arguments as symbolic tensors.
    """
    if not specs or is_quantized(layer):
        return None
    rank = len(getattr(specs[0], "shape", ()))
    if isinstance(layer, layers.Dense):
        return dense_map(layer, rank)
    if isinstance(layer, layers.EinsumDense):
        return einsum_map(layer, rank)
    if isinstance(layer, CONVOLUTIONS):
        return kernel_map(layer, rank)
    if isinstance(layer, NORMS):
        return norm_map(layer, rank)
    if isinstance(layer, MATMUL) and len(given) == 2 and isinstance(given[1], Variable):
        return EinsumMap.of_matrix(given[1], rank)
    return None


def _call(layer: Operation, arguments: list[object], keywords: dict[str, object]) -> object:
    return call_layer(layer, arguments, keywords)


def _before_activation(
    layer: Layer, arguments: list[object], keywords: dict[str, object]
) -> object:
    with replace_attributes(layer, activation=None):
        return call_layer(layer, arguments, keywords)


def _activate(layer: Layer, arguments: list[object], keywords: dict[str, object]) -> BackendTensor:
    del keywords
    made: BackendTensor = layer.activation(arguments[0])
    set_mask(made, mask_of(arguments[0]))
    return made


@contextmanager
def replace_attributes(layer: Layer, **attributes: object) -> Iterator[None]:
    """Temporarily replace attributes of a layer."""
    present = vars(layer)
    before = {name: present[name] for name in attributes if name in present}
    present.update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            del present[name]
        present.update(before)


# -- separable convolutions


def _separable(layer: Layer, arguments: ArgumentsFrom, given: keras.KerasTensor) -> list[Part]:
    first = depthwise_map(layer, len(given.shape))
    shape = list(layer.compute_output_shape(given.shape))
    channel = channel_axis(layer, len(shape))
    shape[channel] = given.shape[channel] * layer.depth_multiplier
    spec = keras.KerasTensor(tuple(shape), dtype=layer.compute_dtype)
    depthwise = Part(
        "depthwise", layer, partial(_depthwise, layer), arguments, first, spec, first.output_axes
    )
    pointwise = Part(
        "pointwise", layer, partial(_pointwise, layer), _take_last, pointwise_map(layer, len(shape))
    )
    acts = layer.activation is not None and layer.activation is not keras.activations.linear
    return [depthwise, pointwise, *([_activation_part(layer)] if acts else [])]


def _depthwise(layer: Layer, arguments: list[object], keywords: dict[str, object]) -> BackendTensor:
    del keywords
    made: BackendTensor = keras.ops.depthwise_conv(
        keras.ops.cast(arguments[0], layer.compute_dtype),
        keras.ops.cast(layer.depthwise_kernel, layer.compute_dtype),
        strides=layer.strides,
        padding=layer.padding,
        data_format=layer.data_format,
        dilation_rate=layer.dilation_rate,
    )
    return made


def _pointwise(layer: Layer, arguments: list[object], keywords: dict[str, object]) -> BackendTensor:
    del keywords
    kernel = keras.ops.cast(layer.pointwise_kernel, layer.compute_dtype)
    result: BackendTensor = keras.ops.conv(
        arguments[0], kernel, padding="valid", data_format=layer.data_format
    )
    if layer.bias is None:
        return result
    shape = [1] * len(result.shape)
    shape[channel_axis(layer, len(shape))] = -1
    bias: BackendTensor = keras.ops.reshape(keras.ops.cast(layer.bias, layer.compute_dtype), shape)
    return result + bias


# -- attention


def _attention(
    layer: Operation,
    given: Sequence[object],
    options: Mapping[str, object],
    specs: Sequence[keras.KerasTensor],
    shapes: Mapping[str, keras.KerasTensor],
) -> list[Part] | None:
    """Split attention into input projections, the attention itself, and the output projection."""
    signature = inspect.signature(layer.call)
    named = dict(signature.bind(*given, **options).arguments)
    kinds = dict(signature.bind(*specs, **shapes).arguments)
    if named.get("return_attention_scores"):
        return None
    if named.get("key") is None:
        named["key"], kinds["key"] = named["value"], kinds["value"]
    projections = [
        _projection(getattr(layer, f"_{role}_dense"), named[role], kinds[role])
        for role in ("query", "key", "value")
    ]
    output = layer._output_dense
    rank = len(kinds["query"].shape) + 1
    into, known = [part.map for part in projections], einsum_map(output, rank)
    if known is None or None in into:
        return None
    spec = keras.KerasTensor((*kinds["query"].shape[:-1], *known.kernel.shape[:2]))
    between = Part(
        "attention",
        layer,
        partial(_attend, layer),
        lambda before: ([*before, *given], dict(options)),
        None,
        spec,
        known.input_axes,
    )
    return [
        *projections,
        between,
        Part("output", output, partial(_call, output), _take_last, known),
    ]


def _projection(dense: Layer, x: object, spec: keras.KerasTensor) -> Part:
    known = einsum_map(dense, len(spec.shape))
    made = infer(dense, spec)
    axes = None if known is None else known.output_axes
    return Part(
        "projection", dense, partial(_call, dense), lambda before: ([x], {}), known, made, axes
    )


def _attend(layer: Layer, arguments: list[object], keywords: dict[str, object]) -> object:
    """Run the layer with these projected inputs, and without its output projection."""
    query, key, value, *rest = arguments
    replacements: dict[Layer, Callable[..., object]] = {
        layer._query_dense: partial(_return_known, query),
        layer._key_dense: partial(_return_known, key),
        layer._value_dense: partial(_return_known, value),
        layer._output_dense: _return_input,
    }
    with intercept_calls(replacements):
        return call_layer(layer, rest, keywords)


def _return_known(
    known: object, call: Callable[..., object], *arguments: object, **options: object
) -> object:
    del call, arguments, options
    return known


def _return_input(call: Callable[..., object], x: object, **options: object) -> object:
    del call, options
    return x
