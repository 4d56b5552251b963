"""What Secateurs needs of Keras that Keras does not export: all of it, in this one place.

A functional model's graph (its nodes, their arguments and order) and the classes of ``keras.ops``
have had these names since Keras 3.0, but are not public. Where a later release moves one, this is
the file to change.
"""

from __future__ import annotations

import copy
import inspect
import types
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, ParamSpec, TypeGuard, TypeVar, cast

import keras
import numpy as np
from keras import Variable
from keras.random import SeedGenerator
from keras.src import backend, ops
from keras.src.layers.layer import Layer
from keras.src.layers.merging.base_merge import Merge
from keras.src.models.functional import Functional, functional_like_constructor
from keras.src.ops import core
from keras.src.ops.numpy import GetItem
from keras.src.ops.operation import Operation
from keras.src.utils.io_utils import print_msg
from keras.src.utils.tracking import TrackedDict, TrackedList, TrackedSet, Tracker
from numpy.typing import NDArray

from secateurs.keras.protocols import BackendTensor, Node

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

ConvertToTensor: type[Operation] | None = getattr(core, "ConvertToTensor", None)
"""The operation of ``convert_to_tensor``, which Keras 3.6 has not."""

P = ParamSpec("P")
R = TypeVar("R")

Objective = Callable[..., BackendTensor]
"""(tensors, *rest) -> a single number that is to be differentiated with respect to the tensors."""

SlopeFunction = Callable[..., list[NDArray[np.floating]]]
"""(tensors, *rest) -> a gradient for each of the tensors."""

__all__ = [
    "COMPILED",
    "ConvertToTensor",
    "Functional",
    "GetItem",
    "Layer",
    "LayerPattern",
    "NOT_PLAIN",
    "Operation",
    "SeedGenerator",
    "Variable",
    "accepts_training",
    "add_plainly",
    "average_of",
    "begin_graph_",
    "call_plainly",
    "compile_arguments_of",
    "compile_function",
    "device",
    "exclude_from_decay_",
    "find_classes",
    "finish_copy_",
    "forget_node_",
    "gradient_of",
    "graph_of",
    "has_graph",
    "has_values",
    "inbound_node_of",
    "infer",
    "intercept_calls",
    "is_model",
    "is_quantized",
    "is_subclassed",
    "is_tensor",
    "keep_backend_random_state",
    "losses_of",
    "mask_of",
    "metrics_inside",
    "name_in",
    "new_layer_like",
    "nodes_of",
    "only_computes",
    "operation_classes",
    "own_variables",
    "pick_flat",
    "plain_class",
    "present_numbers",
    "say",
    "seed_",
    "seed_generators_of",
    "set_mask",
    "sublayers",
    "sync_",
    "variables_of",
    "variables_without_decay",
    "without_gradients",
]


def is_model(operation: Operation) -> bool:
    """Whether it is a model whose graph can be walked, and says all that it does."""
    if isinstance(operation, keras.Sequential):
        return _runs(operation, keras.Sequential) and has_graph(operation)
    return isinstance(operation, Functional) and _runs(operation, Functional)


def is_subclassed(operation: Operation) -> bool:
    """Whether it is a model that only code of its own says something of."""
    kinds = (keras.Sequential, Functional)
    return isinstance(operation, keras.Model) and not isinstance(operation, kinds)


def name_in(model: keras.Model, operation: Operation) -> str:
    """The name of what a model's graph calls; a subclassed model's graph calls the model itself."""
    return "" if operation is model else str(operation.name)


def _runs(model: keras.Model, kind: type) -> bool:
    """Whether the model's class leaves ``call`` as Keras has it."""
    return type(model).call is kind.call  # type: ignore[attr-defined]


def plain_class(model: keras.Model) -> type[keras.Model]:
    """The class to make a model of this graph with: its own, unless the constructor is its own.

    A backbone with a constructor of its own says in its configuration how it was built, and cannot
    say what a cut left of it; its graph, as a functional model, can.
    """
    kind = type(model)
    if isinstance(model, keras.Sequential):
        return kind if kind.__init__ is keras.Sequential.__init__ else keras.Sequential
    return kind if functional_like_constructor(kind) else keras.Model


def has_graph(model: keras.Model) -> bool:
    """Whether a functional or sequential model has its graph: a sequential one that is built."""
    return graph_of(model) is not None


def graph_of(model: keras.Model) -> Functional:
    """The functional graph of a model that has one.

    That of a subclassed model is a single call, of the model itself: ``begin_graph_`` makes it.
    """
    if is_subclassed(model):
        held = vars(model).get(_GRAPH)
        return None if held is None else held.graph
    return model._functional if isinstance(model, keras.Sequential) else model


_GRAPH = "_secateurs_graph"
"""Where a subclassed model keeps its graph."""


class _Held:
    """Keras, saving a model, walks through what is a layer, and not through this."""

    def __init__(self, graph: Functional) -> None:
        self.graph = graph


def begin_graph_(model: keras.Model, specs: object) -> None:
    """Let a subclassed model have a graph: one call of itself, on tensors without data.

    Args:
        model: built.
        specs: ``keras.KerasTensor``, in the structure that the model is called on.
    """
    inputs = keras.tree.map_structure(
        lambda spec: keras.Input(batch_shape=spec.shape, dtype=spec.dtype, name=spec.name), specs
    )
    before = len(model._inbound_nodes)
    outputs = model(inputs)
    graph = Functional(inputs, outputs, name=model.name)
    for node in model._inbound_nodes[before:]:
        forget_node_(node)
    vars(model)[_GRAPH] = _Held(graph)


def nodes_of(graph: Functional) -> Iterator[Node]:
    """The calls of a graph in the order in which Keras runs them, without its inputs."""
    by_depth = graph._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        for node in by_depth[depth]:
            if node.operation is not None and not node.is_input:
                yield node


def inbound_node_of(tensor: keras.KerasTensor) -> Node | None:
    """The call that gave a tensor without data; None for one that no call gave."""
    history = getattr(tensor, "_keras_history", None)
    if history is None or history.operation is None:
        return None
    nodes: Sequence[Node] = history.operation._inbound_nodes
    for node in nodes:
        if any(output is tensor for output in node.outputs):
            return node
    return None


def forget_node_(node: Node) -> None:
    """Let an operation, and those before it, be as if it had not been called."""
    node.operation._inbound_nodes.remove(node)
    for tensor in node.input_tensors:
        before = getattr(tensor, "_keras_history", None)
        if before is not None and before.operation is not None:
            outbound = before.operation._outbound_nodes
            if node in outbound:
                outbound.remove(node)


def seed_generators_of(layer: Layer) -> list[SeedGenerator]:
    """What a layer draws random numbers from."""
    return list(getattr(layer, "_seed_generators", ()))


_SAID_LATER = (
    "_supports_masking",
    "_convert_input_args",
    "_allow_non_tensor_positional_args",
    "supports_jit",
    "_auto_config",
    "_build_shapes_dict",
    "_path",
)
"""What a layer may say of itself after Keras's own constructor."""


def new_layer_like(layer: Layer) -> Layer:
    """A layer of the same class, without what the class's own constructor makes."""
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
    for name in _SAID_LATER:
        if name in vars(layer):
            vars(new)[name] = vars(layer)[name]
    return new


def finish_copy_(layer: Layer, new: Layer, known: Mapping[int, object]) -> None:
    """Let Keras see the parts of a copy in the order of the original, and take it as built."""
    for name, (_, theirs) in layer._tracker.config.items():
        _, mine = new._tracker.config[name]
        # The metrics of ``compile`` are its own to make.
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
"""What ``compile`` and ``fit`` keep in a model beside what its constructor makes."""


def metrics_inside(layer: Layer) -> list[keras.metrics.Metric]:
    """The metrics that a layer's own code keeps; those of ``compile`` left out."""
    made = [vars(layer).get("_loss_tracker"), vars(layer).get("_compile_metrics")]
    return [
        metric
        for metric in getattr(layer, "_metrics", ())
        if all(metric is not other for other in made)
    ]


def losses_of(layer: Layer) -> list[BackendTensor]:
    """The losses that a layer's code has added by itself."""
    losses: list[BackendTensor] = getattr(layer, "_losses", [])
    return losses


def own_variables(layer: Layer) -> Iterator[tuple[Variable, bool]]:
    """(variable, whether it is a parameter) of a layer, those of its sublayers left out.

    Being a parameter is a matter of how the variable was declared: it stays one while it is kept
    from training.
    """
    for variable in getattr(layer, "_trainable_variables", ()):
        yield variable, True
    for variable in getattr(layer, "_non_trainable_variables", ()):
        yield variable, False


def sublayers(layer: Layer) -> list[Layer]:
    """The layers that a layer keeps inside, one level deep."""
    return list(getattr(layer, "_layers", ()))


def accepts_training(operation: Operation) -> bool:
    """Whether a call may be told ``training=``."""
    return bool(getattr(operation, "_call_has_training_arg", False))


def accepts_mask(operation: Operation) -> bool:
    """Whether a call may be told ``mask=``, and else finds it on what it is given."""
    return bool(getattr(operation, "_call_has_mask_arg", False))


def reads_in_another_type(layer: Layer, variable: Variable) -> bool:
    """Whether a layer's code sees this weight of its own in the type that the layer computes in."""
    is_mixed = layer.autocast and layer.compute_dtype != layer.variable_dtype
    return bool(is_mixed and variable._autocast and "float" in variable.dtype)


def is_quantized(layer: Layer) -> bool:
    """Whether the layer computes with something else than its kernel."""
    return bool(getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False))


NOT_PLAIN = object()
"""What is given back where a call has to go the usual way."""


def call_plainly(
    layer: Operation, arguments: Sequence[object], keywords: Mapping[str, object]
) -> object:
    """What a layer of Keras's own gives for real tensors, without what ``__call__`` asks each time.

    On tensors of the right types and without masks, in inference, nothing is left of it but to
    check the shape and to run ``call``; it takes several times as long as a small layer itself.

    Args:
        layer: any layer or operation.
        arguments: of the call.
        keywords: likewise.

    Returns:
        The tensor; ``NOT_PLAIN``, and nothing is run, where there is more to do than that.
    """
    if len(arguments) != 1 or not _is_plain(layer) or not _asks_nothing(keywords):
        return NOT_PLAIN
    if not layer.built or not _takes(layer, arguments[0], is_tensor):
        return NOT_PLAIN
    layer._assert_input_compatibility(arguments[0])
    known = _parameters_of_call(cast("Hashable", type(layer)))
    options = {name: one for name, one in keywords.items() if name in known}
    made: object = layer.call(arguments[0], **options)
    return made


def add_plainly(
    layer: Operation, arguments: Sequence[object], keywords: Mapping[str, object]
) -> object:
    """The same for tensors without data: the call becomes part of a graph, the layer is built."""
    if len(arguments) != 1 or not _is_plain(layer) or not _asks_nothing(keywords):
        return NOT_PLAIN
    given = arguments[0]
    if not _takes(layer, given, lambda item: isinstance(item, keras.KerasTensor)):
        return NOT_PLAIN
    layer._assert_input_compatibility(given)
    if not layer.built:
        layer.build(keras.tree.map_structure(lambda tensor: tensor.shape, given))
        layer._assert_input_compatibility(given)
    layer._called = True
    made: object = Operation.symbolic_call(layer, given, **keywords)
    return made


def _asks_nothing(keywords: Mapping[str, object]) -> bool:
    """Whether a call has no options but inference; Keras notes masks that are none as well."""
    return keywords.get("mask") is None and not keywords.keys() - {"training", "mask"}


def _takes(layer: Layer, given: object, is_one: Callable[[object], bool]) -> bool:
    """Whether it is given tensors as it reads them, with nothing attached."""
    several = isinstance(given, (list, tuple))
    if several != isinstance(layer, Merge) or backend.get_autocast_scope() is not None:
        return False
    return all(
        is_one(tensor)
        and mask_of(tensor) is None
        and keras.backend.standardize_dtype(tensor.dtype) == layer.input_dtype
        for tensor in cast("Sequence[BackendTensor]", given if several else (given,))
    )


def _is_plain(layer: Operation) -> bool:
    """Whether it is a layer of Keras's own that only computes, and in one type."""
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
    """Whether it is a layer of Keras's own, around whose calls Keras does nothing."""
    return isinstance(operation, Layer) and _only_computes(cast("Hashable", type(operation)))


@cache
def _parameters_of_call(kind: type[Layer]) -> frozenset[str]:
    """Names of what the ``call`` of a class takes."""
    return frozenset(inspect.signature(kind.call).parameters)


@cache
def _only_computes(kind: type[Layer]) -> bool:
    """Whether Keras does nothing around the calls of a class of its own; masks are for others."""
    passes_mask = kind.compute_mask is Layer.compute_mask or issubclass(kind, Merge)
    return (
        kind.__module__.startswith("keras.src.layers.")
        and not issubclass(kind, keras.Model)
        and kind.__call__ is Layer.__call__
        and passes_mask
    )


def has_values(tensor: BackendTensor) -> bool:
    """Whether a tensor of the backend's is more than a shape that a trace left behind."""
    kind = keras.backend.backend()
    if kind == "torch":
        return str(cast("TorchTensor", tensor).device) != "meta"
    if kind == "tensorflow":
        return not import_module("tensorflow").is_symbolic_tensor(tensor)
    return kind != "jax" or not isinstance(tensor, import_module("jax").core.Tracer)


class LayerPattern:
    """Makes layers like one that was just made and does nothing yet, without their constructor.

    Keras asks its constructors for their signatures, and watches each attribute, so a network's
    hundred layers of five kinds take as long to make as to run.

    Args:
        layer: just made, not called, and never to be.
    """

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._shared: dict[str, object] = {}
        held = None if self._is_more_than_plain() else self._copy(vars(layer), object())
        self.is_simple = held is not None
        """Whether the class, and what the layer holds, is known to be as simple as that."""
        if held is not None:
            known = vars(layer)
            self._shared = {key: one for key, one in held.items() if one is known[key]}

    def copy(self, name: str) -> Layer:
        """A layer of this name; the pattern has to be simple."""
        new: Layer = object.__new__(type(self._layer))
        mine = {key: one for key, one in vars(self._layer).items() if key not in self._shared}
        vars(new).update(self._shared)
        vars(new).update(self._copy(mine, new) or {})
        vars(new)["name"] = name
        return new

    def _is_more_than_plain(self) -> bool:
        layer = self._layer
        stores = layer._tracker.config.values() if isinstance(layer, Layer) else ()
        called = bool(layer._inbound_nodes)
        return not _is_plain(layer) or called or any(store for _, store in stores)

    def _copy(self, held: Mapping[str, object], new: object) -> dict[str, object] | None:
        """These attributes for a new layer; None where one of them is not understood."""
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
        # PyTorch's view of the variables: of none, yet.
        parts = cast("dict[str, Sequence[object]]", made.get("_modules") or {})
        if any(value is NOT_PLAIN for value in made.values()) or any(map(len, parts.values())):
            return None
        for key, part in parts.items():
            parts[key] = type(part)()
        return made


def _copy_held(value: object, known: Mapping[int, object], tracker: Tracker) -> object:
    """What a copy holds in the place of an attribute; ``NOT_PLAIN`` for what is not understood."""
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, (TrackedList, TrackedDict, TrackedSet)):
        return type(value)(value, tracker)
    if isinstance(value, (list, dict, set)):
        if any(
            id(item) in known for item in (value.values() if isinstance(value, dict) else value)
        ):
            return NOT_PLAIN
        return copy.copy(value)
    if isinstance(value, keras.initializers.Initializer) and hasattr(value, "seed"):
        return type(value).from_config(value.get_config())  # one that draws numbers of its own
    if isinstance(value, types.MethodType) and id(value.__self__) in known:
        return types.MethodType(value.__func__, known[id(value.__self__)])
    if isinstance(value, types.FunctionType) and value.__closure__:
        return _bind_anew(value, known, tracker)
    return value


def _bind_anew(
    function: types.FunctionType, known: Mapping[int, object], tracker: Tracker
) -> types.FunctionType:
    """A function that Keras wrapped around a method, for another layer; others as they are."""
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
    """Whether it is a tensor of the backend that runs."""
    return bool(keras.ops.is_tensor(item))


def infer(layer: Operation, *arguments: object, **keywords: object) -> object:
    """The shapes and types a layer gives, found by running its code on tensors without data.

    Returns:
        ``keras.KerasTensor``, in the structure of what the layer gives.
    """
    specs: object = Operation.compute_output_spec(layer, *arguments, **keywords)
    return specs


def present_numbers(tensor: BackendTensor) -> NDArray[np.generic]:
    """A tensor's values, to be read now: they may change as the tensor's do."""
    known = keras.backend.standardize_dtype(tensor.dtype) != "bfloat16"
    if known and keras.backend.backend() == "torch":
        seen: NDArray[np.generic] = cast("TorchTensor", tensor).detach().cpu().numpy()
        return seen
    return np.asarray(keras.ops.convert_to_numpy(tensor))  # of PyTorch's, a copy


def pick_flat(tensor: BackendTensor, places: NDArray[np.integer]) -> BackendTensor:
    """Some numbers of a tensor, by their places in it from first to last."""
    flat: BackendTensor = keras.ops.reshape(tensor, (-1,))
    if keras.backend.backend() == "tensorflow":  # whose tensors take no arrays as indices
        flat = keras.ops.take(flat, places.astype(np.int32), axis=0)
    else:
        flat = flat[places]
    return flat


def mask_of(tensor: object) -> BackendTensor | None:
    """The mask (of padding) that travels with a tensor, if there is one."""
    mask: BackendTensor | None = backend.get_keras_mask(tensor)
    return mask


def set_mask(tensor: BackendTensor, mask: BackendTensor | None) -> None:
    """Let a mask travel with a tensor."""
    if mask is not None:
        backend.set_keras_mask(tensor, mask)


def operation_classes(*names: str) -> tuple[type, ...]:
    """The classes behind functions of ``keras.ops``; names this release lacks are left out."""
    modules: Sequence[ModuleType] = (ops.numpy, ops.nn, ops.core, ops.math, ops.image, ops.linalg)
    return find_classes(modules, *names)


def find_classes(places: Sequence[object], *names: str) -> tuple[type, ...]:
    """The classes of these names, wherever this release has them."""
    return tuple(
        found
        for name in names
        for place in places
        if (found := getattr(place, name, None)) is not None
    )


def compile_arguments_of(model: keras.Model) -> dict[str, object]:
    """The arguments ``compile`` was called with, as objects."""
    known = getattr(model, "_compile_config", None)
    return dict(known.config) if known is not None else {}


def variables_of(optimizer: keras.optimizers.Optimizer) -> list[Variable]:
    """The model's variables that an optimizer was built for, in its order."""
    return list(getattr(optimizer, "inner_optimizer", optimizer)._trainable_variables)


def variables_without_decay(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[Variable]
) -> list[Variable]:
    """Those of the variables that an optimizer was told to leave out of its weight decay."""
    keeper = getattr(optimizer, "inner_optimizer", optimizer)
    named = getattr(keeper, "_exclude_from_weight_decay_pattern", None) is not None
    if not named and not getattr(keeper, "_exclude_from_weight_decay", None):
        return []
    return [variable for variable in variables if not keeper._use_weight_decay(variable)]


def exclude_from_decay_(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[Variable]
) -> None:
    """Tell an optimizer that is not built yet to leave these out of its weight decay."""
    if variables:
        keeper = getattr(optimizer, "inner_optimizer", optimizer)
        keeper.exclude_from_weight_decay(var_list=list(variables))


def average_of(optimizer: keras.optimizers.Optimizer, variable: Variable) -> Variable | None:
    """The running average that an optimizer keeps of a variable (``use_ema``), if it does."""
    keeper = getattr(optimizer, "inner_optimizer", optimizer)
    averages = getattr(keeper, "_model_variables_moving_average", None)
    if not getattr(keeper, "use_ema", False) or not averages:
        return None
    for known, average in zip(keeper._trainable_variables, averages, strict=False):
        if known is variable:
            return average
    return None


def compile_function(function: Callable[P, R]) -> Callable[P, R]:
    """The function, compiled as a whole where running it piece by piece is slow (on JAX)."""
    if keras.backend.backend() != "jax":
        return function
    whole: Callable[P, R] = import_module("jax").jit(function)
    return whole


def gradient_of(function: Objective) -> SlopeFunction:
    """(tensors, *rest) -> the gradients of ``function(tensors, *rest)``, a single number."""
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
    """What is computed inside is not kept for gradients (PyTorch alone would)."""
    if keras.backend.backend() != "torch":
        return nullcontext()
    context: AbstractContextManager[object] = import_module("torch").no_grad()
    return context


@contextmanager
def intercept_calls(layers: Mapping[Layer, Callable[..., object]]) -> Iterator[None]:
    """For a while, calls of these layers go through functions: ``function(call, *arguments)``."""
    for layer, around in layers.items():
        original = layer.call
        vars(layer)["call"] = partial(around, original)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["call"]


def seed_(model: keras.Model, random: np.random.Generator) -> None:
    """Let dropout and the like draw from these random numbers alone, from now on."""
    seen: set[int] = set()
    for layer in model._flatten_layers():
        for generator in getattr(layer, "_seed_generators", ()):
            state = generator.state
            if id(state) not in seen:
                seen.add(id(state))
                state.assign(random.integers(2**31, size=tuple(state.shape)).astype("uint32"))
    if keras.backend.backend() == "torch":  # its dropout draws from one generator for all
        import_module("torch").manual_seed(int(random.integers(2**62)))


def keep_backend_random_state() -> AbstractContextManager[object]:
    """What is drawn inside leaves the backend's own random numbers as they were."""
    if keras.backend.backend() != "torch":
        return nullcontext()
    fork: AbstractContextManager[object] = import_module("torch").random.fork_rng()
    return fork


def device() -> str:
    """What the backend computes on."""
    if keras.backend.backend() != "torch":
        return str(keras.distribution.list_devices()[0])
    return str(import_module("keras.src.backend.torch.core").get_device())


def sync_(model: keras.Model) -> None:
    """In the middle of ``fit``: let the model's variables have their present values (on JAX)."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()


def say(line: str) -> None:
    """A line where Keras writes its own."""
    print_msg(line)
