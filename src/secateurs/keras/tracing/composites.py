"""Layers without a rule of their own, whose code is gone through call by call.

A layer of the user's, or of a library's, that is made of other layers and of operations of
``keras.ops`` needs no rule: its ``call`` is run on tensors without data, and what it does is
followed like any graph. It stays one layer where something in it cannot be seen: code of the
backend's own, a state that it writes, a mask that reaches
layers inside layers inside without a word of its code.

It also stays one layer where its class is not registered with Keras. Such a class cannot be found
by its name, so no other process could make the layer again from a file of a model that was cut
inside it. To leave it whole is the safe default; to register its class is how its owner asks for
more.
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
"""Why the code of a class that Keras cannot find by its name is not followed."""


def is_composite(operation: Operation) -> bool:
    """Whether it is a layer that only its own code says something of."""
    return (
        isinstance(operation, Layer)
        and not is_model(operation)
        and (is_subclassed(operation) or not isinstance(operation, keras.Model))
        and not is_quantized(operation)
        and (rule_for(type(operation)) is None or repeats_model(operation))
    )


def repeats_model(operation: Operation) -> bool:
    """Whether it calls a model once a step, so that what it does is what the model does."""
    return isinstance(operation, keras.layers.TimeDistributed) and is_model(operation.layer)


_IMPORTED = frozenset({"keras", "keras_hub", "keras_cv", "keras_nlp"})
"""The packages in which Keras, loading a file, looks for classes that were not registered."""


def is_registered(kind: type) -> bool:
    """Whether Keras finds a class by its name: it was registered, or Keras imports its module.

    >>> is_registered(keras.layers.Dense)
    True
    """
    imported = kind.__module__.split(".")[0] in _IMPORTED
    # Keras gives a class that was registered the name 'package>Name'.
    return imported or ">" in keras.saving.get_registered_name(kind)


def is_followed(operation: Operation) -> bool:
    """Whether it is a layer whose code is to be gone through."""
    known = is_subclassed(operation) or is_registered(type(operation))
    return known and is_composite(operation)


def open_layer(
    node: Node, arguments: Sequence[object], keywords: Mapping[str, object]
) -> Calls | str:
    """What a layer does in a call, call by call; why not, where that cannot be seen.

    Args:
        node: Keras's note of the call.
        arguments: with values or tensors in the places of tensors.
        keywords: likewise.
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
        # What is found at one number of steps is looked up at every other.
        return "how many steps it goes is open; give its Input their number"
    specs = map_structure(_spec_of, [list(arguments), dict(keywords)])
    if accepts_training(layer):
        specs[1]["training"] = False
    before = len(losses_of(layer))
    inside, beside = _parts(layer)
    is_masked = any(mask_of(tensor) is not None for tensor in (*node.input_tensors, *node.outputs))
    if is_masked and (why := _why_mask_is_lost(layer, inside, beside)):
        return why
    seen = calls_in(layer.call, specs[0], specs[1], [layer], inside, beside, is_masked)
    added = losses_of(layer)[before:]
    del losses_of(layer)[before:]
    given = [item for item in flatten(specs) if isinstance(item, keras.KerasTensor)]
    if isinstance(seen, str):
        return seen
    if added or len(given) != len(seen.inputs):
        return "its code adds losses" if added else "its code is given tensors in other structures"
    expected = [tuple(tensor.shape) for tensor in node.outputs]
    received = [tuple(tensor.shape) for tensor in flatten(seen.outputs)]
    if not _fit(expected, received):
        return "its code gives other shapes than it says"
    whole = {id(inner): NOT_REGISTERED for inner in beside if is_composite(inner)}
    return replace(seen, closed={**seen.closed, **whole})


def _why_mask_is_lost(layer: Layer, inside: Sequence[Layer], beside: Sequence[Layer]) -> str:
    """Why a mask would not go where Keras lets it go, or '': then the code is not followed."""
    if layer.compute_dtype != layer.variable_dtype:
        # Keras drops a mask where it casts, and whether it does follows the types it foretells.
        return "a mask of padding goes through its code, which computes in another type"
    if any(inner.supports_masking for inner in inside) and any(map(accepts_mask, beside)):
        return "a mask of padding goes through its code to layers inside, which is not followed"
    return ""


def _parts(layer: Layer) -> tuple[list[Layer], list[Layer]]:
    """The layers inside whose code is to be gone through, and the others that may be called.

    What is inside a layer that stays whole is for that layer's code alone. A subclassed model's
    layers are mostly classes of the same file, made again by the same code as the model: all of
    them are gone through, registered or not.
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
    """A tensor without data in the place of a value or a tensor; anything else as it is."""
    spec = getattr(item, "spec", None)
    if isinstance(spec, keras.KerasTensor):
        return spec
    if isinstance(item, keras.KerasTensor):
        return keras.KerasTensor(item.shape, dtype=item.dtype)
    if is_tensor(item):
        return keras.KerasTensor(tuple(item.shape), dtype=item.dtype)
    return item


def _fit(expected: Sequence[Sequence[int | None]], received: Sequence[Sequence[int]]) -> bool:
    """Whether results have the shapes that the layer was noted to give."""
    return len(expected) == len(received) and all(
        len(want) == len(have) and all(w in (None, h) for w, h in zip(want, have, strict=True))
        for want, have in zip(expected, received, strict=True)
    )


def tensors_in(arguments: Sequence[object], keywords: Mapping[str, object]) -> list[object]:
    """The values or tensors of a call, in the order of ``Calls.inputs``."""
    flat = flatten([list(arguments), dict(keywords)])
    return [item for item in flat if _spec_of(item) is not item]


def paths_inside(layer: Layer, path: str) -> Iterator[tuple[Layer, str]]:
    """(layer, path) of everything inside a layer."""
    for name, child in named_children(layer):
        inner_path = path_below(path, name)
        yield child, inner_path
        yield from paths_inside(child, inner_path)
