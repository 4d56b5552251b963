"""Composite layers: layers without a rule, whose code is traced call by call.

A user's or a library's layer that is made of other layers and of ``keras.ops`` needs no rule: its
``call`` is run on tensors without data, and the recorded calls are traced like any graph. The layer
is kept whole, as one opaque call, where something in it cannot be recorded: a backend's own
functions, state that it writes, or a padding mask that Keras passes to nested layers implicitly.

A layer whose class is not registered with Keras is kept whole too. Keras cannot find such a class
by its name, so another process could not load a model that was cut inside the layer. Keeping it
whole is the safe default; registering the class opts in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import keras

from secateurs.keras.internals import (
    Layer,
    Operation,
    accepts_mask,
    accepts_training,
    is_model,
    is_quantized,
    is_subclassed,
    is_tensor,
    losses_of,
    mask_of,
)
from secateurs.keras.model.layer_tree import named_children, path_below
from secateurs.keras.model.nested import flatten, map_structure
from secateurs.keras.protocols import Node
from secateurs.keras.tracing.rule_table import rule_for
from secateurs.keras.tracing.symbolic import RECORDING, Calls, calls_in

NOT_REGISTERED = (
    "its class is not registered with Keras; decorate it with "
    "@keras.saving.register_keras_serializable() to have its code followed"
)
"""Reason for keeping a layer whole whose class Keras cannot find by name."""


def is_composite(operation: Operation) -> bool:
    """Return whether it is a layer without a rule, described by its own code only."""
    return (
        isinstance(operation, Layer)
        and (rule_for(type(operation)) is None or repeats_model(operation))
        and not is_model(operation)
        and (is_subclassed(operation) or not isinstance(operation, keras.Model))
        and not is_quantized(operation)
    )


def repeats_model(operation: Operation) -> bool:
    """Return whether it is a ``TimeDistributed`` model, which is traced as the model itself."""
    return isinstance(operation, keras.layers.TimeDistributed) and is_model(operation.layer)


_IMPORTED = frozenset({"keras", "keras_hub", "keras_cv", "keras_nlp"})
"""Packages that Keras searches for unregistered classes when it loads a file."""


def is_registered(kind: type) -> bool:
    """Return whether Keras finds a class by its name: registered, or in a module it imports.

    >>> is_registered(keras.layers.Dense)
    True
    """
    imported = kind.__module__.split(".")[0] in _IMPORTED
    # Keras names a registered class 'package>Name'.
    return imported or ">" in keras.saving.get_registered_name(kind)


def is_followed(operation: Operation) -> bool:
    """Return whether the layer's code is to be traced."""
    known = is_subclassed(operation) or is_registered(type(operation))
    return known and is_composite(operation)


def open_layer(
    node: Node, arguments: Sequence[object], keywords: Mapping[str, object]
) -> Calls | str:
    """Record the calls that a composite layer makes; return the reason where that is not possible.

    Args:
        node: Keras's record of the call.
        arguments: positional arguments, with values or tensors in place of tensors.
        keywords: keyword arguments, likewise.

    Returns:
        The recorded calls, or the reason as a string: '' for a layer that is not composite.
    """
    with RECORDING:
        return _open_layer(node, arguments, keywords) if is_composite(node.operation) else ""


def _open_layer(
    node: Node, arguments: Sequence[object], keywords: Mapping[str, object]
) -> Calls | str:
    layer = node.operation
    if not is_followed(layer):
        return NOT_REGISTERED
    if repeats_model(layer) and node.input_tensors[0].shape[1] is None:
        # Calls recorded for one number of steps are replayed for any other.
        return "its number of steps is unknown; give the Input a fixed length"
    specs = map_structure(_spec_of, [list(arguments), dict(keywords)])
    if accepts_training(layer):
        specs[1]["training"] = False
    inside, beside = _nested_layers(layer)
    is_masked = any(mask_of(tensor) is not None for tensor in (*node.input_tensors, *node.outputs))
    if is_masked and (why := _why_mask_is_lost(layer, inside, beside)):
        return why
    before = len(losses_of(layer))
    seen = calls_in(layer.call, specs[0], specs[1], [layer], inside, beside, is_masked)
    added = losses_of(layer)[before:]
    del losses_of(layer)[before:]
    if isinstance(seen, str):
        return seen
    if added:
        return "its code adds losses"
    if why := _why_call_differs(node, specs, seen):
        return why
    whole = {id(inner): NOT_REGISTERED for inner in beside if is_composite(inner)}
    return replace(seen, closed={**seen.closed, **whole})


def _why_call_differs(node: Node, specs: object, seen: Calls) -> str:
    """Return how the calls differ from Keras's own record of the layer's call, or ''."""
    given = [item for item in flatten(specs) if isinstance(item, keras.KerasTensor)]
    if len(given) != len(seen.inputs):
        return "its code takes tensors in nested structures"
    expected = [tuple(tensor.shape) for tensor in node.outputs]
    received = [tuple(tensor.shape) for tensor in flatten(seen.outputs)]
    return (
        ""
        if _shapes_match(expected, received)
        else ("its code returns other shapes than compute_output_shape() declares")
    )


def _why_mask_is_lost(layer: Layer, inside: Sequence[Layer], beside: Sequence[Layer]) -> str:
    """Return why padding masks would not reach the layers that Keras passes them to, or ''."""
    if layer.compute_dtype != layer.variable_dtype:
        # Keras drops a mask where it casts; whether it casts depends on inferred dtypes.
        return "a padding mask passes through its code, which computes in another dtype"
    if any(inner.supports_masking for inner in inside) and any(map(accepts_mask, beside)):
        return "a padding mask passes through its code to inner layers, which is not followed"
    return ""


def _nested_layers(layer: Layer) -> tuple[list[Layer], list[Layer]]:
    """Return (nested layers whose code is traced, nested layers that are called as a whole).

    Layers inside a layer that is kept whole are left out. The layers of a subclassed model are
    mostly classes of the same file, constructed by the same code as the model: all of them are
    traced, registered or not.
    """
    every = is_subclassed(layer)
    inside: dict[int, Layer] = {}
    beside: dict[int, Layer] = {}
    waiting = [layer]
    while waiting:
        for _, child in named_children(waiting.pop()):
            if id(child) in inside or id(child) in beside:
                continue
            composite = is_composite(child)
            goes_on = is_model(child) or (composite and (every or is_followed(child)))
            (inside if goes_on else beside)[id(child)] = child
            if goes_on or not composite:
                waiting.append(child)
    return list(inside.values()), list(beside.values())


def _spec_of(item: object) -> object:
    """Replace a value or a tensor by a symbolic tensor; return anything else unchanged."""
    spec = getattr(item, "spec", None)
    if isinstance(spec, keras.KerasTensor):
        return spec
    if isinstance(item, keras.KerasTensor):
        return keras.KerasTensor(item.shape, dtype=item.dtype)
    if is_tensor(item):
        return keras.KerasTensor(tuple(item.shape), dtype=item.dtype)
    return item


def _shapes_match(
    expected: Sequence[Sequence[int | None]], received: Sequence[Sequence[int]]
) -> bool:
    """Return whether the recorded output shapes match those in the graph."""
    return len(expected) == len(received) and all(
        len(want) == len(have) and all(w in (None, h) for w, h in zip(want, have, strict=True))
        for want, have in zip(expected, received, strict=True)
    )


def tensors_in(arguments: Sequence[object], keywords: Mapping[str, object]) -> list[object]:
    """List the values or tensors among a call's arguments, in the order of ``Calls.inputs``."""
    flat = flatten([list(arguments), dict(keywords)])
    return [item for item in flat if _spec_of(item) is not item]


def paths_inside(layer: Layer, path: str) -> Iterator[tuple[Layer, str]]:
    """Iterate over (layer, path) of all layers nested in a layer."""
    for name, child in named_children(layer):
        inner_path = path_below(path, name)
        yield child, inner_path
        yield from paths_inside(child, inner_path)
