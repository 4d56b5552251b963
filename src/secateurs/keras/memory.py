"""Memory of a forward pass: its peak, and the activations that a backward pass needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from secateurs.errors import MeasurementError
from secateurs.keras.internals import ConvertToTensor, is_model
from secateurs.keras.model.code_errors import ClosedCodeError
from secateurs.keras.model.example_inputs import as_arrays, check_model, pack_inputs
from secateurs.keras.protocols import BackendTensor, Node
from secateurs.keras.tracing.interpreter import (
    CallSite,
    OpInterpreter,
    as_it_is,
    convert_arrays,
)
from secateurs.keras.tracing.symbolic import Calls, Enter, calls_in

VIEWS = (
    Enter,
    *((ConvertToTensor,) if ConvertToTensor else ()),
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.Dropout,
    keras.layers.Identity,
)
"""Operations whose output shares its input's memory: identities and reshapes."""


def peak_memory(model: keras.Model, example_inputs: object) -> int:
    """Peak bytes of a forward pass: weights, inputs and the activations alive at the same time.

    A layer's output counts until its last reader has run; a layer with a built-in activation also
    counts the values before it. The result comes from shapes alone, so it is the same on every
    backend. Workspace that kernels allocate while they run is not included.

    Args:
        model: model to measure; unchanged.
        example_inputs: inputs of the model.

    Raises:
        MeasurementError: the model's code cannot be followed without data.
    """
    try:
        model = check_model(model, example_inputs)
    except ClosedCodeError as error:
        raise _refusal(model, error.reason) from error
    arrays = as_arrays(example_inputs, model)
    tensors = [keras.KerasTensor(array.shape, dtype=str(array.dtype)) for array in arrays]
    given = pack_inputs(model, tensors)
    inside = [one for one in model._flatten_layers() if one is model or is_model(one)]
    calls = calls_in(model, [given], {}, inside=inside)
    closed = calls if isinstance(calls, str) else next(iter(calls.closed.values()), "")
    if isinstance(calls, str) or closed:
        raise _refusal(model, closed)
    state = sum(int(np.prod(one.shape)) * _itemsize(one.dtype) for one in model.weights)
    return state + _most_alive(calls)


def activation_memory(model: keras.Model, example_inputs: object) -> int:
    """Bytes of the outputs of all operations, which a backward pass may need.

    Weights and inputs are left out.

    Args:
        model: model; unchanged, run in inference mode.
        example_inputs: inputs of the model.
    """
    kept = 0

    def count(site: CallSite, arguments: Sequence[object], keywords: dict[str, object]) -> object:
        nonlocal kept
        given = as_it_is(site, arguments, keywords)
        if not isinstance(site.operation, VIEWS):
            kept += sum(_bytes(one) for one in keras.tree.flatten(given) if hasattr(one, "shape"))
        return given

    model = check_model(model, example_inputs)
    OpInterpreter(count).run(model, convert_arrays(model, as_arrays(example_inputs, model)))
    return kept


def _refusal(model: keras.Model, reason: str) -> MeasurementError:
    return MeasurementError(
        f"{model.name}: peak_memory_mb: expected a model that can be followed without data; "
        f"{reason}. Ask for params, size_mb or macs."
    )


def _most_alive(calls: Calls) -> int:
    """Return the peak number of bytes of inputs and activations alive at once."""
    last_use = _last_uses(calls)
    # The caller holds the inputs, so they are alive throughout.
    now = peak = sum(_bytes(tensor) for tensor in calls.inputs)
    held: dict[int, int] = {}  # id of the owner of the memory -> bytes; a view is not an owner
    holder = {id(tensor): id(tensor) for tensor in calls.inputs}
    for place, node in enumerate(calls.nodes):
        makes = _outputs_of(node, holder)
        for key, size in makes.items():
            held[key] = size
            now += size
        peak = max(peak, now + (sum(makes.values()) if _has_activation(node) else 0))
        for key in [key for key in held if last_use.get(key, place) <= place]:
            now -= held.pop(key)
    return peak


def _outputs_of(node: Node, holder: dict[int, int]) -> Mapping[int, int]:
    """Return the bytes of each new output by ``id``; record the owners of memory in ``holder``."""
    if isinstance(node.operation, VIEWS):
        source = holder.get(id(node.input_tensors[0]), id(node.input_tensors[0]))
        holder.update((id(output), source) for output in node.outputs)
        return {}
    holder.update((id(output), id(output)) for output in node.outputs)
    return {id(output): _bytes(output) for output in node.outputs}


def _last_uses(calls: Calls) -> Mapping[int, int]:
    """Map the owner of each buffer to the index of the last call that reads it.

    The model's outputs are read after the last call.
    """
    holder = {id(tensor): id(tensor) for tensor in calls.inputs}
    last: dict[int, int] = {}
    for place, node in enumerate(calls.nodes):
        for tensor in node.input_tensors:
            last[holder.get(id(tensor), id(tensor))] = place
        _outputs_of(node, holder)
    flat: Sequence[keras.KerasTensor] = keras.tree.flatten(calls.outputs)
    last |= {holder[id(tensor)]: len(calls.nodes) for tensor in flat if id(tensor) in holder}
    return last


def _has_activation(node: Node) -> bool:
    """Return whether a layer applies a built-in activation to what it computes."""
    activation = getattr(node.operation, "activation", None)
    is_itself = isinstance(node.operation, keras.layers.Activation)
    return activation not in (None, keras.activations.linear) and not is_itself


def _bytes(tensor: keras.KerasTensor | BackendTensor) -> int:
    return int(np.prod([length or 1 for length in tensor.shape])) * _itemsize(
        keras.backend.standardize_dtype(tensor.dtype)
    )


def _itemsize(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
