"""Interpreter of a model's graph: run it as a numbered sequence of calls.

The trace, the small model's run and the masked twin all walk through the same graph. This module
numbers its calls, so that what one of them records by number can be used by the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.keras.internals import (
    NOT_PLAIN,
    Layer,
    Operation,
    accepts_training,
    call_plainly,
    graph_of,
    is_model,
    mask_of,
    name_in,
    nodes_of,
    set_mask,
)
from secateurs.keras.model.layer_tree import path_below, snake_case
from secateurs.keras.model.nested import fill_in, flatten
from secateurs.keras.protocols import BackendTensor, Node
from secateurs.keras.tracing.composites import open_layer, paths_inside, tensors_in
from secateurs.keras.tracing.symbolic import Calls, Enter


@dataclass(frozen=True, slots=True)
class CallSite:
    """One call in the graph.

    Attributes:
        index: its number.
        path: dotted path of the layer or operation, 'encoder.conv1'.
        operation: the layer or operation.
        inside: layer whose code makes the call; None in a model's own graph.
        closed: why the code of a layer without a rule is not traced.
        written: whether the operation is created by that code on each run, with its sizes; False
            for a sublayer, which keeps its own configuration.
        place: index of the call among those that this code makes.
    """

    index: int
    path: str
    operation: Operation
    inside: Layer | None = None
    closed: str = ""
    written: bool = False
    place: int = 0


RunStep = Callable[[CallSite, Sequence[object], dict[str, object]], object]
"""Function (call site, arguments, keywords) -> output: a tensor or a stand-in, or a nested
structure of them."""

T = TypeVar("T")
"""Type of what is passed through the graph: tensors, or anything else that ``step`` accepts."""


class OpInterpreter:
    """Numbers the calls of a graph and hands each to ``step``; nested models are entered."""

    def __init__(self, step: RunStep) -> None:
        self._step = step
        self._index = -1
        self._paths: dict[int, str] = {}

    def run(self, model: keras.Model, inputs: Sequence[T]) -> list[T]:
        """Run the model; return its outputs, flat, in the order of ``model.outputs``.

        Args:
            model: model with a graph.
            inputs: flat list in the order of ``model.inputs``, of any type that ``step`` accepts.
        """
        # The step is responsible for outputs of the same type as the inputs.
        return cast("list[T]", self._through(model, "", inputs))

    def _through(self, model: keras.Model, prefix: str, inputs: Sequence[object]) -> list[object]:
        graph = graph_of(model)
        known = {id(tensor): value for tensor, value in zip(graph.inputs, inputs, strict=True)}
        for node in nodes_of(graph):
            arguments, keywords = fill_in(node, known)
            path = prefix + name_in(model, node.operation)
            results = self._call(node, path, arguments, keywords)
            known.update(
                (id(tensor), value) for tensor, value in zip(node.outputs, results, strict=True)
            )
        return [known[id(tensor)] for tensor in graph.outputs]

    def _call(
        self, node: Node, path: str, arguments: Sequence[object], keywords: dict[str, object]
    ) -> list[object]:
        """Run a node: a composite layer or nested model call by call, anything else as one step."""
        operation = node.operation
        seen = open_layer(node, arguments, keywords)
        if isinstance(seen, Calls):
            known_path = self._paths.setdefault(id(operation), path)
            return self._through_calls(operation, known_path, seen, tensors_in(arguments, keywords))
        if is_model(operation):
            inner = inputs_of(operation, [*arguments, *keywords.values()][0])
            return self._through(operation, f"{path}.", inner)
        # A layer shared with a nested model is called by the first path it is reached on.
        path = self._paths.setdefault(id(operation), path)
        return self._run_step(
            CallSite(self._index + 1, path, operation, None, seen), arguments, keywords
        )

    def _run_step(
        self, site: CallSite, arguments: Sequence[object], keywords: dict[str, object]
    ) -> list[object]:
        self._index = site.index
        results = self._step(site, arguments, keywords)
        return list(flatten(results))

    def _through_calls(
        self, layer: Layer, path: str, seen: Calls, tensors: Sequence[object]
    ) -> list[object]:
        """Run the calls that a layer's code makes, including those in its sublayers."""
        begin = self._index + 1
        paths = {id(inner): inner_path for inner, inner_path in paths_inside(layer, path)}

        def call(node: Node, arguments: Sequence[object], keywords: dict[str, object]) -> object:
            operation = node.operation
            unnamed = path_below(path, snake_case(type(operation).__name__))
            enters = isinstance(operation, Enter)
            if enters:
                unnamed = path_below(paths[id(operation.model)], "input")
            inner_path = paths.get(id(operation), unnamed)
            closed = seen.closed.get(id(operation), "")
            written = not enters and id(operation) not in paths
            number = self._index + 1
            site = CallSite(number, inner_path, operation, layer, closed, written, number - begin)
            return self._run_step(site, arguments, keywords)

        def enter(inner: Layer, given: list[object], made: list[object]) -> None:
            self.note_layer(paths[id(inner)], given, made)

        results = list(flatten(seen.run(tensors, call, enter)))
        self.note_layer(path, list(tensors), results)
        return results

    def note_layer(self, path: str, given: list[object], made: list[object]) -> None:
        """Hook: a layer was run call by call, with these inputs and outputs (flat lists)."""


def inputs_of(model: keras.Model, given: object) -> list[object]:
    """Flatten the argument of a model's call, in the order of the model's inputs."""
    inputs = graph_of(model).inputs
    if isinstance(given, Mapping):
        names = [tensor.name for tensor in inputs]
        if set(names) <= set(given):
            return [given[name] for name in names]
    return list(flatten(given))


def call_layer(
    operation: Operation, arguments: Sequence[object], keywords: Mapping[str, object]
) -> object:
    """Call an operation on real tensors, in inference mode."""
    options = inference_options(operation, keywords)
    given = call_plainly(operation, arguments, options)
    return operation(*arguments, **options) if given is NOT_PLAIN else given


def inference_options(operation: Operation, keywords: Mapping[str, object]) -> dict[str, object]:
    """Return the keyword arguments of a call in inference mode."""
    options = dict(keywords)
    if accepts_training(operation):
        options["training"] = False
    return options


def first_tensor(arguments: Sequence[object], keywords: Mapping[str, object]) -> BackendTensor:
    """Return the first tensor among the arguments of a call."""
    tensor: BackendTensor = flatten([list(arguments), dict(keywords)])[0]
    return tensor


def as_it_is(site: CallSite, arguments: Sequence[object], keywords: dict[str, object]) -> object:
    """Step function that runs each call unchanged."""
    return call_layer(site.operation, arguments, keywords)


def convert_arrays(
    model: keras.Model, arrays: Sequence[NDArray[np.generic] | BackendTensor]
) -> list[BackendTensor]:
    """Convert arrays to tensors of the dtypes of the model's inputs."""
    tensors: list[BackendTensor] = []
    for array, like in zip(arrays, graph_of(model).inputs, strict=True):
        tensor = keras.ops.convert_to_tensor(array, dtype=like.dtype)
        set_mask(tensor, mask_of(array))
        tensors.append(tensor)
    return tensors
