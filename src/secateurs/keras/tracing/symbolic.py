"""What code does to tensors, found by running it on tensors without data.

Keras notes every call of a layer or an operation of ``keras.ops`` on such tensors. So the code of a
layer's ``call``, or of an activation function, becomes a list of calls that can be followed, and
run on real tensors, one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from secateurs.keras.internals import forget_node_, inbound_node_of


@dataclass(frozen=True, eq=False, slots=True)
class Calls:
    """What code does, call by call.

    Attributes:
        inputs: the tensors without data that it was given.
        nodes: Keras's notes of its calls, each behind those that it depends on.
        outputs: what it gave, in its own structure.
    """

    inputs: Sequence[Any]
    nodes: Sequence[Any]
    outputs: Any

    def run(
        self, tensors: Sequence[Any], call: Callable[[Any, Sequence[Any], dict[str, Any]], Any]
    ) -> Any:
        """Go through the calls.

        Args:
            tensors: in the places of ``inputs``.
            call: (Keras's note of the call, arguments, keywords) -> what it gives.

        Returns:
            What is in the places of ``outputs``, in their structure.
        """
        known = {id(old): new for old, new in zip(self.inputs, tensors, strict=True)}
        for node in self.nodes:
            arguments, keywords = node.arguments.fill_in(known)
            results = keras.tree.flatten(call(node, arguments, keywords))
            known.update((id(old), new) for old, new in zip(node.outputs, results, strict=True))
        return keras.tree.map_structure(lambda tensor: known[id(tensor)], self.outputs)


def calls_in(
    function: Callable[..., Any], arguments: Sequence[Any], keywords: Mapping[str, Any]
) -> Calls | str:
    """The calls that code makes; why not, where they cannot all be seen.

    Args:
        function: the code.
        arguments: with ``keras.KerasTensor`` in the places of tensors, of known shapes.
        keywords: likewise.
    """
    fresh: dict[int, Any] = {}

    def own(item: Any) -> Any:
        if not isinstance(item, keras.KerasTensor):
            return item
        # Two operands that are one tensor stay one.
        if id(item) not in fresh:
            fresh[id(item)] = keras.KerasTensor(item.shape, dtype=item.dtype)
        return fresh[id(item)]

    given, options = keras.tree.map_structure(own, (list(arguments), dict(keywords)))
    inputs = [x for x in keras.tree.flatten((given, options)) if isinstance(x, keras.KerasTensor)]
    scope = keras.StatelessScope()
    try:
        with scope:
            outputs = function(*given, **options)
    except Exception as error:  # noqa: BLE001 - whatever it says of tensors without data
        said = (str(error).strip().splitlines() or [""])[0][:100]
        return f"its code takes no tensors without data ({type(error).__name__}: {said})"
    return _noted(inputs, outputs, scope)


def _noted(inputs: Sequence[Any], outputs: Any, scope: Any) -> Calls | str:
    flat = keras.tree.flatten(outputs)
    if not flat or not all(isinstance(tensor, keras.KerasTensor) for tensor in flat):
        return "its code gives something else than tensors that depend on what it is given"
    nodes: list[Any] = []
    seen = {id(tensor) for tensor in inputs}
    complete = all(_collect_(tensor, seen, nodes) for tensor in flat)
    for node in reversed(nodes):
        forget_node_(node)
    if scope.state_mapping:
        return "its code writes to its own state"
    if not complete:
        return "its code uses tensors that it was not given"
    return Calls(inputs, nodes, outputs)


def _collect_(tensor: Any, seen: set[int], nodes: list[Any]) -> bool:
    """Add the calls behind a tensor, first those that they depend on; False where one is unknown.

    Without recursion, as long chains of calls are common.
    """
    waiting = [(tensor, False)]
    while waiting:
        current, done = waiting.pop()
        if id(current) in seen and not done:
            continue
        node = inbound_node_of(current)
        if node is None:
            return False
        if done:
            if node not in nodes:
                nodes.append(node)
            continue
        seen.update(id(output) for output in node.outputs)
        waiting.append((current, True))
        waiting += [(before, False) for before in reversed(node.input_tensors)]
    return True
