"""What code does to tensors, found by running it on tensors without data.

Keras notes every call of a layer or an operation of ``keras.ops`` on such tensors. So the code of a
layer's ``call``, or of an activation function, becomes a list of calls that can be followed, and
run on real tensors, one by one. Layers inside that only their own code says something of are gone
through likewise; weights that the code uses itself are tensors without data too, meanwhile.

All this holds in the thread that records alone: in any other the same layers answer as ever. Two
recordings wait for each other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import keras

from secateurs.keras.internals import (
    Layer,
    Operation,
    Variable,
    accepts_mask,
    accepts_training,
    forget_node_,
    inbound_node_of,
    infer,
    is_model,
    is_tensor,
    reads_in_another_type,
)
from secateurs.keras.model.code_errors import explain
from secateurs.keras.model.layer_tree import named_own_variables
from secateurs.keras.model.nested import flatten, map_structure
from secateurs.keras.protocols import BackendTensor, Node

T = TypeVar("T")

RECORDING = threading.RLock()
"""Held while layers are of other classes than their own."""


Entered = tuple[Layer, list[keras.KerasTensor], list[keras.KerasTensor]]
"""(layer, the tensors that its code was given, those that it gave), without data."""


@dataclass(frozen=True, eq=False, slots=True)
class Calls:
    """What code does, call by call.

    Attributes:
        inputs: the tensors without data that it was given.
        weights: those that stood for weights of its own, or for constants that a layer inside is
            called on, each with the weight or constant.
        nodes: Keras's notes of its calls, each behind those that it depends on.
        outputs: what it gave, in its own structure.
        closed: layer inside (by ``id``) -> why it was not gone through.
        entered: (layer inside that was gone through, what it was given, what it gave).
    """

    inputs: Sequence[keras.KerasTensor]
    weights: Sequence[tuple[keras.KerasTensor, Variable | BackendTensor]]
    nodes: Sequence[Node]
    outputs: object
    closed: Mapping[int, str]
    entered: Sequence[Entered] = ()

    def run(
        self,
        tensors: Sequence[object],
        call: Callable[[Node, Sequence[object], dict[str, object]], object],
        enter: Callable[[Layer, list[object], list[object]], None] | None = None,
    ) -> object:
        """Go through the calls.

        Args:
            tensors: in the places of ``inputs``.
            call: (Keras's note of the call, arguments, keywords) -> what it gives.
            enter: is told of each layer inside that was gone through, with what is in the places
                of what it was given and gave.

        Returns:
            What is in the places of ``outputs``, in their structure.
        """
        known = {id(old): new for old, new in zip(self.inputs, tensors, strict=True)}
        known |= {id(stands_for): variable for stands_for, variable in self.weights}
        for node in self.nodes:
            arguments, keywords = node.arguments.fill_in(known)
            results = flatten(call(node, arguments, keywords))
            known.update((id(old), new) for old, new in zip(node.outputs, results, strict=True))
        for layer, given, made in self.entered if enter is not None else ():
            both = ([known.get(id(tensor)) for tensor in tensors] for tensors in (given, made))
            enter(layer, *both)  # type: ignore[misc]
        outputs: object = map_structure(lambda x: known.get(id(x), x), self.outputs)
        return outputs


@dataclass(eq=False, slots=True)
class _Recording:
    """What is set aside while code runs on tensors without data."""

    is_masked: bool = False
    weights: list[tuple[keras.KerasTensor, Variable | BackendTensor]] = field(default_factory=list)
    closed: dict[int, str] = field(default_factory=dict)
    entered: list[Entered] = field(default_factory=list)
    thread: int = field(default_factory=threading.get_ident)

    def is_here(self) -> bool:
        """Whether this is the thread that records."""
        return threading.get_ident() == self.thread


def calls_in(
    function: Callable[..., object],
    arguments: Sequence[object],
    keywords: Mapping[str, object],
    owners: Sequence[Layer] = (),
    inside: Sequence[Layer] = (),
    beside: Sequence[Layer] = (),
    is_masked: bool = False,
) -> Calls | str:
    """The calls that code makes; why not, where they cannot all be seen.

    Args:
        function: the code.
        arguments: with ``keras.KerasTensor`` in the places of tensors, of known shapes.
        keywords: likewise.
        owners: the layers whose code this is.
        inside: layers to go through too.
        beside: the other layers that it calls.
        is_masked: whether a mask of padding travels with a tensor.
    """
    fresh: dict[int, keras.KerasTensor] = {}

    def renew(item: object) -> object:
        if not isinstance(item, keras.KerasTensor):
            return item
        # Two operands that are one tensor stay one.
        if id(item) not in fresh:
            fresh[id(item)] = keras.KerasTensor(item.shape, dtype=item.dtype)
        return fresh[id(item)]

    given, options = map_structure(renew, (list(arguments), dict(keywords)))
    inputs = [x for x in flatten((given, options)) if isinstance(x, keras.KerasTensor)]
    scope, recording = keras.StatelessScope(), _Recording(is_masked)
    try:
        with ExitStack() as stack:
            stack.enter_context(RECORDING)
            stack.enter_context(scope)
            for layer in inside:
                stack.enter_context(_run_code_of(layer, recording))
            for layer in beside:
                stack.enter_context(_infer_in_full(layer, recording))
            for layer in (*owners, *inside):
                stack.enter_context(_hide_weights(layer, recording))
            if owners:
                given, options = cast_inputs(owners[0], given, options)
            outputs = function(*given, **options)
    except Exception as error:  # noqa: BLE001 - whatever it says of tensors without data
        return explain(error)
    return _collect_calls(inputs, outputs, scope, recording)


class Enter(Operation):  # type: ignore[misc]
    """What is handed to a model inside a layer, as it is.

    The model's inputs have sizes of their own, which follow what it is called on when it is made
    again.

    Args:
        model: that it is handed to.
        number: which of the model's inputs it is.
    """

    def __init__(self, model: keras.Model, number: int) -> None:
        super().__init__()
        self.model = model
        self.number = number

    def call(self, x: T) -> T:
        """The tensor itself."""
        return x

    def compute_output_spec(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """Its shape and type."""
        return keras.KerasTensor(x.shape, dtype=x.dtype)


@contextmanager
def _run_code_of(layer: Layer, recording: _Recording) -> Iterator[None]:
    """Let calls of this one layer run its code, where they would be noted as one call.

    Python looks ``__call__`` up on the class, so the object has another class for a while.
    """
    kind = type(layer)

    def run_its_code(self: Layer, *arguments: object, **keywords: object) -> object:
        if not recording.is_here():
            return kind.__call__(self, *arguments, **keywords)
        options = dict(keywords)
        if accepts_training(self) and options.get("training") is None:
            options["training"] = False
        if recording.is_masked and accepts_mask(self) and "mask" not in keywords:
            recording.closed[id(self)] = "it finds a mask of padding on what it is given"
            return kind.__call__(self, *arguments, **keywords)
        try:
            given, options = cast_inputs(self, arguments, options)
            made = self.call(*given, **options)
            recording.entered.append((self, _specs_in((arguments, keywords)), _specs_in(made)))
            return made
        except Exception as error:  # noqa: BLE001 - as above; the layer stays one call then
            recording.closed[id(self)] = explain(error)
            return kind.__call__(self, *arguments, **keywords)

    def enter(self: keras.Model, inputs: object, *arguments: object, **keywords: object) -> object:
        if not recording.is_here():
            return kind.call(self, inputs, *arguments, **keywords)
        flat = flatten(inputs)
        handed = [Enter(layer, number)(one) for number, one in enumerate(flat)]
        entered = keras.tree.pack_sequence_as(inputs, handed)
        # Told of training, the graph would tell layers too that do not ask.
        options = {key: value for key, value in keywords.items() if key != "training"}
        return kind.call(self, entered, None, *arguments[1:], **options)

    # A wrapper calls the ``call`` of what it wraps, so a model's is where its graph begins.
    methods = {"call": enter} if is_model(layer) else {}
    with _override_methods(layer, {"__call__": run_its_code, **methods}):
        yield


@contextmanager
def _infer_in_full(layer: Layer, recording: _Recording) -> Iterator[None]:
    """Let a layer tell its shapes in full, where it leaves lengths open by its configuration.

    What it gives of constants alone (an embedding of all positions) has its channels too, so they
    are tensors without data for it.
    """
    kind = type(layer)

    def take_constants(self: Layer, *arguments: object, **keywords: object) -> object:
        given = flatten([arguments, keywords])
        if (
            not recording.is_here()
            or not self.variables
            or any(isinstance(item, keras.KerasTensor) for item in given)
        ):
            return kind.__call__(self, *arguments, **keywords)

        def stand_in(item: object) -> object:
            if not is_tensor(item):
                return item
            kept = keras.KerasTensor(
                tuple(item.shape), dtype=keras.backend.standardize_dtype(item.dtype)
            )
            recording.weights.append((kept, item))
            return kept

        return kind.__call__(self, *map_structure(stand_in, arguments), **keywords)

    def tell_in_full(self: Layer, *arguments: object, **keywords: object) -> object:
        made = kind.compute_output_spec(self, *arguments, **keywords)
        given = flatten([arguments, keywords])
        specs = [x for x in given if isinstance(x, keras.KerasTensor)]
        open_ones = any(None in spec.shape for spec in flatten(made))
        if open_ones and not any(None in spec.shape for spec in specs):
            return infer(self, *arguments, **keywords)
        return made

    methods = {"compute_output_spec": tell_in_full, "__call__": take_constants}
    with _override_methods(layer, methods):
        yield


@contextmanager
def _override_methods(layer: Layer, methods: Mapping[str, object]) -> Iterator[None]:
    """Let one layer have other methods for a while."""
    kind = type(layer)
    overriding = type(kind.__name__, (kind,), {**methods, "__module__": kind.__module__})
    object.__setattr__(layer, "__class__", overriding)
    try:
        yield
    finally:
        object.__setattr__(layer, "__class__", kind)


@contextmanager
def _hide_weights(layer: Layer, recording: _Recording) -> Iterator[None]:
    """Let a layer's own weights be tensors without data for a while.

    A property comes before what the object itself holds, which stays where it is.
    """
    names = {id(value): name for name, value in vars(layer).items() if isinstance(value, Variable)}
    properties: dict[str, property] = {}
    for _, variable, _ in named_own_variables(layer):
        if (name := names.get(id(variable))) is not None:
            stands_for = keras.KerasTensor(tuple(variable.shape), dtype=variable.dtype)
            recording.weights.append((stands_for, variable))
            properties[name] = _stand_in(layer, stands_for, variable, recording)
    with _override_methods(layer, properties):
        yield


def _stand_in(
    layer: Layer, stands_for: keras.KerasTensor, variable: Variable, recording: _Recording
) -> property:
    def read(_: Layer) -> object:
        if not recording.is_here():
            return variable
        is_cast = reads_in_another_type(layer, variable)
        return keras.ops.cast(stands_for, layer.compute_dtype) if is_cast else stands_for

    return property(read)


def cast_inputs(
    layer: Layer, arguments: Sequence[object], keywords: Mapping[str, object]
) -> tuple[list[object], dict[str, object]]:
    """What a layer is called on, in the type that it computes in, as Keras gives it to its code."""

    def cast(item: object) -> object:
        if not isinstance(item, keras.KerasTensor) or "float" not in item.dtype:
            return item
        # Of mixed types always: a type foretold may be another, and calls are known by number.
        is_mixed = layer.compute_dtype != layer.variable_dtype
        if not layer.autocast or (item.dtype == layer.compute_dtype and not is_mixed):
            return item
        return keras.ops.cast(item, layer.compute_dtype)

    given, options = map_structure(cast, (list(arguments), dict(keywords)))
    return given, options


def _collect_calls(
    inputs: Sequence[keras.KerasTensor],
    outputs: object,
    scope: keras.StatelessScope,
    recording: _Recording,
) -> Calls | str:
    flat = flatten(outputs)
    made = [tensor for tensor in flat if isinstance(tensor, keras.KerasTensor)]
    if not made or not all(is_tensor(x) or isinstance(x, keras.KerasTensor) for x in flat):
        return "its code gives something else than tensors that depend on what it is given"
    nodes: list[Node] = []
    begin = [*inputs, *(stands_for for stands_for, _ in recording.weights)]
    seen = {id(tensor) for tensor in begin}
    found = [_collect_(tensor, seen, nodes) for tensor in made]
    for node in reversed(nodes):
        forget_node_(node)
    if scope.state_mapping:
        return "its code writes to its own state"
    if not all(found):
        return "its code uses tensors that it was not given"
    entered = recording.entered
    return Calls(inputs, recording.weights, nodes, outputs, recording.closed, entered)


def _specs_in(structure: object) -> list[keras.KerasTensor]:
    return [item for item in flatten(structure) if isinstance(item, keras.KerasTensor)]


def _collect_(tensor: keras.KerasTensor, seen: set[int], nodes: list[Node]) -> bool:
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
            nodes.append(node)
            continue
        seen.update(id(output) for output in node.outputs)
        waiting.append((current, True))
        waiting += [(before, False) for before in reversed(node.input_tensors)]
    return True
