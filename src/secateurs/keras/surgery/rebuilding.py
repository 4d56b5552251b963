"""Making a cut: a new model of smaller layers. The user's model is not touched."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, KeysView, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import keras
import numpy as np

from secateurs.channels.blocks import BlockCut
from secateurs.channels.cut import Cut
from secateurs.errors import CutError, ModelError, SecateursError
from secateurs.keras.internals import (
    NOT_PLAIN,
    Layer,
    LayerPattern,
    Operation,
    accepts_training,
    add_plainly,
    begin_graph_,
    graph_of,
    infer,
    is_model,
    is_subclassed,
    nodes_of,
    only_computes,
    plain_class,
)
from secateurs.keras.model.layer_tree import attributes_of, named_children, path_below
from secateurs.keras.model.nested import fill_in, flatten
from secateurs.keras.model.tensors import (
    ModelTensor,
    layers_by_path,
    list_tensors,
    named_operations,
    paths_of,
)
from secateurs.keras.protocols import BackendTensor, Node
from secateurs.keras.sizes.layer_sizes import (
    SizeChanges,
    by_owner,
    with_input_sizes,
    with_positions,
    with_sizes,
)
from secateurs.keras.surgery.bypass import Bypass, check_blocks, hand_on
from secateurs.keras.surgery.compiling import compile_like_
from secateurs.keras.surgery.functions import (
    Remake,
    all_sublayers,
    config_of_others,
    copy_torch_module,
    holds_functions,
    own_objects,
    put_functions_,
    with_functions,
    with_own_function,
)
from secateurs.keras.surgery.shrinking import copy_activation, is_shrunk, shrink
from secateurs.keras.surgery.slicing import slice_tensor
from secateurs.keras.surgery.state import carry_again_, carry_learned_, may_learn, name_alike_
from secateurs.keras.tracing.blocks import find_sums
from secateurs.keras.tracing.composites import is_composite, paths_inside, repeats_model
from secateurs.keras.tracing.interpreter import inputs_of
from secateurs.keras.tracing.rules.attention import SCALED_BY
from secateurs.keras.tracing.symbolic import RECORDING

Make = Callable[[str, Operation], Sequence[Operation]]
"""(path, layer) -> the layers to call in its place, one after the other."""


Patterns = dict[tuple[type, str], LayerPattern]
"""(class, configuration but for the name) -> a layer that was just made, to be copied."""

Dtype = Callable[[str], str]
"""The name of a layer's type -> that of the type it is to have in a copy."""


def cut_copy(
    model: keras.Model,
    cut: Cut,
    *,
    compiled: bool = True,
    dtype: Dtype | None = None,
    leaves: Sequence[ModelTensor] | None = None,
) -> keras.Model:
    """A copy of the model with the cut made, compiled as the model is.

    Args:
        model: what to cut; unchanged.
        cut: planned for this model, or for another built alike.
        compiled: False leaves the copy as it is built.
        dtype: the types of its layers, by those of the model's; None leaves them as they are.
        leaves: the model's variables, if they are listed already.

    Raises:
        CutError: a tensor or layer that the cut names is missing, or has another size.
        ModelError: a layer cannot be made again from its configuration.
    """
    if cut.blocks and cut.tensors:
        left = cut_copy(model, Cut(blocks=cut.blocks), compiled=compiled, dtype=dtype)
        return cut_copy(left, cut.without_blocks(), compiled=compiled)
    leaves = all_leaves = leaves or list_tensors(model)
    _check_tensors(leaves, cut)
    if cut.blocks:
        cut = replace(cut, blocks=find_sums(model, cut.blocks))
        check_blocks(cut.blocks, [path for path, _ in layers_by_path(model)])
        leaves = [leaf for leaf in leaves if not _goes_whole(leaf, cut.blocks)]
    changes = by_owner(cut.sizes)
    copies = Copies(cut, dtype)
    small = _make_again(model, cut, copies, changes)
    copies.restore()
    small_leaves = list_tensors(small)
    _fill_(small_leaves, leaves, cut)
    finalize_(small)
    _check_trains(model, small)
    for change in cut.sizes:
        if change.attribute in SCALED_BY:
            _keep_scale_(small, change.owner, change.before, change.after)
    carry_again(model, small, changes)
    copy_flags_(model, small, all_leaves, small_leaves)
    if compiled:
        compile_like_(model, small, cut, all_leaves, small_leaves)
    return small


def _goes_whole(leaf: ModelTensor, blocks: Sequence[BlockCut]) -> bool:
    """Whether a tensor goes with blocks, under each of its names."""
    names = (leaf.name, *leaf.aliases)
    return all(any(block.takes_with_it(name) for block in blocks) for name in names)


def _check_trains(model: keras.Model, small: keras.Model) -> None:
    """Layers that a subclassed model calls in training alone were not seen by the trace.

    Raises:
        CutError: they read channels that went.
    """
    if not is_subclassed(model) or not accepts_training(model):
        return
    inputs = keras.tree.map_structure(
        lambda tensor: keras.KerasTensor([n or 2 for n in tensor.shape], dtype=tensor.dtype),
        graph_of(model).input,
    )
    try:
        infer(model, inputs, training=True)
    except Exception:  # noqa: BLE001 - its code trains in some other way
        return
    try:
        infer(small, inputs, training=True)
    except Exception as error:
        message = " ".join(str(error).split())[:200]
        raise CutError(
            f"{model.name}: expected layers that read what inference reads; the cut model's call "
            f"raises {type(error).__name__} with training=True: {message}. Leave the channels that "
            "only training reads out of the cut: skip=..."
        ) from error


class Copies:
    """Layers made again in the sizes that a cut leaves, each once.

    Args:
        cut: what goes.
        dtype: as for ``cut_copy``.
    """

    def __init__(self, cut: Cut, dtype: Dtype | None = None) -> None:
        self._cut = cut
        self._dtype = dtype
        self._changes = by_owner(cut.sizes)
        self._blank = Blank()
        self._made: dict[int, Operation] = {}
        self._patterns: Patterns = {}
        self._blocks = {block.owner: block for block in cut.blocks if not block.layers}

    def of(self, layer: Operation, path: str) -> Operation:
        """What a layer becomes."""
        if id(layer) not in self._made:
            if repeats_model(layer) and type(layer) is keras.layers.TimeDistributed:
                self._made[id(layer)] = self._rebuild_repeating(layer, path)
            elif is_subclassed(layer) or (
                is_composite(layer) and (is_shrunk(layer) or self._touches(path))
            ):
                self._bypass_blocks_(layer, path)
                shrink(layer, path, self._cut.tensors, self._rebuild, self._made)
            else:
                self._made[id(layer)] = self._rebuild_or_shrink(layer, path)
        return self._made[id(layer)]

    def _rebuild_or_shrink(self, layer: Operation, path: str) -> Operation:
        try:
            made = self._rebuild(layer, path)
            if not is_composite(layer) or not _lacks_parts(layer, made):
                return made
        except ModelError:
            if not is_composite(layer):
                raise
        return shrink(layer, path, self._cut.tensors, self._rebuild, self._made)

    def _bypass_blocks_(self, layer: Layer, path: str) -> None:
        """Let something that hands its input on be in the place of blocks inside a layer."""
        for inner, inner_path in paths_inside(layer, path) if self._blocks else ():
            if (block := self._blocks.get(inner_path)) is not None:
                made = Bypass(block.place, block.after, name=inner.name, dtype=inner.dtype_policy)
                self._made[id(inner)] = made

    def restore(self) -> None:
        """Give every layer its own initialisers back."""
        self._blank.restore()

    def _rebuild_repeating(self, layer: Layer, path: str) -> Layer:
        """Unlike other composites, its configuration tells all, once its model is made again."""
        ((name, model),) = named_children(layer)
        inner = self._rebuild(model, path_below(path, name))
        return type(layer)(**{**layer.get_config(), "layer": inner})

    def _rebuild(self, layer: Operation, path: str) -> Operation:
        if is_model(layer):
            paths = {id(inner): inner_path for inner, inner_path in paths_inside(layer, path)}

            def make(name: str, inner: Operation) -> list[Operation]:
                return [self.of(inner, paths.get(id(inner), f"{path}.{name}"))]

            return rebuild(layer, make, None, self._inputs_of(layer, path))
        made = rebuild_layer(
            layer, path, self._changes, self._dtype, self._activation, self._patterns
        )
        return self._blank.blank(made)

    def _activation(self, layer: Layer, path: str) -> Layer:
        return copy_activation(layer, path, self._cut.tensors, self._made)

    def _inputs_of(self, model: keras.Model, path: str) -> list[keras.KerasTensor]:
        """What a model inside a layer is called on in its new sizes."""
        inputs = graph_of(model).inputs
        sizes = with_input_sizes(
            [tuple(tensor.shape) for tensor in inputs], self._changes.get(path, ())
        )
        return [
            keras.KerasTensor(shape, dtype=tensor.dtype)
            for shape, tensor in zip(sizes, inputs, strict=True)
        ]

    def _touches(self, path: str) -> bool:
        names = (*self._cut.tensors, *self._blocks)
        return any(not path or name.startswith(f"{path}.") for name in names)


def _lacks_parts(layer: Layer, made: Layer) -> bool:
    """Whether a configuration does not tell all: a part that its constructor made is none now."""

    def missing() -> list[str]:
        held = attributes_of(made)
        return [
            name
            for name, value in attributes_of(layer).items()
            if isinstance(value, keras.layers.Layer) and held.get(name, value) is None
        ]

    # It may make them when it is built, if it has anything to do then.
    builds = type(made).build is not keras.layers.Layer.build
    if missing() and builds and layer.built and not made.built:
        made.build_from_config(layer.get_build_config())
    return bool(missing())


def _make_again(model: keras.Model, cut: Cut, copies: Copies, changes: SizeChanges) -> keras.Model:
    blocks = {block.owner: block for block in cut.blocks}
    try:
        with keep_random_state(), RECORDING:
            return rebuild(
                model, lambda path, layer: [copies.of(layer, path)], changes, blocks=blocks
            )
    except SecateursError:
        raise
    except Exception as error:
        message = " ".join(str(error).split())[:300]
        raise CutError(
            f"{model.name}: expected layers that run in their new sizes; making the model again "
            f"raised {type(error).__name__}: {message}. Nothing was changed. Leave the channels "
            "of the layer named there out of the cut: skip=..."
        ) from error


def carry_again(model: keras.Model, small: keras.Model, changes: SizeChanges) -> None:
    """What ``build`` may have begun anew, layer by layer."""
    present = dict(named_operations(small))
    for path, operation in named_operations(model):
        if type(present.get(path)) is type(operation):
            carry_again_(operation, present[path], path, changes.keys())


def _check_tensors(leaves: Iterable[ModelTensor], cut: Cut) -> None:
    shapes = {leaf.name: leaf.shape for leaf in leaves}
    for name, tensor_cut in cut.tensors.items():
        if name not in shapes:
            raise CutError(
                f"{name}: expected a tensor of shape {tensor_cut.shape}; the model has none of "
                "this name. Apply the cut to the model it was planned for, or to one built alike: "
                "layers without names are numbered as they are made, so give them names or call "
                "keras.utils.clear_session() before building the model again."
            )
        if shapes[name] != tensor_cut.shape:
            raise CutError(
                f"{name}: expected shape {tensor_cut.shape}; received a model with shape "
                f"{shapes[name]}. Apply the cut to the model it was planned for, or to one built "
                "alike."
            )


# -- the graph, made again


def rebuild(
    model: keras.Model,
    make: Make,
    changes: SizeChanges | None = None,
    called_on: Sequence[keras.KerasTensor] | None = None,
    blocks: Mapping[str, BlockCut] | None = None,
) -> keras.Model:
    """A model of the same class and graph, of other layers.

    Args:
        model: sequential or functional, with any models inside.
        make: what to call in the place of each layer; a shared layer is asked for once.
        changes: positions in the arguments of calls that change.
        called_on: what a model inside a layer takes; None for the same sizes as before.
        blocks: residual blocks that go whole, by the path of their layer or sum.
    """
    if is_subclassed(model):
        return _rebuild_subclass(model, make)
    return _Rebuilding(model, make, changes or {}, blocks or {}).model(model, called_on)


def _rebuild_subclass(model: keras.Model, make: Make) -> keras.Model:
    """What was made of the one call in a subclassed model's graph; called, so that it is built."""
    (small,) = make("", model)
    begin_graph_(small, graph_of(model).input)
    built = {path: inner for inner, path in paths_inside(small, "")}
    for inner, path in paths_inside(model, ""):
        other = built.get(path)
        # What inference does not call may be there for training.
        if inner.built and other is not None and not other.built:
            other.build_from_config(inner.get_build_config())
    return small


class _Rebuilding:
    def __init__(
        self, model: keras.Model, make: Make, changes: SizeChanges, blocks: Mapping[str, BlockCut]
    ) -> None:
        self._make = make
        self._changes = changes
        self._blocks = blocks
        self._gone = {path for block in blocks.values() for path in block.layers}
        self._paths = paths_of(model)
        self._made: dict[int, list[Operation]] = {}

    def model(
        self, model: keras.Model, called_on: Sequence[keras.KerasTensor] | None
    ) -> keras.Model:
        """The model again; one inside another is told what it is called on now."""
        graph = graph_of(model)
        inputs = [
            _input_like(tensor, None if called_on is None else called_on[number])
            for number, tensor in enumerate(graph.inputs)
        ]
        if isinstance(model, keras.Sequential):
            return self._sequential(model, inputs[0])
        known = {id(old): new for old, new in zip(graph.inputs, inputs, strict=True)}
        for node in nodes_of(graph):
            if self._is_gone(node, known):
                continue
            outputs = flatten(self._call(node, known))
            known.update((id(old), new) for old, new in zip(node.outputs, outputs, strict=True))

        def find(tensor: keras.KerasTensor) -> keras.KerasTensor:
            return known[id(tensor)]

        return plain_class(model)(
            keras.tree.map_structure(find, model.input),
            keras.tree.map_structure(find, model.output),
            name=model.name,
        )

    def _is_gone(self, node: Node, known: Mapping[int, keras.KerasTensor]) -> bool:
        """Whether a call goes with a block: its layer does, or it reads what such a one gave."""
        path = self._paths.get(id(node.operation))
        if not self._gone or path in self._blocks:
            return False
        return path in self._gone or any(id(tensor) not in known for tensor in node.input_tensors)

    def _sequential(self, model: keras.Model, begin: keras.KerasTensor) -> keras.Sequential:
        made = [layer for old in model.layers for layer in self._layers(old, None)]
        return plain_class(model)([begin, *made], name=model.name)

    def _call(self, node: Node, known: Mapping[int, keras.KerasTensor]) -> object:
        arguments, keywords = fill_in(node, known)
        operation = node.operation
        path = self._paths.get(id(operation), "")
        if (block := self._blocks.get(path)) is not None:
            return hand_on(block, operation.name, arguments, keywords)
        changes = self._changes.get(path, ())
        arguments = with_positions(operation, arguments, changes)
        called_on = (
            inputs_of(operation, [*arguments, *keywords.values()][0])
            if is_model(operation)
            else None
        )
        result: object = None
        made = self._layers(operation, called_on)
        for number, layer in enumerate(made):
            given, options = (arguments, keywords) if number == 0 else ([result], {})
            result = add_plainly(layer, given, options)
            if result is NOT_PLAIN:
                result = layer(*given, **options)
        return result if made else arguments[0]

    def _layers(
        self, operation: Operation, called_on: Sequence[keras.KerasTensor] | None
    ) -> list[Operation]:
        if id(operation) not in self._made:
            path = self._paths.get(id(operation), "")
            if is_model(operation):
                self._made[id(operation)] = [self.model(operation, called_on)]
            elif (block := self._blocks.get(path)) is not None:  # of a sequential model
                after = block.after
                self._made[id(operation)] = (
                    [keras.layers.Activation(after, name=operation.name)] if after else []
                )
            else:
                self._made[id(operation)] = list(self._make(path, operation))
        return self._made[id(operation)]


def _input_like(
    tensor: keras.KerasTensor, called_on: keras.KerasTensor | None
) -> keras.KerasTensor:
    """A new input; lengths that were given are those of what it is called on now."""
    layer = tensor._keras_history.operation
    config = layer.get_config()
    if called_on is not None:
        config["batch_shape"] = tuple(
            None if old is None else new
            for old, new in zip(tensor.shape, called_on.shape, strict=True)
        )
    return type(layer).from_config(config).output


def rebuild_layer(
    layer: Operation,
    path: str,
    changes: SizeChanges | None = None,
    dtype: Dtype | None = None,
    remake: Remake | None = None,
    patterns: Patterns | None = None,
) -> Operation:
    """A new layer (or operation) of the same class and configuration, but for some sizes.

    Args:
        layer: the old one.
        path: of the layer.
        changes: of sizes, by path.
        dtype: as for ``cut_copy``.
        remake: what becomes of layers that are another's activation; None copies them as they are.
        patterns: layers made before, which those of the same configuration are copied from.

    Raises:
        ModelError: it cannot be made from its configuration.
    """
    if isinstance(layer, keras.layers.TorchModuleWrapper):
        return copy_torch_module(layer)
    try:
        config = with_sizes(_config_of(layer), path, changes or {}, layer)
        config = config if dtype is None else _with_dtypes(config, dtype)
        if (
            alike := _copy_pattern(config, layer, {} if patterns is None else patterns)
        ) is not None:
            return alike
        with keras.saving.custom_object_scope(own_objects(layer)):
            if isinstance(layer, keras.layers.Lambda):
                return type(layer)(**with_own_function(config, layer))
            new = _from_config(config, layer, path, remake or _copy_whole)
            fresh = new
            changed = any(f"{owner}.".startswith(f"{path}.") for owner in changes or {})
            if changed and may_learn(layer):  # else nobody asks what came later
                fresh = _from_config(_config_of(layer), layer, path, _copy_whole)
    except CutError:
        raise
    except Exception as error:
        raise ModelError(
            f"{path}: expected a layer that can be made again from its get_config(); "
            f"{type(layer).__name__} raised {type(error).__name__}: {error}. Give it get_config() "
            "and from_config(), as saving it needs."
        ) from error
    name_alike_(layer, new, dtype)
    name_alike_(layer, fresh, dtype)
    carry_learned_(layer, new, path, fresh)
    return new


def _copy_pattern(
    config: Mapping[str, object], layer: Operation, patterns: Patterns
) -> Operation | None:
    """A layer of this configuration, copied of one that was made before; None where it may not be.

    Args:
        config: of the new layer.
        layer: the old one.
        patterns: those made before; one more is added.
    """
    if not only_computes(layer) or holds_functions(layer) or may_learn(layer):
        return None
    try:
        key = type(layer), json.dumps({**config, "name": ""})
    except TypeError:  # something that its own constructor has to be given
        return None
    if key not in patterns:
        with keras.saving.custom_object_scope(own_objects(layer)):
            patterns[key] = LayerPattern(type(layer).from_config(dict(config)))
    if not patterns[key].is_simple:
        return None
    return patterns[key].copy(str(config["name"]))


def _from_config(
    config: Mapping[str, object], layer: Operation, path: str, remake: Remake
) -> Operation:
    new: Operation = type(layer).from_config(with_functions(config, layer, path, remake))
    put_functions_(layer, new, path, remake)
    return new


def _copy_whole(layer: Layer, path: str) -> Layer:
    return copy_activation(layer, path, {}, {})


def _config_of(layer: Operation) -> dict[str, object]:
    """A layer's configuration; what follows the shape of its inputs there stands on its own.

    Keras has none of an Identity that was given a policy.
    """
    if type(layer) is keras.layers.Identity:
        return {"name": layer.name, "dtype": keras.dtype_policies.serialize(layer.dtype_policy)}
    config = config_of_others(layer)
    is_attention = isinstance(layer, keras.layers.MultiHeadAttention)
    if is_attention and layer.built and config.get("output_shape", "") is None:
        # As wide as its query, which may lose channels where the result does not.
        config["output_shape"] = list(layer._output_dense.kernel.shape[2:])
    return config


def _with_dtypes(config: Mapping[str, object], dtype: Dtype) -> dict[str, object]:
    """A configuration, and those inside it, with other types."""
    find = {key: _with_dtypes_inside(value, dtype) for key, value in config.items()}
    policy, kind = config.get("config"), config.get("dtype")
    if config.get("class_name") == "DTypePolicy" and isinstance(policy, Mapping):
        find["config"] = {**policy, "name": dtype(str(policy["name"]))}
    if isinstance(kind, str):
        find["dtype"] = dtype(kind)
    return find


def _with_dtypes_inside(value: object, dtype: Dtype) -> object:
    if isinstance(value, Mapping):
        return _with_dtypes(value, dtype)
    return (
        [_with_dtypes_inside(item, dtype) for item in value] if isinstance(value, list) else value
    )


# -- weights and flags


def _fill_(small_leaves: Sequence[ModelTensor], leaves: Sequence[ModelTensor], cut: Cut) -> None:
    present = {leaf.name: leaf for leaf in small_leaves}
    check_same_tensors([[leaf.name, *leaf.aliases] for leaf in leaves], present.keys())
    for leaf in leaves:
        value = slice_tensor(leaf.variable.value, cut.tensors.get(leaf.name))
        for name in (leaf.name, *leaf.aliases):
            if name not in present:
                continue
            if present[name].shape != tuple(value.shape):
                raise CutError(
                    f"{name}: expected shape {tuple(value.shape)} after the cut; Keras made it "
                    f"{present[name].shape}. A size of its layer does not follow its channels: "
                    "leave these out of the cut, and please report it."
                )
            present[name].variable.assign(value)


def check_same_tensors(names: Iterable[Sequence[str]], present: KeysView[str]) -> None:
    """Refuse a copy in which a tensor would be lost, or keep the numbers that it began with.

    Args:
        names: of each tensor of the model: all names it goes by.
        present: names in the copy.

    Raises:
        ModelError: the copy lacks one, or has one more.
    """
    known = [list(aliases) for aliases in names]
    lost = [aliases[0] for aliases in known if present.isdisjoint(aliases)]
    more = sorted(set(present).difference(*known)) if known else sorted(present)
    if lost or more:
        difference = f"has no {lost[0]}" if lost else f"has a {more[0]} besides"
        raise ModelError(
            f"{(lost or more)[0].rpartition('.')[0]}: expected a layer that has the same tensors "
            f"when it is made again from its get_config(); the one that was made {difference}. Its "
            "get_config() has to give every argument of its constructor. Nothing was changed."
        )


def finalize_(model: keras.Model) -> None:
    """Let layers that derive something from their weights do so."""
    for _, operation in layers_by_path(model):
        # Without weights, what it would derive is what it has learned, and was carried over.
        if callable(getattr(operation, "finalize_state", None)) and operation.weights:
            operation.finalize_state()


def _keep_scale_(model: keras.Model, layer: str, before: int, after: int) -> None:
    """Make up for the root of the head's size that attention divides its scores by.

    Without it a smaller head would sharpen the attention; with it, the scores are exactly the sums
    over the channels that stay.
    """
    for leaf in list_tensors(model):
        if leaf.name in (f"{layer}.query.kernel", f"{layer}.query.bias"):
            leaf.variable.assign(leaf.variable.value * (after / before) ** 0.5)


def copy_flags_(
    model: keras.Model,
    small: keras.Model,
    leaves: Sequence[ModelTensor] | None = None,
    small_leaves: Sequence[ModelTensor] | None = None,
) -> None:
    """What may be trained, layer by layer and variable by variable; of variables listed already."""
    _copy_trainable_(model, small)
    present = {leaf.name: leaf for leaf in small_leaves or list_tensors(small)}
    for leaf in leaves or list_tensors(model):
        if leaf.name in present:
            present[leaf.name].variable.trainable = leaf.variable.trainable


def _copy_trainable_(layer: Layer, other: Layer) -> None:
    """From the outside in: setting a layer's flag sets those of the layers inside it."""
    if isinstance(layer, Layer) and isinstance(other, Layer):
        if other.trainable != layer.trainable:
            other.trainable = layer.trainable
        theirs = dict(named_children(other))
        for name, child in named_children(layer):
            if name in theirs:
                _copy_trainable_(child, theirs[name])


@contextmanager
def keep_random_state() -> Iterator[None]:
    """New layers draw seeds; the user's random numbers are left as they were."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


class Zeros:
    """An initialiser without arithmetic: JAX compiles a program for each shape Keras's own draw."""

    def __call__(
        self, shape: Sequence[int], dtype: str | None = None, **_: object
    ) -> BackendTensor:
        if keras.backend.backend() == "jax":
            made: BackendTensor = keras.ops.convert_to_tensor(
                np.zeros(tuple(shape), np.float32), dtype=dtype
            )
        else:
            made = keras.ops.zeros(tuple(shape), dtype=dtype)
        return made

    def get_config(self) -> dict[str, object]:
        """Nothing to configure; some layers make initialisers anew for the layers inside them."""
        return {}

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Zeros:
        """Another one."""
        del config
        return cls()


class Blank:
    """Lets layers start from zeros for a while: what they would draw is thrown away at once."""

    def __init__(self) -> None:
        self._initialisers: list[tuple[Layer, str, keras.initializers.Initializer]] = []
        self._zeros = Zeros()

    def blank(self, layer: Layer) -> Layer:
        """The layer, with zeros for initialisers, in the layers inside it too."""
        for inner in [layer, *all_sublayers(layer)]:
            for name, value in list(vars(inner).items()):
                if isinstance(value, keras.initializers.Initializer):
                    self._initialisers.append((inner, name, value))
                    vars(inner)[name] = self._zeros
        return layer

    def restore(self) -> None:
        """Give every layer its own initialisers back."""
        for layer, name, value in self._initialisers:
            vars(layer)[name] = value
        self._initialisers.clear()
