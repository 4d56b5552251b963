"""Access to private parts of Keras: every use of a name that Keras does not export is here.

The one exception is ``surgery.built_copies``, which compares its copies with what Keras makes.

A functional model's graph (its nodes, their arguments and order) and the classes of ``keras.ops``
have had these names since Keras 3.0, but are not public. If a later release moves one, this is the
file to change.
"""

from __future__ import annotations

import copy
import inspect
import math
import types
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache, partial
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeGuard, TypeVar, cast

import keras
import numpy as np
from keras import Variable
from keras.random import SeedGenerator
from keras.src import backend, ops
from keras.src.backend.common.name_scope import current_path
from keras.src.backend.common.name_scope import name_scope as NameScope
from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.layers.layer import Layer
from keras.src.layers.merging.base_merge import Merge
from keras.src.models.functional import Functional, functional_like_constructor
from keras.src.ops import core
from keras.src.ops.node import KerasHistory
from keras.src.ops.node import Node as NodeClass
from keras.src.ops.numpy import GetItem
from keras.src.ops.operation import Operation
from keras.src.ops.symbolic_arguments import SymbolicArguments
from keras.src.random.seed_generator import make_default_seed
from keras.src.saving.serialization_lib import SerializableDict
from keras.src.utils.io_utils import print_msg
from keras.src.utils.naming import uniquify
from keras.src.utils.tracking import TrackedDict, TrackedList, TrackedSet, Tracker
from numpy.typing import NDArray

from secateurs.keras.protocols import BackendTensor, Node

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

ConvertToTensor: type[Operation] | None = getattr(core, "ConvertToTensor", None)
"""Operation class of ``convert_to_tensor``; Keras 3.6 has none."""

P = ParamSpec("P")
R = TypeVar("R")

Objective = Callable[..., BackendTensor]
"""Function (tensors, *rest) -> scalar, differentiated with respect to the tensors."""

SlopeFunction = Callable[..., list[NDArray[np.floating]]]
"""Function (tensors, *rest) -> one gradient array per tensor, of the tensor's shape."""

__all__ = [
    "AssumedValues",
    "COMPILED",
    "ConvertToTensor",
    "Functional",
    "GetItem",
    "Layer",
    "LayerPattern",
    "NOT_PLAIN",
    "Operation",
    "SeedGenerator",
    "SerializableDict",
    "TrackedDict",
    "TrackedList",
    "TrackedSet",
    "Tracker",
    "Variable",
    "accepts_symbols",
    "accepts_training",
    "add_plainly",
    "assign_",
    "assumed_or_read",
    "average_of",
    "begin_graph_",
    "call_plainly",
    "check_input",
    "compile_arguments_of",
    "compile_function",
    "copy_initializer",
    "device",
    "dtype_of",
    "exclude_from_decay_",
    "fill_zeros",
    "find_classes",
    "finish_copy_",
    "forget_node_",
    "gradient_of",
    "graph_of",
    "has_graph",
    "has_plain_options",
    "has_values",
    "inbound_node_of",
    "infer",
    "infer_plainly",
    "in_tensorflow",
    "intercept_calls",
    "is_model",
    "is_parameters",
    "is_plain",
    "is_quantized",
    "is_reference",
    "is_subclassed",
    "is_tensor",
    "keep_backend_random_state",
    "like_parameters",
    "losses_of",
    "mask_of",
    "metrics_inside",
    "name_in",
    "new_layer_like",
    "new_path",
    "nodes_of",
    "only_computes",
    "operation_classes",
    "own_variables",
    "pick_along",
    "pick_flat",
    "pick_slices",
    "plain_class",
    "present_numbers",
    "read_all",
    "read_value",
    "rebind",
    "say",
    "seed_",
    "seed_backend_",
    "seed_generators_of",
    "set_mask",
    "sublayers",
    "sync_",
    "variables_of",
    "variables_without_decay",
    "with_options",
    "without_gradients",
]


def is_model(operation: Operation) -> bool:
    """Return whether the operation is a model that its graph describes completely."""
    if isinstance(operation, keras.Sequential):
        return _inherits_call(operation, keras.Sequential) and has_graph(operation)
    return isinstance(operation, Functional) and _inherits_call(operation, Functional)


def is_subclassed(operation: Operation) -> bool:
    """Return whether the operation is a subclassed model: one without a graph of its own."""
    kinds = (keras.Sequential, Functional)
    return isinstance(operation, keras.Model) and not isinstance(operation, kinds)


def name_in(model: keras.Model, operation: Operation) -> str:
    """Return the name of an operation in a model's graph; '' for the model itself."""
    return "" if operation is model else str(operation.name)


def _inherits_call(model: keras.Model, kind: type) -> bool:
    """Return whether the model's class inherits ``call`` unchanged from Keras."""
    return type(model).call is kind.call  # type: ignore[attr-defined]


def plain_class(model: keras.Model) -> type[keras.Model]:
    """Return the class to rebuild this model's graph with: its own, or Keras's base class.

    A backbone with a custom constructor has a configuration that lists the constructor's arguments,
    which cannot describe a cut model. A functional model of its graph can.
    """
    kind = type(model)
    if isinstance(model, keras.Sequential):
        return kind if kind.__init__ is keras.Sequential.__init__ else keras.Sequential
    return kind if functional_like_constructor(kind) else keras.Model


def has_graph(model: keras.Model) -> bool:
    """Return whether the model has a graph; a sequential model has one once it is built."""
    return graph_of(model) is not None


def graph_of(model: keras.Model) -> Functional:
    """Return the functional graph of a model that has one.

    The graph of a subclassed model is a single call of the model itself, made by ``begin_graph_``.
    """
    if is_subclassed(model):
        held = vars(model).get(_GRAPH)
        return None if held is None else held.graph
    return model._functional if isinstance(model, keras.Sequential) else model


_GRAPH = "_secateurs_graph"
"""Attribute that holds the graph of a subclassed model."""


class _GraphHolder:
    """Holder that hides a graph from Keras, which enters every layer when it saves a model."""

    def __init__(self, graph: Functional) -> None:
        self.graph = graph


def begin_graph_(model: keras.Model, specs: object) -> None:
    """Give a subclassed model a graph: one call of itself, on tensors without data.

    Args:
        model: built model.
        specs: ``keras.KerasTensor`` objects, in the structure that the model is called on.
    """
    inputs = keras.tree.map_structure(
        lambda spec: keras.Input(batch_shape=spec.shape, dtype=spec.dtype, name=spec.name), specs
    )
    before = len(model._inbound_nodes)
    outputs = model(inputs)
    graph = Functional(inputs, outputs, name=model.name)
    for node in model._inbound_nodes[before:]:
        forget_node_(node)
    vars(model)[_GRAPH] = _GraphHolder(graph)


def nodes_of(graph: Functional) -> Iterator[Node]:
    """Iterate over the calls of a graph, without its inputs, in the order Keras runs them."""
    by_depth = graph._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        for node in by_depth[depth]:
            if node.operation is not None and not node.is_input:
                yield node


def inbound_node_of(tensor: keras.KerasTensor) -> Node | None:
    """Return the call that produced a symbolic tensor; None if no call did."""
    history = getattr(tensor, "_keras_history", None)
    if history is None or history.operation is None:
        return None
    nodes: Sequence[Node] = history.operation._inbound_nodes
    for node in nodes:
        if any(output is tensor for output in node.outputs):
            return node
    return None


def forget_node_(node: Node) -> None:
    """Remove a call from the records of its operation and of the operations before it."""
    node.operation._inbound_nodes.remove(node)
    for tensor in node.input_tensors:
        before = getattr(tensor, "_keras_history", None)
        if before is not None and before.operation is not None:
            outbound = before.operation._outbound_nodes
            if node in outbound:
                outbound.remove(node)


def seed_generators_of(layer: Layer) -> list[SeedGenerator]:
    """Return the random seed generators of a layer."""
    return list(getattr(layer, "_seed_generators", ()))


_SET_AFTER_INIT = (
    "_supports_masking",
    "_convert_input_args",
    "_allow_non_tensor_positional_args",
    "supports_jit",
    "_auto_config",
    "_build_shapes_dict",
    "_path",
)
"""Attributes that a layer's constructor may change after Keras's base constructor has run."""


def new_layer_like(layer: Layer) -> Layer:
    """Return a layer of the same class on which only Keras's base constructor has run."""
    kind = type(layer)
    new: Layer = kind.__new__(kind)  # type: ignore[call-overload]
    base = keras.Model if isinstance(layer, keras.Model) else Layer
    base.__init__(
        new,
        name=layer.name,
        dtype=layer.dtype_policy,
        autocast=layer.autocast,
        activity_regularizer=layer.activity_regularizer,
    )
    for name in _SET_AFTER_INIT:
        if name in vars(layer):
            vars(new)[name] = vars(layer)[name]
    return new


def finish_copy_(layer: Layer, new: Layer, known: Mapping[int, object]) -> None:
    """Register the parts of a copy in the order of the original, and mark the copy as built."""
    for name, (_, theirs) in layer._tracker.config.items():
        _, mine = new._tracker.config[name]
        # The metrics of ``compile`` are left out: ``compile`` makes new ones.
        parts = [part for part in theirs if name != "metrics" or id(part) in known]
        mine[:] = [known.get(id(part), part) for part in parts]
        new._tracker.stored_ids[name] = {id(part) for part in mine}
    vars(new)["_trainable"] = layer.trainable
    new.built = True
    new._post_build()
    new._lock_state()


COMPILED = frozenset(
    {
        "optimizer",
        "stop_training",
        "train_function",
        "test_function",
        "predict_function",
        "history",
        "_compiled_trainable_state",
        "_compile_config",
        "_jax_state",
        _GRAPH,
    }
)
"""Attributes that ``compile`` and ``fit`` add to a model."""


def metrics_inside(layer: Layer) -> list[keras.metrics.Metric]:
    """Return the metrics that a layer's own code created; those of ``compile`` are left out."""
    made = [vars(layer).get("_loss_tracker"), vars(layer).get("_compile_metrics")]
    return [
        metric
        for metric in getattr(layer, "_metrics", ())
        if all(metric is not other for other in made)
    ]


def losses_of(layer: Layer) -> list[BackendTensor]:
    """Return the losses that a layer's code added with ``add_loss``."""
    losses: list[BackendTensor] = getattr(layer, "_losses", [])
    return losses


def own_variables(layer: Layer) -> Iterator[tuple[Variable, bool]]:
    """Iterate over (variable, whether it is a parameter) of a layer, without its sublayers.

    A variable is a parameter if it was declared trainable, even while ``trainable`` is False.
    """
    for variable in getattr(layer, "_trainable_variables", ()):
        yield variable, True
    for variable in getattr(layer, "_non_trainable_variables", ()):
        yield variable, False


def sublayers(layer: Layer) -> list[Layer]:
    """Return the direct sublayers of a layer."""
    return list(getattr(layer, "_layers", ()))


def accepts_training(operation: Operation) -> bool:
    """Return whether the operation's ``call`` has a ``training`` argument."""
    return bool(getattr(operation, "_call_has_training_arg", False))


def accepts_mask(operation: Operation) -> bool:
    """Return whether the operation's ``call`` has a ``mask`` argument."""
    return bool(getattr(operation, "_call_has_mask_arg", False))


def reads_in_another_type(layer: Layer, variable: Variable) -> bool:
    """Return whether autocasting hands this weight to the layer's code in another dtype."""
    is_mixed = layer.autocast and layer.compute_dtype != layer.variable_dtype
    return bool(is_mixed and variable._autocast and "float" in variable.dtype)


def is_quantized(layer: Layer) -> bool:
    """Return whether the layer is quantized or has LoRA weights beside its kernel."""
    return bool(getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False))


NOT_PLAIN = object()
"""Returned where a call has to go through Keras's ``__call__``, or a value cannot be copied."""


def call_plainly(
    layer: Operation,
    arguments: Sequence[object],
    keywords: Mapping[str, object],
    *,
    any_width: bool = False,
) -> object:
    """Run a built-in Keras layer on real tensors without the overhead of ``__call__``.

    In inference, on tensors of the right dtype and without masks, ``__call__`` only has to check
    the shape and run ``call``. Its other checks take several times as long as a small layer.

    Args:
        layer: any layer or operation.
        arguments: positional arguments of the call.
        keywords: keyword arguments of the call.
        any_width: True accepts fewer channels than the layer was built for.

    Returns:
        The output; ``NOT_PLAIN``, and nothing is run, where ``__call__`` has more to do.
    """
    if not runs_plainly(layer, arguments, keywords):
        return NOT_PLAIN
    if not any_width:
        check_input(layer, arguments[0])
    known = _parameters_of_call(cast("Hashable", type(layer)))
    options = {name: one for name, one in keywords.items() if name in known}
    made: object = layer.call(arguments[0], **options)
    return made


def runs_plainly(
    layer: Operation, arguments: Sequence[object], keywords: Mapping[str, object]
) -> bool:
    """Return whether ``__call__`` only has to run ``call`` on one real tensor, or several."""
    return (
        len(arguments) == 1
        and is_plain(layer)
        and has_plain_options(keywords)
        and layer.built
        and _accepts(layer, arguments[0], is_tensor)
    )


def check_input(layer: Layer, given: object) -> None:
    """Check a tensor, or several, as Keras does before a call.

    Raises:
        ValueError: the layer was built for another shape.
    """
    spec = layer.input_spec
    if spec is None:
        return
    is_one = not isinstance(given, (list, tuple, dict))
    if is_one and _is_simple(spec) and _meets(spec, cast("BackendTensor", given).shape):
        return
    layer._assert_input_compatibility(given)  # whose message tells what is wrong


def _is_simple(spec: Any) -> bool:
    """Return whether it requires a number of axes, and lengths of some of them, at most."""
    if type(spec) is not keras.layers.InputSpec or spec.allow_last_axis_squeeze:
        return False
    return spec.shape is None and spec.dtype is None


def _meets(spec: keras.layers.InputSpec, shape: Sequence[int]) -> bool:
    lengths = tuple(shape)
    rank = len(lengths)
    return (
        spec.ndim in (None, rank)
        and (spec.max_ndim is None or rank <= spec.max_ndim)
        and (spec.min_ndim is None or rank >= spec.min_ndim)
        and all(
            -rank <= axis < rank and (length is None or lengths[axis] in (length, None))
            for axis, length in spec.axes.items()
        )
    )


def add_plainly(
    layer: Operation, arguments: Sequence[object], keywords: Mapping[str, object]
) -> object:
    """Do the same for symbolic tensors: build the layer and add its call to a graph."""
    if len(arguments) != 1 or not is_plain(layer) or not has_plain_options(keywords):
        return NOT_PLAIN
    given = arguments[0]
    if not accepts_symbols(layer, given):
        return NOT_PLAIN
    check_input(layer, given)
    if not layer.built:
        _build_(layer, keras.tree.map_structure(lambda tensor: tensor.shape, given))
        check_input(layer, given)
    vars(layer)["_called"] = True
    made = infer_plainly(layer, given)
    if made is NOT_PLAIN:
        made = Operation.symbolic_call(layer, given, **keywords)
    else:
        _add_call_(
            layer, cast("keras.KerasTensor", given), keywords, cast("keras.KerasTensor", made)
        )
    return made


_NODE = (
    "operation SymbolicArguments arguments tree flatten outputs isinstance KerasTensor ValueError "
    "any keras_tensors hasattr KerasHistory _keras_history _inbound_nodes append _outbound_nodes "
    "len enumerate is_input"
)
"""The names used by the constructor of Keras's record of a call, in the releases that are known."""

_ARGUMENTS = (
    "tree map_structure args kwargs flatten _flat_arguments len isinstance KerasTensor "
    "_single_positional_tensor keras_tensors append"
)
"""Those of the constructor of the arguments of such a record."""


@cache
def _knows_nodes() -> bool:
    names = [kind.__init__.__code__.co_names for kind in (NodeClass, SymbolicArguments)]
    return names == [tuple(_NODE.split()), tuple(_ARGUMENTS.split())]


def _add_call_(
    layer: Layer,
    given: keras.KerasTensor,
    keywords: Mapping[str, object],
    made: keras.KerasTensor,
) -> None:
    """Add the call of a layer on one tensor to its graph, as Keras does, which searches for it."""
    history = getattr(given, "_keras_history", None)
    begin = None if history is None else history.operation
    if begin is None or not given.record_history or not _knows_nodes():
        NodeClass(operation=layer, call_args=(given,), call_kwargs=dict(keywords), outputs=made)
        return
    arguments, node = object.__new__(SymbolicArguments), object.__new__(NodeClass)
    vars(arguments).update(
        args=(given,),
        kwargs=dict(keywords),
        _flat_arguments=[given, *(keywords[name] for name in sorted(keywords))],
        _single_positional_tensor=None if keywords else given,
        keras_tensors=[given],
    )
    vars(node).update(operation=layer, arguments=arguments, outputs=[made], is_input=False)
    number = len(layer._inbound_nodes)
    # A list's own method: Keras's looks whether a node is a layer or a variable, to track it.
    list.append(layer._inbound_nodes, node)
    list.append(begin._outbound_nodes, node)
    vars(made)["_keras_history"] = KerasHistory(layer, node_index=number, tensor_index=0)


def infer_plainly(layer: Operation, given: object) -> object:
    """Return the spec of a built-in layer's output, without Keras's search for its arguments.

    Keras looks up the signatures of three methods at each call, to find that the one shape which
    ``compute_output_shape`` takes is that of the first tensor.

    Args:
        layer: any layer or operation.
        given: what it is called on.

    Returns:
        A ``keras.KerasTensor``; ``NOT_PLAIN`` for other layers, and where ``given`` is not one
        symbolic tensor.
    """
    if not isinstance(given, keras.KerasTensor) or not only_computes(layer):
        return NOT_PLAIN
    if not _takes_one_shape(cast("Hashable", type(layer))):
        return NOT_PLAIN
    shape = layer.compute_output_shape(given.shape)
    if not isinstance(shape, tuple) or not all(n is None or type(n) is int for n in shape):
        return NOT_PLAIN
    # The name that Keras would give, which it derives from that of the class each time.
    return keras.KerasTensor(shape, dtype=layer.compute_dtype, name=uniquify("keras_tensor"))


@cache
def _takes_one_shape(kind: type[Layer]) -> bool:
    """Return whether a class infers its output from one shape, as Keras's base class does."""
    if kind.compute_output_spec is not Layer.compute_output_spec:
        return False
    if kind.compute_output_shape is Layer.compute_output_shape:
        return False
    return len(inspect.signature(kind.compute_output_shape).parameters) == 2


_BUILD_WRAPPER = (
    "_open_name_scope",
    "_path",
    "inspect",
    "signature",
    "bind",
    "arguments",
    "_build_shapes_dict",
    "built",
    "_post_build",
    "_lock_state",
)
"""The names that Keras's wrapper of ``build`` uses, in the releases whose wrapper is known."""


def _build_(layer: Layer, shape: object) -> None:
    """Build a plain layer as Keras's wrapper does, without computing the method's signature anew.

    TensorFlow compiles its operation that makes a variable anew for each name. Without the layer's
    name in front, names are few; the variable's path in Keras has it all the same.
    """
    names = getattr(getattr(layer.build, "__code__", None), "co_names", ())
    if tuple(name for name in names if name != "current_path") != _BUILD_WRAPPER:
        layer.build(shape)
        return
    parameter = _parameter_of_build(cast("Hashable", type(layer)))
    scope = layer._open_name_scope()
    if keras.backend.backend() == "tensorflow":
        scope = NameScope(layer.name, caller=layer)
    attributes = vars(layer)  # what Keras would track and wrap in vain
    with scope:
        attributes["_path"] = current_path()
        type(layer).build(layer, shape)
    layer._build_shapes_dict = {parameter: shape}
    attributes["built"] = True
    layer._post_build()
    layer._lock_state()


@cache
def _parameter_of_build(kind: type[Layer]) -> str:
    return list(inspect.signature(kind.build).parameters)[1]


def accepts_symbols(layer: Layer, given: object) -> bool:
    """Return whether these symbolic tensors have the structure and dtype that the layer reads."""
    return _accepts(layer, given, lambda item: isinstance(item, keras.KerasTensor))


def has_plain_options(keywords: Mapping[str, object]) -> bool:
    """Return whether a call has no options but ``training`` and a mask that is None."""
    return keywords.get("mask") is None and not keywords.keys() - {"training", "mask"}


def _accepts(layer: Layer, given: object, is_one: Callable[[object], bool]) -> bool:
    """Return whether the tensors have the structure and dtype the layer reads, and no masks."""
    several = isinstance(given, (list, tuple))
    if several != isinstance(layer, Merge) or backend.get_autocast_scope() is not None:
        return False
    dtype = layer.input_dtype
    return all(
        is_one(tensor) and mask_of(tensor) is None and dtype_of(tensor) == dtype
        for tensor in cast("Sequence[BackendTensor]", given if several else (given,))
    )


def is_plain(layer: Operation) -> bool:
    """Return whether it is a built-in layer whose ``__call__`` only computes, in a single dtype."""
    return (
        only_computes(layer)
        and not layer._layers
        and not getattr(layer, "_forward_hooks", None)
        and not getattr(layer, "_forward_pre_hooks", None)
        and layer.activity_regularizer is None
        and layer._convert_input_args
        and layer.compute_dtype == layer.variable_dtype
        and getattr(layer, "quantization_mode", None) is None
        and keras.distribution.distribution() is None
    )


def only_computes(operation: Operation) -> bool:
    """Return whether it is a built-in layer whose class adds nothing to ``__call__`` or masks."""
    return isinstance(operation, Layer) and _only_computes(cast("Hashable", type(operation)))


@cache
def _parameters_of_call(kind: type[Layer]) -> frozenset[str]:
    """Return the parameter names of a class's ``call``."""
    return frozenset(inspect.signature(kind.call).parameters)


@cache
def _only_computes(kind: type[Layer]) -> bool:
    """Return whether a built-in class inherits ``__call__`` and treats masks in the default way."""
    passes_mask = kind.compute_mask is Layer.compute_mask or issubclass(kind, Merge)
    return (
        kind.__module__.startswith("keras.src.layers.")
        and not issubclass(kind, keras.Model)
        and kind.__call__ is Layer.__call__
        and passes_mask
    )


def has_values(tensor: BackendTensor) -> bool:
    """Return whether a backend tensor has values: it is not a meta tensor or a tracer's."""
    kind = keras.backend.backend()
    if kind == "torch":
        return str(cast("TorchTensor", tensor).device) != "meta"
    if kind == "tensorflow":
        return not import_module("tensorflow").is_symbolic_tensor(tensor)
    return kind != "jax" or not isinstance(tensor, import_module("jax").core.Tracer)


class LayerPattern:
    """Copies a newly constructed layer under other names, without running its constructor again.

    Keras constructors inspect their signatures and track each attribute, so constructing the
    hundred layers of a network takes as long as running them.

    Args:
        layer: newly constructed layer that has not been called, and never will be.
    """

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._shared: dict[str, object] = {}
        self._empty: list[tuple[str, type]] = []
        self._others: dict[str, object] = {}
        held = None if self._is_more_than_plain() else self._copy(vars(layer), object())
        self.is_simple = held is not None
        """Whether the layer can be copied: its class and all its attributes are understood."""
        if held is not None:
            self._sort(held)

    def _sort(self, held: Mapping[str, object]) -> None:
        """Sort the attributes by how they are copied; most are shared or empty containers."""
        stores = {id(store) for _, store in self._layer._tracker.config.values()}
        for key, value in vars(self._layer).items():
            if held[key] is value:
                self._shared[key] = value
            elif type(value) in _COPY_THEMSELVES and not value and id(value) not in stores:
                self._empty.append((key, type(value)))
            else:
                self._others[key] = value

    def copy(self, name: str, sizes: Mapping[str, int] | None = None) -> Layer:
        """Return a copy with this name; ``is_simple`` must be true.

        Args:
            name: the copy's name.
            sizes: integers among the options of the constructor that the copy has in place of the
                pattern's; ``follows(sizes, ...)`` must be true of the class.
        """
        new: Layer = object.__new__(type(self._layer))
        attributes = vars(new)
        attributes.update(self._shared)
        attributes.update([(key, kind()) for key, kind in self._empty])
        attributes.update(self._copy(self._others, new) or {})
        attributes["name"] = name
        if sizes:
            attributes.update(sizes)
            attributes["_auto_config"] = with_options(attributes["_auto_config"], sizes)
        return new

    def follows(self, sizes: Mapping[str, int], made: LayerPattern) -> bool:
        """Return whether a layer constructed with other sizes differs in these attributes only.

        Args:
            sizes: the integers in which its configuration differs.
            made: the pattern of that layer; both ``is_simple``.
        """
        mine = {**vars(self._layer), **sizes}
        mine["_auto_config"] = with_options(mine["_auto_config"], sizes)
        theirs = vars(made._layer)
        return mine.keys() == theirs.keys() and all(
            key == "name" or _is_alike(value, theirs[key]) for key, value in mine.items()
        )

    def _is_more_than_plain(self) -> bool:
        layer = self._layer
        stores = layer._tracker.config.values() if isinstance(layer, Layer) else ()
        called = bool(layer._inbound_nodes)
        return not is_plain(layer) or called or any(store for _, store in stores)

    def _copy(self, held: Mapping[str, object], new: object) -> dict[str, object] | None:
        """Copy attributes for a new layer; None if one of them is not understood."""
        config = self._layer._tracker.config
        stores: dict[str, list[object]] = {kind: [] for kind in config}
        tracker = Tracker(
            {kind: (test, stores[kind]) for kind, (test, _) in config.items()},
            exclusions=self._layer._tracker.exclusions,
        )
        tracker.locked = self._layer._tracker.locked
        tracker._lock_violation_msg = self._layer._tracker._lock_violation_msg
        known: dict[int, object] = {id(old): stores[kind] for kind, (_, old) in config.items()}
        known |= {id(self._layer): new, id(self._layer._tracker): tracker}
        made = {key: _copy_held(value, known, tracker) for key, value in held.items()}
        # PyTorch's containers of parameters and modules: the new layer starts with empty ones.
        parts = cast("dict[str, Sequence[object]]", made.get("_modules") or {})
        if any(value is NOT_PLAIN for value in made.values()) or any(map(len, parts.values())):
            return None
        for key, part in parts.items():
            parts[key] = _copy_empty(part)
        return made


def with_options(known: object, sizes: Mapping[str, int]) -> object:
    """Return Keras's record of a constructor's arguments with some integers changed."""
    if known is None:
        return None
    new = copy.copy(known)
    vars(new)["config"] = {**vars(known)["config"], **sizes}
    return new


def _is_alike(value: object, other: object) -> bool:
    """Return whether an attribute of two new layers is the same, but for what each one owns."""
    if value is other:
        return True
    if type(value) is not type(other):
        return False
    if isinstance(value, types.FunctionType):  # Keras's wrapper of a method
        return value.__code__ is cast("types.FunctionType", other).__code__
    if hasattr(value, "get_config"):
        return bool(value.get_config() == cast("Layer", other).get_config())
    if hasattr(value, "serialize"):  # its record of the constructor's arguments
        return vars(value) == vars(other)
    return isinstance(value, Tracker) or bool(value == other)


def _copy_empty(part: Sequence[object]) -> Sequence[object]:
    """Copy an empty container of PyTorch's, without running its constructor."""
    new: Sequence[object] = object.__new__(type(part))
    for key, value in vars(part).items():
        vars(new)[key] = value.copy() if type(value) in _COPY_THEMSELVES else value
    return new


_COPY_THEMSELVES = (list, dict, set, OrderedDict)
"""Containers whose own ``copy`` keeps the type; ``copy.copy`` takes ten times as long."""


def _copy_held(value: object, known: Mapping[int, object], tracker: Tracker) -> object:
    """Copy the value of an attribute for a new layer; ``NOT_PLAIN`` if it is not understood."""
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, (TrackedList, TrackedDict, TrackedSet)):
        return type(value)(value, tracker)
    if isinstance(value, (list, dict, set)):
        if value and any(
            id(item) in known for item in (value.values() if isinstance(value, dict) else value)
        ):
            return NOT_PLAIN
        return value.copy() if type(value) in _COPY_THEMSELVES else copy.copy(value)
    if isinstance(value, keras.initializers.Initializer) and hasattr(value, "seed"):
        return copy_initializer(value)
    if isinstance(value, types.MethodType) and id(value.__self__) in known:
        return types.MethodType(value.__func__, known[id(value.__self__)])
    if isinstance(value, types.FunctionType) and value.__closure__:
        return rebind(value, known, tracker)
    return value


def copy_initializer(value: keras.initializers.Initializer) -> keras.initializers.Initializer:
    """Copy an initializer; one without a seed gets its own draws."""
    if vars(value).get("_init_seed", value) is not None:
        return type(value).from_config(value.get_config())
    new = copy.copy(value)
    vars(new)["seed"] = make_default_seed()
    return new


def rebind(
    function: types.FunctionType, known: Mapping[int, object], tracker: Tracker
) -> types.FunctionType:
    """Rebind a wrapper that Keras put around a method to the new layer; return others unchanged."""
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    if not any(id(cell) in known for cell in cells):
        return function
    made = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        tuple(types.CellType(_copy_held(cell, known, tracker)) for cell in cells),
    )
    made.__kwdefaults__ = function.__kwdefaults__
    for key, item in vars(function).items():
        vars(made)[key] = _copy_held(item, known, tracker)
    return made


def is_tensor(item: object) -> TypeGuard[BackendTensor]:
    """Return whether it is a tensor of the running backend."""
    return bool(keras.ops.is_tensor(item))


def infer(layer: Operation, *arguments: object, **keywords: object) -> object:
    """Infer a layer's output shapes and dtypes by running its code on tensors without data.

    Returns:
        ``keras.KerasTensor`` objects, in the structure of the layer's output.
    """
    specs: object = Operation.compute_output_spec(layer, *arguments, **keywords)
    return specs


def dtype_of(tensor: BackendTensor) -> str:
    """Return Keras's name of a tensor's dtype."""
    return _name_of_dtype(tensor.dtype)


@cache
def _name_of_dtype(dtype: Any) -> str:
    return str(keras.backend.standardize_dtype(dtype))


def present_numbers(tensor: BackendTensor) -> NDArray[np.generic]:
    """Return a tensor's values, possibly sharing its memory: read or copy them at once."""
    known = dtype_of(tensor) != "bfloat16"
    if known and keras.backend.backend() == "torch":
        seen: NDArray[np.generic] = cast("TorchTensor", tensor).detach().cpu().numpy()
        return seen
    if known and keras.backend.backend() == "tensorflow":
        value = read_value(tensor)
        if isinstance(value, in_tensorflow().eager_tensor):
            return np.asarray(value)
    return np.asarray(keras.ops.convert_to_numpy(tensor))  # of the others', a copy


class _InTensorFlow:
    """What is used of TensorFlow at each of many small steps, in which looking it up would tell."""

    def __init__(self) -> None:
        tensorflow = import_module("tensorflow")
        context = import_module("tensorflow.python.eager.context")
        framework = import_module("tensorflow.python.framework.ops")
        resources = import_module("tensorflow.python.ops.resource_variable_ops")
        self.operations: Any = tensorflow.raw_ops
        self.is_eager: Callable[[], bool] = tensorflow.executing_eagerly
        self.context: Any = context.context
        self.anonymous_name: Callable[[], str] = context.anonymous_name
        self.variable: Any = tensorflow.Variable
        self.plain_variable: Any = resources.ResourceVariable
        self.eager_tensor: Any = framework.EagerTensor
        self.new_number: Callable[[], int] = framework.uid
        self.any_shape: object = tensorflow.TensorShape(None)


@cache
def in_tensorflow() -> _InTensorFlow:
    """Return what is used of TensorFlow, which must be Keras's backend."""
    return _InTensorFlow()


def read_value(value: BackendTensor) -> BackendTensor:
    """Return a value of TensorFlow's as a tensor.

    A plain variable is read by one operation, without those around it; a tensor is returned.
    """
    known, held = in_tensorflow(), cast("Any", value)
    if type(held) is known.plain_variable and known.is_eager():
        return cast(
            "BackendTensor",
            known.operations.ReadVariableOp(resource=held.handle, dtype=held.dtype),
        )
    if isinstance(held, known.variable):
        return cast("BackendTensor", held.read_value())
    return value


def read_all(variables: Iterable[Variable]) -> dict[int, BackendTensor]:
    """Return the present value of each variable, by ``id``.

    In a row, TensorFlow reads them in half the time that each takes among other steps.
    """
    if keras.backend.backend() != "tensorflow":
        return {id(variable): variable.value for variable in variables}
    return {id(variable): read_value(variable.value) for variable in variables}


def assumed_or_read(variable: Variable) -> BackendTensor:
    """Return the value of one of TensorFlow's variables: the one assumed, or else its own."""
    scope = get_stateless_scope()
    if type(scope) is AssumedValues:
        value: BackendTensor | None = scope.state_mapping.get(id(variable))
        if value is not None:
            return value
    return read_value(cast("BackendTensor", variable.value))


def assign_(variable: Variable, numbers: NDArray[np.generic]) -> None:
    """Assign an array of the variable's shape and dtype without Keras's conversions and copies."""
    kind = keras.backend.backend()
    is_float = numbers.dtype in (np.float32, np.float64)
    if not is_float or variable._value is None:
        kind = "any"
    if kind == "torch":
        torch = import_module("torch")
        with torch.no_grad():
            variable._value.copy_(torch.from_numpy(numbers))
    elif kind == "tensorflow":
        variable._value.assign(numbers, read_value=False)
    else:
        variable.assign(numbers)


def take_over(numbers: NDArray[np.generic], dtype: str) -> BackendTensor:
    """Return a tensor of an array that nothing else holds; TensorFlow's shares its memory."""
    if (
        keras.backend.backend() == "tensorflow"
        and _name_of_dtype(numbers.dtype) == dtype
        and (known := in_tensorflow()).is_eager()
    ):
        context = known.context()
        context.ensure_initialized()
        return cast("BackendTensor", known.eager_tensor(numbers, context.device_name, None))
    return cast("BackendTensor", keras.ops.convert_to_tensor(numbers, dtype=dtype))


_ALIGNED = 64
"""TensorFlow's tensors begin at multiples of this many bytes; others are copied."""

_WORTH_ALIGNING = 2**14
"""Bytes from which on copying takes longer than aligning."""


def _aligned_array(shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an uninitialised array that TensorFlow takes over without copying it."""
    size = math.prod(shape) * dtype.itemsize
    if size < _WORTH_ALIGNING:
        return np.empty(shape, dtype)
    memory = np.empty(size + _ALIGNED, np.uint8)
    begin = -memory.ctypes.data % _ALIGNED
    return memory[begin : begin + size].view(dtype).reshape(shape)


def _copy_aligned(numbers: NDArray[Any]) -> NDArray[Any]:
    made = _aligned_array(numbers.shape, numbers.dtype)
    made[...] = numbers
    return made


def _take_aligned(numbers: NDArray[Any], places: NDArray[np.integer], axis: int) -> NDArray[Any]:
    shape = list(numbers.shape)
    shape[axis] = len(places)
    made = _aligned_array(shape, numbers.dtype)
    return np.take(numbers, places, axis=axis, out=made, mode="clip")  # or it is read twice


def pick_slices(value: BackendTensor, kept: Mapping[int, NDArray[np.int64]]) -> BackendTensor:
    """Return a copy of a variable's value with these indices along each axis given."""
    if keras.backend.backend() != "torch":
        numbers = present_numbers(value)
        if not kept:
            numbers = _copy_aligned(numbers)
        for axis in sorted(kept):
            numbers = _take_aligned(numbers, kept[axis], axis)
        return take_over(numbers, dtype_of(value))
    tensor = cast("TorchTensor", value).detach()
    if not kept:
        return cast("BackendTensor", tensor.clone())
    for axis in sorted(kept):
        tensor = cast("TorchTensor", pick_along(cast("BackendTensor", tensor), kept[axis], axis))
    return cast("BackendTensor", tensor)


def new_path(layer: Layer) -> str | None:
    """Return the path that Keras gives a layer like this when it is built now."""
    if layer.path is None:
        return None
    scope = current_path()
    return f"{scope}/{layer.name}" if scope else str(layer.name)


def is_parameters(kind: type) -> bool:
    """Return whether it is PyTorch's class for the parameters of a layer."""
    if keras.backend.backend() != "torch":
        return False
    return issubclass(kind, import_module("torch").nn.ParameterDict)


def is_reference(kind: type) -> bool:
    """Return whether it is TensorFlow's class for a named part of a layer: a (name, part)."""
    if keras.backend.backend() != "tensorflow":
        return False
    base = import_module("tensorflow.python.trackable.base")
    return kind is getattr(base, "TrackableReference", None)


def like_parameters(value: object, parameters: Mapping[str, object]) -> object:
    """Return a container of PyTorch's like this one, with other parameters."""
    new = _copy_empty(cast("Sequence[object]", value))
    keys = sorted(parameters)  # the order in which it enters them
    vars(new).update(_parameters={key: parameters[key] for key in keys}, _keys=dict.fromkeys(keys))
    return new


class AssumedValues(keras.StatelessScope):  # type: ignore[misc]
    """A scope in which variables have the values given.

    On PyTorch, Keras's convolutions need a kernel in another memory order and copy it at each run,
    which for a large kernel takes longer than the convolution itself. Here kernels come in that
    order already, by a copy that takes a third of the time; shapes and values are the same.
    """

    def __init__(self, state_mapping: Iterable[tuple[Variable, BackendTensor]]) -> None:
        super().__init__()
        # Keras would convert each value, which is of its variable's dtype already.
        self.state_mapping = {id(variable): value for variable, value in state_mapping}
        self._backend = keras.backend.backend()

    @contextmanager
    def picking(self, variable: Variable, places: NDArray[np.integer], axis: int) -> Iterator[None]:
        """Give a variable these positions along one axis of its value, inside the context."""
        before = self.state_mapping[id(variable)]
        self.state_mapping[id(variable)] = pick_along(before, places, axis)
        try:
            yield
        finally:
            self.state_mapping[id(variable)] = before

    def get_current_value(self, variable: Variable) -> BackendTensor | None:
        """Return the value of a variable in this scope; None if none was given."""
        value = self.state_mapping.get(id(variable))
        if value is None or self._backend != "torch" or len(value.shape) not in (4, 5):
            return value
        return _lay_out(value)


_WORTH_ORDERING = 4096
"""Elements of a kernel from which on its memory order matters."""


def _lay_out(kernel: BackendTensor) -> BackendTensor:
    if math.prod(kernel.shape) < _WORTH_ORDERING:
        return kernel
    tensor = cast("TorchTensor", kernel)
    filters = tensor.reshape(-1, tensor.shape[-1]).t().contiguous()
    return cast("BackendTensor", filters.t().reshape(tensor.shape))


def pick_along(tensor: BackendTensor, places: NDArray[np.integer], axis: int) -> BackendTensor:
    """Pick positions along one axis of a tensor."""
    # NumPy takes a third of the time that TensorFlow or PyTorch does.
    if keras.backend.backend() == "tensorflow" and _is_readable(tensor):
        numbers = _take_aligned(present_numbers(tensor), places, axis)
        return take_over(numbers, dtype_of(tensor))
    if keras.backend.backend() != "torch":
        picked: BackendTensor = keras.ops.take(tensor, places, axis=axis)
        return picked
    torch, mine = import_module("torch"), cast("TorchTensor", tensor).detach()
    if not _is_readable(tensor):
        index = torch.from_numpy(places).to(mine.device)
        return cast("BackendTensor", mine.index_select(axis, index))
    shape = list(mine.shape)
    shape[axis] = len(places)
    made = torch.empty(shape, dtype=mine.dtype)
    np.take(mine.numpy(), places, axis=axis, out=made.numpy(), mode="clip")
    return cast("BackendTensor", made)


def fill_zeros(tensor: BackendTensor, stays: NDArray[np.bool_]) -> BackendTensor:
    """Return a tensor with zeros in place of what does not stay; ``stays`` is broadcast."""
    if keras.backend.backend() == "tensorflow" and _is_readable(tensor):
        numbers = present_numbers(tensor)
        return take_over(np.where(stays, numbers, numbers.dtype.type(0)), dtype_of(tensor))
    filled: BackendTensor = keras.ops.where(stays, tensor, 0)
    return filled


def pick_flat(tensor: BackendTensor, places: NDArray[np.integer]) -> BackendTensor:
    """Pick elements of a tensor by their flat indices; the result has shape (len(places),)."""
    # NumPy reads the same memory; TensorFlow's own indexing takes ten small operations.
    if _is_readable(tensor):
        return cast("BackendTensor", present_numbers(tensor).reshape(-1)[places])
    if keras.backend.backend() == "tensorflow":  # whose tensors take no arrays as indices
        places = places.astype(np.int32)
        picked: BackendTensor = keras.ops.take(keras.ops.reshape(tensor, (-1,)), places, axis=0)
    else:
        picked = keras.ops.reshape(tensor, (-1,))[places]
    return picked


def _is_readable(tensor: BackendTensor) -> bool:
    """Return whether NumPy can read the tensor where it lies."""
    kind = keras.backend.backend()
    if kind == "torch":
        return bool(cast("TorchTensor", tensor).is_cpu) and dtype_of(tensor) != "bfloat16"
    if kind != "tensorflow" or not isinstance(tensor, in_tensorflow().eager_tensor):
        return False
    return "cpu" in cast("Any", tensor).device.lower() and dtype_of(tensor) != "bfloat16"


def mask_of(tensor: object) -> BackendTensor | None:
    """Return the Keras (padding) mask attached to a tensor, if any."""
    read = getattr(backend, "get_keras_mask", None)  # since Keras 3.6
    mask: BackendTensor | None = (
        getattr(tensor, "_keras_mask", None) if read is None else read(tensor)
    )
    return mask


def set_mask(tensor: BackendTensor, mask: BackendTensor | None) -> None:
    """Attach a Keras mask to a tensor; None leaves it as it is."""
    if mask is None:
        return
    if hasattr(backend, "set_keras_mask"):
        backend.set_keras_mask(tensor, mask)
    else:
        with suppress(AttributeError):  # JAX's tensors take no attributes
            tensor._keras_mask = mask  # type: ignore[attr-defined]


def operation_classes(*names: str) -> tuple[type, ...]:
    """Return the operation classes behind ``keras.ops`` functions; unknown names are left out."""
    modules: Sequence[ModuleType] = (ops.numpy, ops.nn, ops.core, ops.math, ops.image, ops.linalg)
    return find_classes(modules, *names)


def find_classes(places: Sequence[object], *names: str) -> tuple[type, ...]:
    """Return the classes of these names, from the modules that have them in this release."""
    return tuple(
        found
        for name in names
        for place in places
        if (found := getattr(place, name, None)) is not None
    )


def compile_arguments_of(model: keras.Model) -> dict[str, object]:
    """Return the arguments that ``compile`` was called with, as objects."""
    known = getattr(model, "_compile_config", None)
    return dict(known.config) if known is not None else {}


def variables_of(optimizer: keras.optimizers.Optimizer) -> list[Variable]:
    """Return the model variables that an optimizer was built for, in its order."""
    return list(getattr(optimizer, "inner_optimizer", optimizer)._trainable_variables)


def variables_without_decay(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[Variable]
) -> list[Variable]:
    """Return the variables that an optimizer excludes from weight decay."""
    keeper = getattr(optimizer, "inner_optimizer", optimizer)
    named = getattr(keeper, "_exclude_from_weight_decay_pattern", None) is not None
    if not named and not getattr(keeper, "_exclude_from_weight_decay", None):
        return []
    return [variable for variable in variables if not keeper._use_weight_decay(variable)]


def exclude_from_decay_(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[Variable]
) -> None:
    """Exclude variables from the weight decay of an optimizer that is not built yet."""
    if variables:
        keeper = getattr(optimizer, "inner_optimizer", optimizer)
        keeper.exclude_from_weight_decay(var_list=list(variables))


def average_of(optimizer: keras.optimizers.Optimizer, variable: Variable) -> Variable | None:
    """Return the moving average that an optimizer keeps of a variable (``use_ema``), if any."""
    keeper = getattr(optimizer, "inner_optimizer", optimizer)
    averages = getattr(keeper, "_model_variables_moving_average", None)
    if not getattr(keeper, "use_ema", False) or not averages:
        return None
    for known, average in zip(keeper._trainable_variables, averages, strict=False):
        if known is variable:
            return average
    return None


def compile_function(function: Callable[P, R], *, once: bool = False) -> Callable[P, R]:
    """Compile the function on JAX, where running it op by op is slow; else return it unchanged.

    Args:
        function: a function of tensors that returns tensors.
        once: True if it is run once, so that optimising the program costs more than it saves.
    """
    if keras.backend.backend() != "jax":
        return function
    options = _HASTY if once and device().startswith("cpu") else None
    whole: Callable[P, R] = import_module("jax").jit(function, compiler_options=options)
    return whole


_HASTY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""XLA options that skip most of a compilation, as ``JAX_DISABLE_MOST_OPTIMIZATIONS`` does."""


def gradient_of(function: Objective) -> SlopeFunction:
    """Return a function of (tensors, *rest) that gives the gradients of the scalar ``function``."""
    kind = keras.backend.backend()
    if kind == "jax":
        slopes = (jax := import_module("jax")).jit(jax.grad(function))
        return lambda tensors, *rest: [np.asarray(slope) for slope in slopes(list(tensors), *rest)]
    return partial(_by_torch if kind == "torch" else _by_tensorflow, function)


def _by_torch(
    function: Objective, tensors: Sequence[BackendTensor], *rest: object
) -> list[NDArray[np.floating]]:
    torch = import_module("torch")
    with torch.inference_mode(mode=False), torch.enable_grad():
        detached = [torch.as_tensor(tensor).detach().clone().requires_grad_() for tensor in tensors]
        value = cast("TorchTensor", function(detached, *rest))
        found = (
            torch.autograd.grad(value, detached, allow_unused=True)
            if value.requires_grad
            else [None] * len(detached)
        )
    return [
        np.zeros(tuple(tensor.shape), np.float32) if slope is None else slope.cpu().numpy()
        for tensor, slope in zip(detached, found, strict=True)
    ]


def _by_tensorflow(
    function: Objective, tensors: Sequence[BackendTensor], *rest: object
) -> list[NDArray[np.floating]]:
    tensorflow = import_module("tensorflow")
    sources = [tensorflow.convert_to_tensor(tensor) for tensor in tensors]
    with tensorflow.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(sources)
        value = function(sources, *rest)
    found = tape.gradient(value, sources, unconnected_gradients="zero")
    return [tensorflow.convert_to_tensor(slope).numpy() for slope in found]


def without_gradients() -> AbstractContextManager[object]:
    """Disable gradient recording inside the context; only PyTorch records by default."""
    if keras.backend.backend() != "torch":
        return nullcontext()
    context: AbstractContextManager[object] = import_module("torch").no_grad()
    return context


@contextmanager
def intercept_calls(layers: Mapping[Layer, Callable[..., object]]) -> Iterator[None]:
    """Route the calls of these layers through ``function(call, *arguments)`` inside the context."""
    for layer, around in layers.items():
        original = layer.call
        vars(layer)["call"] = partial(around, original)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["call"]


def seed_(model: keras.Model, random: np.random.Generator) -> None:
    """Seed dropout and other random layers of the model from this generator."""
    seen: set[int] = set()
    for layer in model._flatten_layers():
        for generator in getattr(layer, "_seed_generators", ()):
            state = generator.state
            if id(state) not in seen:
                seen.add(id(state))
                state.assign(random.integers(2**31, size=tuple(state.shape)).astype("uint32"))
    seed_backend_(int(random.integers(2**62)))


def seed_backend_(seed: int) -> None:
    """Seed the backend's global random generator, which PyTorch's dropout uses."""
    if keras.backend.backend() == "torch":
        import_module("torch").manual_seed(seed)


def keep_backend_random_state() -> AbstractContextManager[object]:
    """Restore the backend's global random state at the end of the context."""
    if keras.backend.backend() != "torch":
        return nullcontext()
    fork: AbstractContextManager[object] = import_module("torch").random.fork_rng()
    return fork


def device() -> str:
    """Return the name of the device that the backend computes on."""
    if keras.backend.backend() != "torch":
        return str(keras.distribution.list_devices()[0])
    return str(import_module("keras.src.backend.torch.core").get_device())


def sync_(model: keras.Model) -> None:
    """Write the current values into the model's variables during ``fit`` (needed on JAX only)."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()


def say(line: str) -> None:
    """Print a line where Keras prints its own messages."""
    print_msg(line)
