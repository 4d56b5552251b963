"""Rebuild a model with the smaller layers of a cut; the original is unchanged."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Container, Iterable, Iterator, KeysView, Mapping, Sequence
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
    Variable,
    accepts_training,
    add_plainly,
    assign_,
    begin_graph_,
    graph_of,
    has_values,
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
from secateurs.keras.surgery.built_copies import BuiltCopies
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
from secateurs.keras.surgery.plain_state import is_alike
from secateurs.keras.surgery.shrinking import copy_activation, is_shrunk, shrink
from secateurs.keras.surgery.slicing import slice_tensor
from secateurs.keras.surgery.state import carry_again_, carry_learned_, may_learn, name_alike_
from secateurs.keras.tracing.blocks import find_sums
from secateurs.keras.tracing.composites import is_composite, paths_inside, repeats_model
from secateurs.keras.tracing.interpreter import inputs_of
from secateurs.keras.tracing.rules.attention import SCALED_BY
from secateurs.keras.tracing.symbolic import RECORDING

Make = Callable[[str, Operation], Sequence[Operation]]
"""Function (path, layer) -> layers to call in its place, in sequence."""


Patterns = dict[tuple[type, str], "SizedPatterns"]
"""(class, configuration without name and sizes) -> patterns of new layers, to be copied."""

Dtype = Callable[[str], str]
"""Function from the name of a layer's dtype policy to the name in the copy."""


def cut_copy(
    model: keras.Model,
    cut: Cut,
    *,
    compiled: bool = True,
    dtype: Dtype | None = None,
    leaves: Sequence[ModelTensor] | None = None,
) -> keras.Model:
    """Return a copy of the model with the cut applied, compiled like the model.

    Args:
        model: model to cut; unchanged.
        cut: cut planned for this model, or for another built by the same code.
        compiled: False leaves the copy uncompiled.
        dtype: function from the name of a layer's dtype policy to the copy's; None keeps them.
        leaves: tensors of the model, if they are listed already.

    Raises:
        CutError: a tensor or layer that the cut names is missing, or has another size.
        ModelError: a layer cannot be rebuilt from its configuration.
    """
    if cut.blocks and cut.tensors:
        left = cut_copy(model, Cut(blocks=cut.blocks), compiled=compiled, dtype=dtype)
        return cut_copy(left, cut.without_blocks(), compiled=compiled)
    leaves = all_leaves = leaves or list_tensors(model)
    _check_tensors(leaves, cut)
    if cut.blocks:
        cut = replace(cut, blocks=find_sums(model, cut.blocks))
        check_blocks(cut.blocks, [path for path, _ in layers_by_path(model)])
        leaves = [leaf for leaf in leaves if not _is_removed_whole(leaf, cut.blocks)]
    changes = by_owner(cut.sizes)
    copies = Copies(cut, dtype)
    built = BuiltCopies(cut, leaves, changes) if dtype is None else None
    small = _rebuild_small(model, cut, copies, changes, built)
    copies.restore()
    small_leaves = list_tensors(small)
    _fill_(small_leaves, leaves, cut, {} if built is None else built.filled)
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


def _is_removed_whole(leaf: ModelTensor, blocks: Sequence[BlockCut]) -> bool:
    """Return whether a tensor is removed with blocks, under each of its names."""
    names = (leaf.name, *leaf.aliases)
    return all(any(block.takes_with_it(name) for block in blocks) for name in names)


def _check_trains(model: keras.Model, small: keras.Model) -> None:
    """Check that a subclassed model also runs with ``training=True``.

    The trace follows inference and has not seen layers that are called in training only.

    Raises:
        CutError: such a layer reads removed channels.
    """
    if not is_subclassed(model) or not accepts_training(model):
        return
    inputs = keras.tree.map_structure(
        lambda tensor: keras.KerasTensor([n or 2 for n in tensor.shape], dtype=tensor.dtype),
        graph_of(model).input,
    )
    try:
        infer(model, inputs, training=True)
    except Exception:  # noqa: BLE001 - the dense model cannot be called so either
        return
    try:
        infer(small, inputs, training=True)
    except Exception as error:
        message = " ".join(str(error).split())[:200]
        raise CutError(
            f"{model.name}: expected layers that read the same channels in training as in "
            f"inference; the cut model's call raises {type(error).__name__} with training=True: "
            f"{message}. Leave the channels that only training reads out of the cut: skip=..."
        ) from error


class Copies:
    """Cache of layers rebuilt with the sizes after a cut.

    Args:
        cut: cut to apply.
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
        """Return the copy of a layer."""
        if id(layer) not in self._made:
            if repeats_model(layer) and type(layer) is keras.layers.TimeDistributed:
                self._made[id(layer)] = self._rebuild_repeating(layer, path)
            elif is_subclassed(layer) or (
                is_composite(layer) and (is_shrunk(layer) or self._touches(path))
            ):
                self._bypass_blocks_(layer, path)
                shrink(layer, path, self._cut.tensors, self._rebuild, self._made, self._changes)
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
        return shrink(layer, path, self._cut.tensors, self._rebuild, self._made, self._changes)

    def _bypass_blocks_(self, layer: Layer, path: str) -> None:
        """Replace removed blocks inside a layer by layers that return their input."""
        for inner, inner_path in paths_inside(layer, path) if self._blocks else ():
            if (block := self._blocks.get(inner_path)) is not None:
                made = Bypass(block.place, block.after, name=inner.name, dtype=inner.dtype_policy)
                self._made[id(inner)] = made

    def restore(self) -> None:
        """Restore the initialisers of all layers."""
        self._blank.restore()

    def _rebuild_repeating(self, layer: Layer, path: str) -> Layer:
        """Rebuild a ``TimeDistributed`` model: the rest of its configuration is complete."""
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
        """Return symbolic inputs of a model inside a layer, with their new sizes."""
        inputs = graph_of(model).inputs
        sizes = with_input_sizes(
            [tuple(tensor.shape) for tensor in inputs], self._changes.get(path, ())
        )
        return [
            keras.KerasTensor(shape, dtype=tensor.dtype)
            for shape, tensor in zip(sizes, inputs, strict=True)
        ]

    def _touches(self, path: str) -> bool:
        names = (*self._cut.tensors, *self._blocks, *self._changes)
        return path in self._changes or any(
            not path or name.startswith(f"{path}.") for name in names
        )


def _lacks_parts(layer: Layer, made: Layer) -> bool:
    """Return whether a layer rebuilt from its configuration lacks a sublayer of the original."""

    def missing() -> list[str]:
        held = attributes_of(made)
        return [
            name
            for name, value in attributes_of(layer).items()
            if isinstance(value, keras.layers.Layer) and held.get(name, value) is None
        ]

    # A class with a ``build`` of its own may create the sublayers there.
    builds = type(made).build is not keras.layers.Layer.build
    if missing() and builds and layer.built and not made.built:
        made.build_from_config(layer.get_build_config())
    return bool(missing())


def _rebuild_small(
    model: keras.Model, cut: Cut, copies: Copies, changes: SizeChanges, built: BuiltCopies | None
) -> keras.Model:
    """Rebuild the model from copies; explain errors of layers that fail in their new sizes."""
    blocks = {block.owner: block for block in cut.blocks}
    try:
        with keep_random_state(), RECORDING:
            small = rebuild(
                model,
                lambda path, layer: [copies.of(layer, path)],
                changes,
                blocks=blocks,
                built=built,
            )
            if built is not None:
                built.handles.fill()
            return small
    except SecateursError:
        raise
    except Exception as error:
        message = " ".join(str(error).split())[:300]
        raise CutError(
            f"{model.name}: expected layers that run in their new sizes; rebuilding the model "
            f"raised {type(error).__name__}: {message}. Nothing was changed. Leave the channels "
            "of the layer named there out of the cut: skip=..."
        ) from error


def carry_again(model: keras.Model, small: keras.Model, changes: SizeChanges) -> None:
    """Copy learned state that ``build`` may have reset, layer by layer."""
    present = dict(named_operations(small))
    for path, operation in named_operations(model):
        if type(present.get(path)) is type(operation):
            carry_again_(operation, present[path], path, changes.keys())


def _check_tensors(leaves: Iterable[ModelTensor], cut: Cut) -> None:
    """Raise unless the model has the tensors that the cut names, in these shapes."""
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


# -- rebuilding the graph


def rebuild(
    model: keras.Model,
    make: Make,
    changes: SizeChanges | None = None,
    called_on: Sequence[keras.KerasTensor] | None = None,
    blocks: Mapping[str, BlockCut] | None = None,
    built: BuiltCopies | None = None,
) -> keras.Model:
    """Rebuild a model with the same class and graph from other layers.

    Args:
        model: model with a graph, possibly with nested models.
        make: function that returns what to call in place of each layer; called once per layer.
        changes: positions in the arguments of calls that change.
        called_on: symbolic inputs of a model inside a layer; None keeps the model's input sizes.
        blocks: residual blocks to remove whole, by the path of their layer or sum.
        built: copies of built layers to use in place of ``make`` where there are any.
    """
    if is_subclassed(model):
        return _rebuild_subclass(model, make)
    return _GraphRebuilder(model, make, changes or {}, blocks or {}, built).model(model, called_on)


def _rebuild_subclass(model: keras.Model, make: Make) -> keras.Model:
    """Rebuild a subclassed model, and call it once so that it is built."""
    (small,) = make("", model)
    begin_graph_(small, graph_of(model).input)
    built = {path: inner for inner, path in paths_inside(small, "")}
    for inner, path in paths_inside(model, ""):
        other = built.get(path)
        # Layers that inference does not call may be needed in training.
        if inner.built and other is not None and not other.built:
            other.build_from_config(inner.get_build_config())
    return small


class _GraphRebuilder:
    """Rebuilds a graph call by call; each layer is made once."""

    def __init__(
        self,
        model: keras.Model,
        make: Make,
        changes: SizeChanges,
        blocks: Mapping[str, BlockCut],
        built: BuiltCopies | None = None,
    ) -> None:
        self._make = make
        self._built = built
        self._changes = changes
        self._blocks = blocks
        self._gone = {path for block in blocks.values() for path in block.layers}
        self._paths = paths_of(model)
        self._made: dict[int, list[Operation]] = {}

    def model(
        self, model: keras.Model, called_on: Sequence[keras.KerasTensor] | None
    ) -> keras.Model:
        """Rebuild a model; ``called_on`` gives the new inputs of a nested one."""
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
        """Return whether a call is removed with a block: its layer is, or a tensor it reads is."""
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
        kind = None
        if self._built is not None and id(operation) not in self._made:
            copy, kind = self._built.copy(operation, path, arguments)
            if copy is not None:
                self._made[id(operation)] = [copy]
        made = self._layers(operation, called_on)
        for number, layer in enumerate(made):
            given, options = (arguments, keywords) if number == 0 else ([result], {})
            result = add_plainly(layer, given, options)
            if result is NOT_PLAIN:
                result = layer(*given, **options)
        if self._built is not None and kind is not None and len(made) == 1:
            self._built.learn(operation, path, arguments, made[0], kind)
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
    """Return a new input; fixed lengths are those of the tensor it is now called on."""
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
    """Rebuild a layer (or operation) from its configuration with some sizes changed.

    Args:
        layer: original layer.
        path: path of the layer.
        changes: size changes by path.
        dtype: as for ``cut_copy``.
        remake: function that copies layers used as activations; None copies them unchanged.
        patterns: cache of new layers, from which layers of the same configuration are copied.

    Raises:
        ModelError: the layer cannot be rebuilt from its configuration.
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
            if changed and may_learn(layer):  # only then is the learned state compared
                fresh = _from_config(_config_of(layer), layer, path, _copy_whole)
    except CutError:
        raise
    except Exception as error:
        raise ModelError(
            f"{path}: expected a layer that can be rebuilt from its get_config(); "
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
    """Copy a cached layer of this configuration; None where the layer cannot be copied.

    Args:
        config: configuration of the new layer.
        layer: original layer.
        patterns: cache of patterns; extended.
    """
    if not only_computes(layer) or holds_functions(layer) or may_learn(layer):
        return None
    sizes = {
        key: value
        for key, value in config.items()
        if type(value) is int and type(vars(layer).get(key)) is int
    }
    try:
        key = type(layer), json.dumps({**config, **dict.fromkeys(sizes), "name": ""})
    except TypeError:  # holds an object, which the constructor needs
        return None

    def construct() -> LayerPattern:
        with keras.saving.custom_object_scope(own_objects(layer)):
            return LayerPattern(type(layer).from_config(dict(config)))

    known = patterns.setdefault(key, SizedPatterns())
    return known.copy(str(config["name"]), sizes, construct)


class SizedPatterns:
    """Patterns of the layers whose configurations differ in their names and sizes only.

    Most constructors store a size and do nothing else with it. Whether this one does is seen from
    the first two layers of different sizes; the sizes of all others are then set in copies.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[int, ...], LayerPattern] = {}
        self._follows = False

    def copy(
        self, name: str, sizes: Mapping[str, int], construct: Callable[[], LayerPattern]
    ) -> Operation | None:
        """Return a new layer of these sizes; None where its attributes cannot be copied."""
        numbers = tuple(sizes.values())
        if self._follows:
            return next(iter(self._made.values())).copy(name, sizes)
        if numbers not in self._made:
            made = self._made[numbers] = construct()
            first = next(iter(self._made.values()))
            self._follows = made is not first and first.is_simple and first.follows(sizes, made)
        pattern = self._made[numbers]
        return pattern.copy(name) if pattern.is_simple else None


def _from_config(
    config: Mapping[str, object], layer: Operation, path: str, remake: Remake
) -> Operation:
    new: Operation = type(layer).from_config(with_functions(config, layer, path, remake))
    put_functions_(layer, new, path, remake)
    return new


def _copy_whole(layer: Layer, path: str) -> Layer:
    return copy_activation(layer, path, {}, {})


def _config_of(layer: Operation) -> dict[str, object]:
    """Return a layer's configuration, with sizes that default to an input's width made explicit.

    An ``Identity`` with a dtype policy is special-cased, because its ``get_config`` fails.
    """
    if type(layer) is keras.layers.Identity:
        return {"name": layer.name, "dtype": keras.dtype_policies.serialize(layer.dtype_policy)}
    config = config_of_others(layer)
    is_attention = isinstance(layer, keras.layers.MultiHeadAttention)
    if is_attention and layer.built and config.get("output_shape", "") is None:
        # The default is the query's width; the query may lose channels where the output does not.
        config["output_shape"] = list(layer._output_dense.kernel.shape[2:])
    return config


def _with_dtypes(config: Mapping[str, object], dtype: Dtype) -> dict[str, object]:
    """Change the dtype policies in a configuration and in those nested in it."""
    changed = {key: _with_dtypes_inside(value, dtype) for key, value in config.items()}
    policy, kind = config.get("config"), config.get("dtype")
    if config.get("class_name") == "DTypePolicy" and isinstance(policy, Mapping):
        changed["config"] = {**policy, "name": dtype(str(policy["name"]))}
    if isinstance(kind, str):
        changed["dtype"] = dtype(kind)
    return changed


def _with_dtypes_inside(value: object, dtype: Dtype) -> object:
    if isinstance(value, Mapping):
        return _with_dtypes(value, dtype)
    return (
        [_with_dtypes_inside(item, dtype) for item in value] if isinstance(value, list) else value
    )


# -- weights and flags


def _fill_(
    small_leaves: Sequence[ModelTensor],
    leaves: Sequence[ModelTensor],
    cut: Cut,
    filled: Container[int] = (),
) -> None:
    """Assign the kept slices of the model's tensors to the small model's.

    Args:
        small_leaves: tensors of the small model.
        leaves: tensors of the model.
        cut: the cut.
        filled: ``id`` of the small model's variables that have their values already.
    """
    present = {leaf.name: leaf for leaf in small_leaves}
    check_same_tensors([[leaf.name, *leaf.aliases] for leaf in leaves], present.keys())
    for leaf in leaves:
        if leaf.name in present and id(present[leaf.name].variable) in filled:
            continue
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
            assign_(present[name].variable, value)


def check_same_tensors(names: Iterable[Sequence[str]], present: KeysView[str]) -> None:
    """Raise unless a copy has exactly the tensors of the model.

    A missing tensor would be lost; an additional one would keep its initial values.

    Args:
        names: all names of each tensor of the model.
        present: names of the tensors in the copy.

    Raises:
        ModelError: the copy lacks a tensor, or has an additional one.
    """
    known = [list(aliases) for aliases in names]
    lost = [aliases[0] for aliases in known if present.isdisjoint(aliases)]
    more = sorted(set(present).difference(*known)) if known else sorted(present)
    if lost or more:
        difference = f"has no {lost[0]}" if lost else f"has an additional {more[0]}"
        raise ModelError(
            f"{(lost or more)[0].rpartition('.')[0]}: expected a layer that has the same tensors "
            f"when it is rebuilt from its get_config(); the rebuilt one {difference}. Its "
            "get_config() must return every argument of its constructor. Nothing was changed."
        )


def finalize_(model: keras.Model) -> None:
    """Call ``finalize_state`` of the layers that derive state from their weights."""
    for _, operation in layers_by_path(model):
        # A layer without weights derives from learned state, which has been copied already.
        if callable(getattr(operation, "finalize_state", None)) and operation.weights:
            operation.finalize_state()


def _keep_scale_(model: keras.Model, layer: str, before: int, after: int) -> None:
    """Scale the query's weights to compensate for the changed head size.

    Attention divides its scores by the square root of the head size, so a smaller head would
    sharpen the attention. With the scaling, the scores are exactly the sums over the kept channels
    with the dense model's divisor.
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
    """Copy the ``trainable`` flags of all layers and variables, and the variables' rules."""
    _copy_trainable_(model, small)
    present = {leaf.name: leaf for leaf in small_leaves or list_tensors(small)}
    for leaf in leaves or list_tensors(model):
        if leaf.name in present:
            variable = present[leaf.name].variable
            variable.trainable = leaf.variable.trainable
            _copy_rules_(leaf.variable, variable)


def _copy_rules_(variable: Variable, new: Variable) -> None:
    """Give a variable the regularizer and the constraint of another.

    A configuration does not tell them where a user has set them on the variable, nor where a
    layer's own code passes them to ``add_weight``.
    """
    for name in ("regularizer", "constraint"):
        rule, other = getattr(variable, name), getattr(new, name)
        if type(rule) is type(other) and is_alike(_options_of(rule), _options_of(other)):
            continue  # it is the one that the new layer holds
        setattr(new, name, copy.copy(rule))


def _options_of(rule: object) -> object:
    """Return what tells a rule from others of its class; a function only from itself."""
    return vars(rule) if isinstance(rule, _RULES) else rule


_RULES = (keras.regularizers.Regularizer, keras.constraints.Constraint)


def _copy_trainable_(layer: Layer, other: Layer) -> None:
    """Copy flags from the outside in: setting a layer's flag sets those of its sublayers."""
    if isinstance(layer, Layer) and isinstance(other, Layer):
        if other.trainable != layer.trainable:
            other.trainable = layer.trainable
        theirs = dict(named_children(other))
        for name, child in named_children(layer):
            if name in theirs:
                _copy_trainable_(child, theirs[name])


@contextmanager
def keep_random_state() -> Iterator[None]:
    """Restore Python's random state at the end: constructing layers draws seeds from it."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


class Zeros:
    """Initialiser of zeros that JAX need not compile, unlike Keras's own, for every shape.

    TensorFlow's variables share the zeros, which they do not write to, and which take it longer to
    make than to assign.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[int, ...], str | None], BackendTensor] = {}

    def __call__(
        self, shape: Sequence[int], dtype: str | None = None, **_: object
    ) -> BackendTensor:
        kind, key = keras.backend.backend(), (tuple(shape), dtype)
        if kind not in ("jax", "tensorflow"):
            made: BackendTensor = keras.ops.zeros(key[0], dtype=dtype)
            return made
        if key in self._known:
            return self._known[key]
        made = keras.ops.convert_to_tensor(np.zeros(key[0], np.float32), dtype=dtype)
        if kind == "tensorflow" and has_values(made):
            self._known[key] = made
        return made

    def get_config(self) -> dict[str, object]:
        """Return an empty configuration; some layers rebuild initialisers for their sublayers."""
        return {}

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Zeros:
        """Return a new initialiser."""
        del config
        return cls()


class Blank:
    """Temporarily replaces initialisers by zeros: the initial values are overwritten anyway."""

    def __init__(self) -> None:
        self._initialisers: list[tuple[Layer, str, keras.initializers.Initializer]] = []
        self._zeros = Zeros()

    def blank(self, layer: Layer) -> Layer:
        """Replace the initialisers of a layer and its sublayers by zeros; return the layer."""
        for inner in [layer, *all_sublayers(layer)]:
            for name, value in list(vars(inner).items()):
                if isinstance(value, keras.initializers.Initializer):
                    self._initialisers.append((inner, name, value))
                    vars(inner)[name] = self._zeros
        return layer

    def restore(self) -> None:
        """Restore the initialisers of all layers."""
        for layer, name, value in self._initialisers:
            vars(layer)[name] = value
        self._initialisers.clear()
