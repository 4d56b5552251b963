"""Record what code does by running it on symbolic tensors: shapes and dtypes without data.

Keras records every call of a layer or of a ``keras.ops`` operation on such tensors. The code of a
layer's ``call``, or of an activation function, thus becomes a list of calls that can be traced, and
replayed on real tensors, one by one. Composite sublayers are recorded likewise; while recording,
weights that the code uses directly are symbolic tensors too.

Layers change their class while they are recorded. That affects only the recording thread: in other
threads the same layers work as usual. A lock allows one recording at a time.
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
"""Lock held while layers have a recording class in place of their own."""


Entered = tuple[Layer, list[keras.KerasTensor], list[keras.KerasTensor]]
"""(layer, symbolic inputs of its code, symbolic outputs)."""


@dataclass(frozen=True, eq=False, slots=True)
class Calls:
    """A recording of code as a sequence of calls.

    Attributes:
        inputs: symbolic tensors that the code was run on.
        weights: (placeholder, weight or constant) for each weight that the code uses directly, and
            each constant that a sublayer is called on.
        nodes: Keras's records of the calls, in topological order.
        outputs: symbolic outputs, in the structure in which the code returns them.
        closed: ``id`` of a sublayer -> why its code was not recorded.
        entered: (sublayer whose code was recorded, its inputs, its outputs).
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
        """Replay the calls.

        Args:
            tensors: inputs, in the order of ``inputs``.
            call: function (Keras's record of the call, arguments, keywords) -> output.
            enter: called at the end with each recorded sublayer, its inputs and its outputs.

        Returns:
            The outputs, in the structure of ``outputs``.
        """
        known = {id(old): new for old, new in zip(self.inputs, tensors, strict=True)}
        known |= {id(placeholder): variable for placeholder, variable in self.weights}
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
    """State of a recording in progress."""

    is_masked: bool = False
    weights: list[tuple[keras.KerasTensor, Variable | BackendTensor]] = field(default_factory=list)
    closed: dict[int, str] = field(default_factory=dict)
    entered: list[Entered] = field(default_factory=list)
    thread: int = field(default_factory=threading.get_ident)

    def is_here(self) -> bool:
        """Return whether this is the recording thread."""
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
    """Record the calls that code makes; return the reason where they cannot all be recorded.

    Args:
        function: code to record.
        arguments: arguments with ``keras.KerasTensor`` of known shapes in place of tensors.
        keywords: keyword arguments, likewise.
        owners: layers that the code belongs to.
        inside: sublayers whose code is recorded too.
        beside: other layers that the code calls.
        is_masked: whether a padding mask is attached to a tensor.
    """
    fresh: dict[int, keras.KerasTensor] = {}

    def renew(item: object) -> object:
        if not isinstance(item, keras.KerasTensor):
            return item
        # A tensor that occurs twice has one replacement.
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
                stack.enter_context(_record_code_of(layer, recording))
            for layer in beside:
                stack.enter_context(_infer_fully(layer, recording))
            for layer in (*owners, *inside):
                stack.enter_context(_hide_weights(layer, recording))
            if owners:
                given, options = cast_inputs(owners[0], given, options)
            outputs = function(*given, **options)
    except Exception as error:  # noqa: BLE001 - user code may raise anything on such tensors
        return explain(error)
    return _collect_calls(inputs, outputs, scope, recording)


class Enter(Operation):  # type: ignore[misc]
    """Identity operation on each input of a model nested in a layer.

    It marks where the nested model's input sizes follow the tensor that it is called on, so that
    surgery can rebuild the model with other input sizes.

    Args:
        model: the nested model.
        number: position of the input.
    """

    def __init__(self, model: keras.Model, number: int) -> None:
        super().__init__()
        self.model = model
        self.number = number

    def call(self, x: T) -> T:
        """Return the tensor unchanged."""
        return x

    def compute_output_spec(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """Return a symbolic tensor of the same shape and dtype."""
        return keras.KerasTensor(x.shape, dtype=x.dtype)


@contextmanager
def _record_code_of(layer: Layer, recording: _Recording) -> Iterator[None]:
    """Make calls of this layer run its code, instead of being recorded as a single call.

    Python looks ``__call__`` up on the class, so the layer temporarily gets another class.
    """
    kind = type(layer)

    def run_its_code(self: Layer, *arguments: object, **keywords: object) -> object:
        if not recording.is_here():
            return kind.__call__(self, *arguments, **keywords)
        options = dict(keywords)
        if accepts_training(self) and options.get("training") is None:
            options["training"] = False
        if recording.is_masked and accepts_mask(self) and "mask" not in keywords:
            recording.closed[id(self)] = "its input has a padding mask"
            return kind.__call__(self, *arguments, **keywords)
        try:
            given, options = cast_inputs(self, arguments, options)
            made = self.call(*given, **options)
            recording.entered.append((self, _specs_in((arguments, keywords)), _specs_in(made)))
            return made
        except Exception as error:  # noqa: BLE001 - as above; the layer is one call then
            recording.closed[id(self)] = explain(error)
            return kind.__call__(self, *arguments, **keywords)

    def enter(self: keras.Model, inputs: object, *arguments: object, **keywords: object) -> object:
        if not recording.is_here():
            return kind.call(self, inputs, *arguments, **keywords)
        flat = flatten(inputs)
        handed = [Enter(layer, number)(one) for number, one in enumerate(flat)]
        entered = keras.tree.pack_sequence_as(inputs, handed)
        # With ``training``, the graph would pass it to layers that do not accept it.
        options = {key: value for key, value in keywords.items() if key != "training"}
        return kind.call(self, entered, None, *arguments[1:], **options)

    # A wrapper calls ``call`` of the model that it wraps, so the graph is entered there.
    methods = {"call": enter} if is_model(layer) else {}
    with _override_methods(layer, {"__call__": run_its_code, **methods}):
        yield


@contextmanager
def _infer_fully(layer: Layer, recording: _Recording) -> Iterator[None]:
    """Make a layer infer complete shapes where its own shape inference leaves lengths open.

    A call on constants alone (an embedding of all positions) yields channels too, so its constants
    are replaced by symbolic tensors.
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

        def replace_constant(item: object) -> object:
            if not is_tensor(item):
                return item
            placeholder = keras.KerasTensor(
                tuple(item.shape), dtype=keras.backend.standardize_dtype(item.dtype)
            )
            recording.weights.append((placeholder, item))
            return placeholder

        return kind.__call__(self, *map_structure(replace_constant, arguments), **keywords)

    def infer_fully(self: Layer, *arguments: object, **keywords: object) -> object:
        made = kind.compute_output_spec(self, *arguments, **keywords)
        given = flatten([arguments, keywords])
        specs = [x for x in given if isinstance(x, keras.KerasTensor)]
        is_open = any(None in spec.shape for spec in flatten(made))
        if is_open and not any(None in spec.shape for spec in specs):
            return infer(self, *arguments, **keywords)
        return made

    methods = {"compute_output_spec": infer_fully, "__call__": take_constants}
    with _override_methods(layer, methods):
        yield


@contextmanager
def _override_methods(layer: Layer, methods: Mapping[str, object]) -> Iterator[None]:
    """Temporarily override methods and properties of a single layer."""
    kind = type(layer)
    overriding = type(kind.__name__, (kind,), {**methods, "__module__": kind.__module__})
    object.__setattr__(layer, "__class__", overriding)
    try:
        yield
    finally:
        object.__setattr__(layer, "__class__", kind)


@contextmanager
def _hide_weights(layer: Layer, recording: _Recording) -> Iterator[None]:
    """Temporarily replace a layer's own weights by symbolic tensors.

    A property of the class takes precedence over the attribute, which is left in place.
    """
    names = {id(value): name for name, value in vars(layer).items() if isinstance(value, Variable)}
    properties: dict[str, property] = {}
    for _, variable, _ in named_own_variables(layer):
        if (name := names.get(id(variable))) is not None:
            placeholder = keras.KerasTensor(tuple(variable.shape), dtype=variable.dtype)
            recording.weights.append((placeholder, variable))
            properties[name] = _placeholder_property(layer, placeholder, variable, recording)
    with _override_methods(layer, properties):
        yield


def _placeholder_property(
    layer: Layer, placeholder: keras.KerasTensor, variable: Variable, recording: _Recording
) -> property:
    def read(_: Layer) -> object:
        if not recording.is_here():
            return variable
        is_cast = reads_in_another_type(layer, variable)
        return keras.ops.cast(placeholder, layer.compute_dtype) if is_cast else placeholder

    return property(read)


def cast_inputs(
    layer: Layer, arguments: Sequence[object], keywords: Mapping[str, object]
) -> tuple[list[object], dict[str, object]]:
    """Cast a layer's arguments to its compute dtype, as Keras does before it runs the code."""

    def cast(item: object) -> object:
        if not isinstance(item, keras.KerasTensor) or "float" not in item.dtype:
            return item
        # With mixed precision, cast always: the inferred dtype may differ from the one at run time,
        # and a cast in one run only would shift the numbers of all later calls.
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
    """Build the recording from the outputs backwards; return the reason if it is incomplete."""
    flat = flatten(outputs)
    made = [tensor for tensor in flat if isinstance(tensor, keras.KerasTensor)]
    if not made or not all(is_tensor(x) or isinstance(x, keras.KerasTensor) for x in flat):
        return "its code returns something other than tensors computed from its inputs"
    nodes: list[Node] = []
    begin = [*inputs, *(placeholder for placeholder, _ in recording.weights)]
    seen = {id(tensor) for tensor in begin}
    found = [_collect_(tensor, seen, nodes) for tensor in made]
    for node in reversed(nodes):
        forget_node_(node)
    if scope.state_mapping:
        return "its code writes to its own state"
    if not all(found):
        return "its code uses tensors that are not among its inputs"
    entered = recording.entered
    return Calls(inputs, recording.weights, nodes, outputs, recording.closed, entered)


def _specs_in(structure: object) -> list[keras.KerasTensor]:
    return [item for item in flatten(structure) if isinstance(item, keras.KerasTensor)]


def _collect_(tensor: keras.KerasTensor, seen: set[int], nodes: list[Node]) -> bool:
    """Append the calls that lead to a tensor, in topological order; False if one is unknown.

    Iterative, because long chains of calls would exceed Python's recursion limit.
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
