"""Sites where a Keras model reads channels: the values that removing a channel takes away.

Most of them are inputs of layers. Attention and separable convolutions also read channels
internally; their inner calls are intercepted. The state that a recurrent layer passes from step to
step cannot be observed: its channels are judged by what later layers read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from secateurs.channels.equations import Ids, Solution
from secateurs.channels.network import Network
from secateurs.keras.internals import (
    AssumedValues,
    Layer,
    Variable,
    intercept_calls,
    own_variables,
    sublayers,
)
from secateurs.keras.model.tensors import ModelTensor
from secateurs.keras.proof.masked_twin import with_tensors
from secateurs.keras.protocols import BackendTensor
from secateurs.keras.statistics.before_pooling import CONVOLUTIONS, DEPTHWISE, SEPARABLE
from secateurs.keras.trace_model import TracedModel, source_of
from secateurs.keras.tracing.interpreter import (
    CallSite,
    OpInterpreter,
    RunStep,
    call_layer,
    convert_arrays,
    first_tensor,
)
from secateurs.keras.tracing.op_record import OpRecord
from secateurs.keras.tracing.rules.contraction import channel_axis, spell_out

RESULT = -1
"""Operand number that stands for the output of an inner layer."""

ActivationChange = Callable[["ActivationPlace", BackendTensor], BackendTensor]
"""Function (site, tensor) -> tensor to read instead."""


@dataclass(frozen=True, eq=False, slots=True)
class ActivationPlace:
    """A site: one tensor that is read along an axis of channels.

    Attributes:
        step: index of the call.
        layer: path of its layer.
        operand: number of the operand; ``RESULT`` for the output of an inner layer.
        axis: axis of the tensor; negative for inner layers.
        units: units along the axis, shape (length,).
        reader_norm: squared norm of the consumer's weight for each index, shape (length,); 1 where
            no weight reads it.
        inner: inner layer that reads; None where the call itself does.
    """

    step: int
    layer: str
    operand: int
    axis: int
    units: Ids
    reader_norm: NDArray[np.float64]
    inner: Layer | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Unseen:
    """A weight that reads channels where the values cannot be observed."""

    layer: str
    units: Ids


def places_of(network: Network) -> tuple[list[ActivationPlace], list[Unseen]]:
    """Return all sites in execution order, and the weights whose values cannot be observed."""
    source = source_of(network)
    places: list[ActivationPlace] = []
    unseen: list[Unseen] = []
    leaf_of = {id(leaf.variable): leaf for leaf in source.leaves.values()}
    for number, operation in enumerate(source.operations):
        path, layer = operation.layer, operation.call
        for mask in operation.masks:
            ones = np.ones(len(mask.units))
            places.append(ActivationPlace(number, path, mask.operand, mask.axis, mask.units, ones))
        if (alone := _place_before_depthwise(number, operation, leaf_of)) is not None:
            places.append(alone)
        for owner, leaf, axis in _readers(source, layer):
            found = _find_site(network.solution, operation, layer, owner, leaf, axis)
            if found is None:
                unseen.append(Unseen(path, leaf.axes[axis]))
            elif len(found.units):
                places.append(ActivationPlace(number, path, *found.where, found.units, *found.how))
    return places, unseen


def _place_before_depthwise(
    number: int, operation: OpRecord, leaf_of: Mapping[int, ModelTensor]
) -> ActivationPlace | None:
    """The input of a depthwise convolution, which reads each channel and passes it on.

    No weight has an axis that sums over these channels, so a cut removes them without it; but what
    is read here are activations of the filters before it, which no other layer may read.
    """
    layer = operation.call
    kernel = _depthwise_kernel(layer)
    leaf = None if kernel is None else leaf_of.get(id(kernel))
    if leaf is None:
        return None
    shape, axes = operation.inputs[0]
    at = channel_axis(layer, len(shape))
    units = axes.get(at)
    if units is None:
        return None
    norms = (
        _reader_norms(leaf, -2)
        if leaf.shape[-2] == len(units)
        else _reader_norms_of_groups(leaf, len(units))
    )
    return ActivationPlace(number, operation.layer, 0, at, units, norms)


def _depthwise_kernel(layer: object) -> Variable | None:
    """The kernel of a convolution with a filter, or several, for each channel; None of others."""
    if isinstance(layer, SEPARABLE):
        return layer.depthwise_kernel
    if isinstance(layer, DEPTHWISE):
        return layer.kernel
    if isinstance(layer, CONVOLUTIONS) and layer.groups > 1 and layer.kernel.shape[-2] == 1:
        return layer.kernel
    return None


@dataclass(frozen=True, eq=False, slots=True)
class _Found:
    where: tuple[int, int]
    units: Ids
    how: tuple[NDArray[np.float64], Layer | None]


NOTHING = _Found((0, 0), np.zeros(0, np.int64), (np.zeros(0), None))


def _readers(source: TracedModel, layer: Layer) -> Iterator[tuple[Layer, ModelTensor, int]]:
    """Iterate over (layer, weight, axis) of each weight of a call that reads channels."""
    reads: dict[int, list[tuple[ModelTensor, int]]] = {}
    for (_, axis), leaf in source.read.items():
        if axis in leaf.axes:
            reads.setdefault(id(leaf.variable), []).append((leaf, axis))
    for owner in _with_inner(layer):
        for variable, _ in own_variables(owner):
            for leaf, axis in reads.get(id(variable), ()):
                yield owner, leaf, axis


def _with_inner(layer: Layer) -> Iterator[Layer]:
    yield layer
    for child in sublayers(layer):
        yield from _with_inner(child)


def _find_site(
    solution: Solution,
    operation: OpRecord,
    layer: Layer,
    owner: Layer,
    leaf: ModelTensor,
    axis: int,
) -> _Found | None:
    """Return where the values that a weight reads can be observed; None where they cannot."""
    attention = isinstance(layer, (layers.MultiHeadAttention, layers.GroupQueryAttention))
    if attention and isinstance(owner, layers.EinsumDense):
        return _in_einsum(owner, leaf, axis)
    if isinstance(owner, SEPARABLE):
        how = (_reader_norms(leaf, axis), owner)
        at = channel_axis(owner, len(leaf.shape)) - len(leaf.shape)
        causal = owner.padding == "causal"
        return None if causal else _Found((0, at), leaf.axes[axis], how)
    if getattr(owner, "groups", 1) > 1 and owner is layer:
        at = channel_axis(owner, len(operation.inputs[0][0]))
        units = operation.inputs[0][1][at]
        return _Found((0, at), units, (_reader_norms_of_groups(leaf, owner.groups), None))
    for number, (_, axes) in enumerate(operation.inputs):
        for at, units in axes.items():
            if _is_same_channels(solution, units, leaf.axes[axis]):
                return _Found((number, at), units, (_reader_norms(leaf, axis), None))
    return None


def _is_same_channels(solution: Solution, one: Ids, other: Ids) -> bool:
    return len(one) == len(other) and np.array_equal(solution.atoms[one], solution.atoms[other])


def _in_einsum(owner: Layer, leaf: ModelTensor, axis: int) -> _Found:
    """Return the site of an attention projection: its input, or its output if the axis is there."""
    if len(leaf.shape) < 2 or leaf.variable is not owner.kernel:
        return NOTHING  # the bias is observed with its kernel
    # Attention's equations have no ellipsis, so the rank follows from the letters.
    read, weight, result = spell_out(owner.equation, len(owner.equation.partition(",")[0]))
    letter, units = weight[axis], leaf.axes[axis]
    if letter in read:
        at = read.index(letter) - len(read)
        return _Found((0, at), units, (_reader_norms(leaf, axis), owner))
    at = result.index(letter) - len(result)
    return _Found((RESULT, at), units, (np.ones(len(units)), owner))


def _reader_norms(leaf: ModelTensor, axis: int) -> NDArray[np.float64]:
    values = np.square(leaf.array().astype(np.float64))
    total: NDArray[np.float64] = np.moveaxis(values, axis, 0).reshape(leaf.shape[axis], -1).sum(1)
    return total


def _reader_norms_of_groups(leaf: ModelTensor, groups: int) -> NDArray[np.float64]:
    squares = np.square(leaf.array().astype(np.float64)).reshape(-1, *leaf.shape[-2:]).sum(0)
    inside = squares.reshape(leaf.shape[-2], groups, -1).sum(2)
    norms: NDArray[np.float64] = inside.T.ravel()
    return norms


class Listening:
    """Step function that passes the tensors read at some sites through ``change``."""

    def __init__(
        self,
        operations: Sequence[OpRecord],
        places: Sequence[ActivationPlace],
        change: ActivationChange,
    ) -> None:
        self._operations = operations
        self._change = change
        self._at: dict[int, list[ActivationPlace]] = {}
        for place in places:
            self._at.setdefault(place.step, []).append(place)

    def __call__(
        self, site: CallSite, arguments: Sequence[object], keywords: dict[str, object]
    ) -> object:
        places = self._at.get(site.index, ())
        given = [place for place in places if place.inner is None]
        inside = [place for place in places if place.inner is not None]

        def change(number: int, tensor: BackendTensor) -> BackendTensor:
            for place in given:
                if place.operand == number:
                    tensor = self._change(place, tensor)
            return tensor

        layer = site.operation
        if given:
            operation = self._operations[site.index]
            arguments, keywords = with_tensors(operation, arguments, keywords, change)
        if any(place.inner is layer for place in inside):
            x = first_tensor(arguments, keywords)
            return _convolve_in_steps(layer, x, partial(self._change_all, inside))
        with intercept_calls(self._around(inside)):
            return call_layer(layer, arguments, keywords)

    def _change_all(
        self, places: Sequence[ActivationPlace], tensor: BackendTensor
    ) -> BackendTensor:
        for place in places:
            tensor = self._change(place, tensor)
        return tensor

    def _around(self, places: Sequence[ActivationPlace]) -> Mapping[Layer, Callable[..., object]]:
        owners = {id(place.inner): place.inner for place in places}

        def around(
            mine: Sequence[ActivationPlace],
            call: Callable[..., BackendTensor],
            first: BackendTensor,
            *rest: object,
            **options: object,
        ) -> BackendTensor:
            first = self._change_all([place for place in mine if place.operand != RESULT], first)
            given = call(first, *rest, **options)
            return self._change_all([place for place in mine if place.operand == RESULT], given)

        return {
            owner: partial(around, [place for place in places if place.inner is owner])
            for owner in owners.values()
        }


def _convolve_in_steps(
    layer: Layer, x: BackendTensor, change: Callable[[BackendTensor], BackendTensor]
) -> BackendTensor:
    """Run a separable convolution in two steps, with ``change`` applied between them."""
    between = keras.ops.depthwise_conv(
        x,
        layer.depthwise_kernel,
        strides=layer.strides,
        padding=layer.padding,
        data_format=layer.data_format,
        dilation_rate=layer.dilation_rate,
    )
    result: BackendTensor = keras.ops.conv(
        change(between), layer.pointwise_kernel, padding="valid", data_format=layer.data_format
    )
    if layer.bias is not None:
        shape = [1] * len(result.shape)
        shape[channel_axis(layer, len(shape))] = -1
        result = result + keras.ops.reshape(layer.bias, shape)
    return result if layer.activation is None else layer.activation(result)


def run(
    model: keras.Model,
    step: RunStep,
    variables: Sequence[Variable],
    values: Sequence[BackendTensor],
    arrays: Sequence[NDArray[np.generic]],
) -> list[BackendTensor]:
    """Run the model with these values of its variables; return its outputs, flat."""
    with AssumedValues(state_mapping=list(zip(variables, values, strict=True))):
        return OpInterpreter(step).run(model, convert_arrays(model, arrays))
