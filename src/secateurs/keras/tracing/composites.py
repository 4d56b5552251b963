"""Layers without a rule of their own, whose code is gone through call by call.

A layer of the user's, or of a library's, that is made of other layers and of operations of
``keras.ops`` needs no rule: its ``call`` is run on tensors without data, and what it does is
followed like any graph. It stays one layer where something in it cannot be seen: code of the
backend's own, a state that it writes, a mask, another precision inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from secateurs.keras.internals import (
    Layer,
    accepts_training,
    is_model,
    is_quantized,
    losses_of,
    mask_of,
)
from secateurs.keras.model.layer_tree import named_children, path_below
from secateurs.keras.tracing.rule_table import rule_for
from secateurs.keras.tracing.symbolic import Calls, calls_in


def is_composite(operation: Any) -> bool:
    """Whether it is a layer that only its own code says something of."""
    return (
        isinstance(operation, Layer)
        and not is_model(operation)
        and not isinstance(operation, keras.Model)
        and not is_quantized(operation)
        and rule_for(type(operation)) is None
    )


def opened(node: Any, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Calls | str:
    """What a layer does in a call, call by call; why not, where that cannot be seen.

    Args:
        node: Keras's note of the call.
        arguments: with values or tensors in the places of tensors.
        keywords: likewise.
    """
    layer = node.operation
    if not is_composite(layer):
        return ""
    if layer.compute_dtype != layer.variable_dtype:
        return f"its code computes in {layer.compute_dtype} with weights in {layer.variable_dtype}"
    if any(mask_of(tensor) is not None for tensor in (*node.input_tensors, *node.outputs)):
        return "a mask of padding goes through its code, which is not followed"
    specs = keras.tree.map_structure(_spec_of, [list(arguments), dict(keywords)])
    if accepts_training(layer):
        specs[1]["training"] = False
    before = len(losses_of(layer))
    parts = {id(inner): inner for inner, _ in paths_inside(layer, "")}.values()
    inside = [inner for inner in parts if is_composite(inner)]
    beside = [inner for inner in parts if not is_composite(inner)]
    seen = calls_in(layer.call, specs[0], specs[1], [layer], inside, beside)
    added = losses_of(layer)[before:]
    del losses_of(layer)[before:]
    given = [item for item in keras.tree.flatten(specs) if isinstance(item, keras.KerasTensor)]
    if isinstance(seen, str):
        return seen
    if added or len(given) != len(seen.inputs):
        return "its code adds losses" if added else "its code is given tensors in other structures"
    expected = [tuple(tensor.shape) for tensor in node.outputs]
    received = [tuple(tensor.shape) for tensor in keras.tree.flatten(seen.outputs)]
    return seen if _fit(expected, received) else "its code gives other shapes than it says"


def _spec_of(item: Any) -> Any:
    if isinstance(getattr(item, "spec", None), keras.KerasTensor):
        return item.spec
    if isinstance(item, keras.KerasTensor):
        return keras.KerasTensor(item.shape, dtype=item.dtype)
    if keras.ops.is_tensor(item):
        return keras.KerasTensor(tuple(item.shape), dtype=item.dtype)
    return item


def _fit(expected: Sequence[Sequence[int | None]], received: Sequence[Sequence[int]]) -> bool:
    """Whether results have the shapes that the layer was noted to give."""
    return len(expected) == len(received) and all(
        len(want) == len(have) and all(w in (None, h) for w, h in zip(want, have, strict=True))
        for want, have in zip(expected, received, strict=True)
    )


def tensors_in(arguments: Sequence[Any], keywords: Mapping[str, Any]) -> list[Any]:
    """The values or tensors of a call, in the order of ``Calls.inputs``."""
    flat = keras.tree.flatten([list(arguments), dict(keywords)])
    return [item for item in flat if _spec_of(item) is not item]


def paths_inside(layer: Any, path: str) -> Iterator[tuple[Any, str]]:
    """(layer, path) of everything inside a layer."""
    for name, child in named_children(layer):
        own = path_below(path, name)
        yield child, own
        yield from paths_inside(child, own)
