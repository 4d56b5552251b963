"""Copies of built layers with other sizes: what rebuilding them would give, in less time.

Keras constructs a layer and builds it in hundreds of small steps, which for a hundred layers takes
longer than running them. A built-in layer that only computes holds plain values, variables and
Keras's records of them. A copy of its attributes, with sliced variables and new sizes, is then the
layer that its configuration gives when it is called on the smaller tensor. That is not assumed: the
first layer of each kind is rebuilt from its configuration, and a copy of it must be the same in
every attribute. What is not understood, or differs, is rebuilt. Like ``internals``, this module
uses names that Keras does not export.
"""

from __future__ import annotations

import inspect
import types
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.channels.cut import Cut, TensorCut
from secateurs.keras.internals import (
    Layer,
    Operation,
    SerializableDict,
    TrackedDict,
    TrackedList,
    TrackedSet,
    Tracker,
    Variable,
    accepts_symbols,
    copy_initializer,
    is_parameters,
    is_plain,
    is_reference,
    like_parameters,
    new_path,
    own_variables,
    pick_slices,
    read_all,
    rebind,
    with_options,
)
from secateurs.keras.model.tensors import ModelTensor
from secateurs.keras.protocols import BackendTensor
from secateurs.keras.sizes.layer_sizes import SizeChanges
from secateurs.keras.surgery.new_variables import Handles, new_variable_like

Shape = tuple[int | None, ...]

_UNKNOWN = object()
"""Copy of a value that is not understood."""

_IMMUTABLE = frozenset((bool, int, float, str, type(None)))

_SHARED = frozenset((*_IMMUTABLE, inspect.Signature, keras.DTypePolicy, SerializableDict))
"""Types whose values a layer and its copy share."""

_NODES = ("_inbound_nodes", "_outbound_nodes")
"""Attributes that hold the calls of a layer; its copy has none."""

_OWN = frozenset((*_NODES, "_auto_config", "name", "_path", "_parent_path"))
"""Attributes that do not tell kinds apart: name, calls, and how the constructor was called."""

_AT_A_TIME = 32
"""Number of variables that are sliced in a row."""

_MOST_KINDS = 4096
"""Number of kinds that are remembered at most."""


class BuiltCopies:
    """Copies the built layers of a model that is being cut.

    Args:
        cut: the cut.
        leaves: tensors of the model.
        changes: size changes of the cut, by path.
    """

    def __init__(self, cut: Cut, leaves: Sequence[ModelTensor], changes: SizeChanges) -> None:
        self._tensors = cut.tensors
        self._leaves = leaves
        self._places = {id(leaf.variable): place for place, leaf in enumerate(leaves)}
        self._values: dict[int, BackendTensor] = {}
        """Values of the variables, by ``id``; all are read at the first copy."""
        self._slices: dict[int, BackendTensor | None] = {}
        """Values of new variables, by ``id`` of the old one; None once they are used."""
        self.handles = Handles()
        """Memory for the new variables, which are to be filled in the end."""
        self._changes = changes
        self._varying = (*_OWN, *{change.attribute for change in cut.sizes})
        self._indices: dict[tuple[int, int], tuple[object, NDArray[np.int64]]] = {}
        self.filled: dict[int, Variable] = {}
        """New variables, by ``id``, that have their values already."""

    def copy(
        self, layer: Operation, path: str, arguments: Sequence[object]
    ) -> tuple[Layer | None, Hashable]:
        """Copy a built layer, with the values of the cut.

        Args:
            layer: layer of the dense model.
            path: its path.
            arguments: symbolic tensors of the smaller model that it is called on.

        Returns:
            (The copy, or None if the layer is to be rebuilt; its kind, for ``learn``).
        """
        kind = self._kind_of(layer, path, arguments)
        recipe = _RECIPES.get(kind)
        if kind is None or recipe is None:
            return None, kind
        made = _Copier(self, layer, path, arguments[0], recipe).run()
        if made is not None:
            self.filled.update((id(variable), variable) for variable, _ in own_variables(made))
        return made, kind

    def learn(
        self,
        layer: Operation,
        path: str,
        arguments: Sequence[object],
        made: Operation,
        kind: Hashable,
    ) -> None:
        """Find out whether layers of this kind can be copied, from one that has been rebuilt."""
        if kind is None or kind in _RECIPES:
            return
        if len(_RECIPES) >= _MOST_KINDS:
            _RECIPES.clear()
        recipe = _find_recipe(layer)
        _RECIPES[kind] = None
        if recipe is not None:
            copy = _Copier(self, layer, path, arguments[0], recipe).run()
            if copy is not None and _Comparison().is_same(copy, made):
                _RECIPES[kind] = recipe

    def sizes_of(self, layer: Layer, path: str) -> dict[str, int] | None:
        """Return the new sizes of a layer, by attribute; None if one is not a plain attribute."""
        sizes = {}
        for change in self._changes.get(path, ()):
            if change.position is not None or vars(layer).get(change.attribute) != change.before:
                return None
            sizes[change.attribute] = change.after
        return sizes

    def slice(self, variable: Variable) -> Any | None:
        """Return the value of a new variable; None for one that is not in the model's graph."""
        place = self._places.get(id(variable))
        if place is None:
            return None
        if id(variable) not in self._slices:
            self._slice_all(self._leaves[place : place + _AT_A_TIME])
        value = self._slices[id(variable)]
        self._slices[id(variable)] = None  # it takes over the memory
        return self._slice_one(self._leaves[place]) if value is None else value

    def _slice_all(self, leaves: Sequence[ModelTensor]) -> None:
        """Slice variables that are likely to be asked for next: in a row it takes half the time."""
        if not self._values:
            self._values = read_all(leaf.variable for leaf in self._leaves)
        for leaf in leaves:
            if id(leaf.variable) not in self._slices:
                self._slices[id(leaf.variable)] = self._slice_one(leaf)

    def _slice_one(self, leaf: ModelTensor) -> BackendTensor:
        cut = self._tensors.get(leaf.name)
        kept = {} if cut is None else {axis: self._list_kept(cut, axis) for axis in cut.removed}
        return pick_slices(self._values[id(leaf.variable)], kept)

    def _list_kept(self, cut: TensorCut, axis: int) -> NDArray[np.int64]:
        removed = cut.removed[axis]
        key = id(removed), cut.shape[axis]
        if key not in self._indices:  # tensors of a group often share them
            self._indices[key] = removed, cut.list_kept(axis)
        return self._indices[key][1]

    def _kind_of(self, layer: Operation, path: str, arguments: Sequence[object]) -> Hashable | None:
        """Return all that a layer's attributes depend on, but for its name and sizes.

        None if it has to be rebuilt in any case.
        """
        if len(arguments) != 1 or not _is_copyable(layer, arguments[0]):
            return None
        sizes = self.sizes_of(layer, path)
        shapes = _built_for(layer)
        if sizes is None or shapes is None:
            return None
        known = _held(layer)
        for name in self._varying:
            known.pop(name, None)
        kind = (
            type(layer),
            tuple(sizes),
            tuple([(len(new), old == new) for old, new in _pair(shapes, _shapes(arguments[0]))]),
            self._describe_variables(layer),
            tuple(known),
            tuple([one if type(one) in _BY_VALUE else type(one) for one in known.values()]),
        )
        try:
            hash(kind)
        except TypeError:  # a tuple that holds something that changes
            return None
        return kind

    def _describe_variables(self, layer: Layer) -> Hashable:
        """Return, for each variable, which axes are cut and which attributes it has."""
        variables = [variable for variable, _ in own_variables(layer)]
        cuts = [self._cut_of(variable) for variable in variables]
        return tuple(
            (None if cut is None else tuple(cut.removed), tuple(vars(variable)))
            for cut, variable in zip(cuts, variables, strict=True)
        )

    def _cut_of(self, variable: Variable) -> TensorCut | None:
        place = self._places.get(id(variable))
        return None if place is None else self._tensors.get(self._leaves[place].name)


def _is_copyable(layer: Operation, given: object) -> bool:
    """Return whether it is a built layer of Keras's own that only computes, called plainly."""
    learns = hasattr(type(layer), "adapt")
    return is_plain(layer) and not learns and layer.built and accepts_symbols(layer, given)


_BY_VALUE = _IMMUTABLE | {tuple}

Recipe = Sequence[tuple[str, Callable[["_Copier", Any], Any]]]
"""(Attribute, function that copies its value) for the attributes that a copy does not share."""

_RECIPES: dict[Hashable, Recipe | None] = {None: None}
"""Kind of a layer -> how it is copied; None if a copy was not the same as a rebuilt layer."""


def _find_recipe(layer: Layer) -> Recipe | None:
    """Return how a layer's attributes are copied; None if one of them is not understood."""
    recipe = [
        (name, _Copier.begin_nodes if name in _NODES else _copier_of(type(value)))
        for name, value in _held(layer).items()
        if type(value) not in _SHARED and name != "_build_shapes_dict"
    ]
    return None if any(copy is None for _, copy in recipe) else recipe  # type: ignore[return-value]


def _copier_of(kind: type) -> Callable[[_Copier, Any], Any] | None:
    """Return the function that copies values of a type; None if it is not understood."""
    if kind not in _COPIERS:
        _COPIERS[kind] = _find_copier(kind)
    return _COPIERS[kind]


_COPIERS: dict[type, Callable[[_Copier, Any], Any] | None] = {}


def _find_copier(kind: type) -> Callable[[_Copier, Any], Any] | None:
    if kind in (TrackedList, TrackedDict, TrackedSet):
        return _Copier.copy_tracked
    for known, copy in (
        (types.FunctionType, _Copier.copy_function),
        (Variable, _Copier.find),
        (Tracker, _Copier.find),
        (tuple, _Copier.copy_plain),
        (list, _Copier.copy_plain),
        (set, _Copier.copy_plain),
        (dict, _Copier.copy_plain),
        (OrderedDict, _Copier.copy_plain),
        (keras.layers.InputSpec, _Copier.copy_spec),
        (keras.initializers.Initializer, _Copier.copy_initializer),
        (keras.regularizers.Regularizer, _Copier.copy_rule),
        (keras.constraints.Constraint, _Copier.copy_rule),
    ):
        if kind is known or (known.__module__.startswith("keras.") and issubclass(kind, known)):
            return copy
    if is_reference(kind):
        return _Copier.copy_reference
    return _Copier.copy_parameters if is_parameters(kind) else None


class _Copier:
    """Makes one copy: the attributes of a built layer, each copied by its type."""

    def __init__(
        self, copies: BuiltCopies, layer: Layer, path: str, given: object, recipe: Recipe
    ) -> None:
        self._copies = copies
        self._layer = layer
        self._given = _shapes(given)
        self._recipe = recipe
        self._sizes = copies.sizes_of(layer, path) or {}
        self._path = new_path(layer)
        self._new: Layer = object.__new__(type(layer))
        self._known: dict[int, Any] = {id(layer): self._new}
        """``id`` of a part of the layer -> its copy."""
        self._tracker: Any = None

    def run(self) -> Layer | None:
        """Return the copy; None if something in the layer is not understood."""
        layer, known = self._layer, self._known
        if not self._copy_variables() or not self._copy_tracker():
            return None
        held = _held(layer)
        new = dict(held)
        for name, copy in self._recipe:
            value = held[name]
            made = known.get(id(value))
            if made is None:
                made = copy(self, value)
                if made is _UNKNOWN:
                    return None
            new[name] = made
        new.update(self._sizes, _path=self._path)
        if "_parent_path" in held:  # newer than Keras 3.5
            new["_parent_path"] = None if self._path is None else self._path[: -len(layer.name) - 1]
        if self._sizes:
            new["_auto_config"] = with_options(new["_auto_config"], self._sizes)
        if (shapes := held.get("_build_shapes_dict")) is not None:
            new["_build_shapes_dict"] = self._note_shape(next(iter(shapes)))
        vars(self._new).update(new)
        return self._new

    def _note_shape(self, parameter: str) -> TrackedDict:
        """Return Keras's note of what a layer is built for."""
        if not isinstance(self._given, tuple):
            return TrackedDict({parameter: self._given}, self._tracker)
        made = TrackedDict()
        made.tracker = self._tracker
        dict.update(made, {parameter: self._given})  # its own would try to track each length
        return made

    def _copy_variables(self) -> bool:
        """Make the new variables; False if the length of an axis is not explained by a size."""
        variables = [variable for variable, _ in own_variables(self._layer)]
        lengths = self._lengths() if variables else {}
        for variable in variables:
            value = self._copies.slice(variable)
            rules = [
                self._copy_rule_of(variable.regularizer),
                self._copy_rule_of(variable.constraint),
            ]
            if value is None or _UNKNOWN in rules:
                return False
            shape = tuple(value.shape)
            for before, after in zip(variable._shape, shape, strict=True):
                if after not in lengths.get(before, (before,)):
                    return False
            made = new_variable_like(variable, value, shape, self._path, self._copies.handles)
            made.regularizer, made.constraint = rules
            self._known[id(variable)] = made
        return True

    def _copy_rule_of(self, rule: object) -> object:
        """Copy the rule of a variable, which its layer holds as well."""
        if rule is None:
            return None
        if id(rule) not in self._known:
            copy = _copier_of(type(rule))
            self._known[id(rule)] = _UNKNOWN if copy is None else copy(self, rule)
        return self._known[id(rule)]

    def _lengths(self) -> dict[int, set[int]]:
        """Return the lengths that each length of the dense layer may change to.

        Building a layer gives its variables the lengths of its sizes and of its input's axes.
        """
        held = vars(self._layer)
        lengths: dict[int, set[int]] = {}
        for name, after in self._sizes.items():
            lengths.setdefault(held[name], set()).add(after)
        for old, new in _pair(_built_for(self._layer), self._given):
            for before, now in zip(old, new, strict=False):
                if before is not None and now is not None:
                    lengths.setdefault(before, set()).add(now)
        return lengths

    def _copy_tracker(self) -> bool:
        """Copy Keras's record of a layer's parts; False if it has parts other than variables."""
        tracker, known = self._layer._tracker, self._known
        config, ids = {}, {}
        for kind, (test, store) in tracker.config.items():
            made = [known.get(id(part)) for part in store]
            if any(part is None for part in made):
                return False
            known[id(store)] = made
            config[kind] = test, made
            ids[kind] = {id(part) for part in made}
        new = self._tracker = known[id(tracker)] = object.__new__(type(tracker))
        vars(new).update(vars(tracker), config=config, stored_ids=ids)
        return True

    # -- copies of values; what is found in ``_known`` never comes here

    def find(self, value: object) -> object:
        """Return the copy of a part; it is not understood if there is none."""
        return self._known.get(id(value), _UNKNOWN)

    def begin_nodes(self, value: object) -> object:
        """Return an empty list of calls."""
        return type(value)([], self._tracker)  # type: ignore[call-arg]

    def copy_function(self, value: types.FunctionType) -> object:
        """Share one of Keras's functions, or rebind its wrapper of a method."""
        if not str(value.__module__).startswith("keras."):
            return _UNKNOWN
        return rebind(value, self._known, self._tracker) if value.__closure__ else value

    def copy_plain(self, value: Any) -> object:
        """Copy a container."""
        if not value:
            return type(value)()
        content = self._copy_content(value)
        return _UNKNOWN if content is None else type(value)(content)

    def copy_tracked(self, value: Any) -> object:
        """Copy one of the containers that Keras wraps attributes in."""
        new: Any = type(value)()
        new.tracker = self._tracker
        if value:
            content = self._copy_content(value)
            if content is None:
                return _UNKNOWN
            # Its own methods would enter what it holds in the tracker, where it is already.
            put = next(put for kind, put in _PUT if isinstance(value, kind))
            put(new, content)
        return new

    def _copy_content(self, value: Any) -> list[object] | dict[object, object] | None:
        """Copy what a container holds; None if some of it is not understood."""
        items = value.values() if isinstance(value, dict) else value
        made = [item if type(item) in _SHARED else self._copy_item(item) for item in items]
        if any(item is _UNKNOWN for item in made):
            return None
        return dict(zip(value, made, strict=True)) if isinstance(value, dict) else made

    def _copy_item(self, item: object) -> object:
        if id(item) in self._known:
            return self._known[id(item)]
        copy = _copier_of(type(item))
        return _UNKNOWN if copy is None else copy(self, item)

    def copy_reference(self, value: Any) -> object:
        """Copy a named part, as TensorFlow lists them."""
        name, part = value
        made = self.find(part)
        return _UNKNOWN if made is _UNKNOWN else type(value)(name, made)

    def copy_parameters(self, value: object) -> object:
        """Copy PyTorch's dictionary of a layer's parameters, by the path of each variable."""
        new = [self._known[id(variable)] for variable, _ in own_variables(self._layer)]
        return like_parameters(value, {variable.path: variable.value for variable in new})

    def copy_spec(self, value: keras.layers.InputSpec) -> object:
        """Copy what a layer requires of its input, with the lengths of the new input."""
        if value.shape is not None or not isinstance(self._given, tuple):
            return _UNKNOWN
        new = object.__new__(type(value))
        axes = {
            axis: None if length is None else self._given[axis]
            for axis, length in value.axes.items()
        }
        vars(new).update(vars(value), axes=axes)
        return new

    def copy_initializer(self, value: Any) -> object:
        """Copy an initialiser; those without attributes are shared."""
        if not vars(value):
            return value
        if hasattr(value, "seed"):
            return copy_initializer(value)
        return type(value).from_config(value.get_config())

    def copy_rule(self, value: Any) -> object:
        """Copy a regularizer or a constraint; a user's own may not be copied from its options."""
        if not type(value).__module__.startswith("keras."):
            return _UNKNOWN
        made = self._known[id(value)] = type(value).from_config(value.get_config())
        return made


_PUT: Sequence[tuple[type, Callable[[Any, Any], None]]] = (
    (list, list.extend),
    (dict, dict.update),
    (set, set.update),
)


def _shapes(given: Any) -> Shape | list[Shape]:
    """Return the shape of a symbolic tensor, or those of several."""
    if isinstance(given, (list, tuple)):
        return [tuple(tensor.shape) for tensor in given]
    return tuple(given.shape)


def _pair(old: Shape | list[Shape] | None, new: Shape | list[Shape]) -> list[tuple[Shape, Shape]]:
    """Pair the shapes a layer was built for with those it is called on."""
    news = new if isinstance(new, list) else [new]
    olds = old if isinstance(old, list) else [old or ()] * len(news)
    return list(zip(olds, news, strict=False))


_PARTS_BY_TENSORFLOW = "_self_unconditional_checkpoint_dependencies"


def _held(layer: Layer) -> dict[str, Any]:
    """Return a layer's attributes, without those that TensorFlow adds when a model takes it up."""
    held: dict[str, Any] = vars(layer)
    if _PARTS_BY_TENSORFLOW not in held or held[_PARTS_BY_TENSORFLOW]:
        return held.copy()
    kept = "_self_setattr_tracking"
    return {name: value for name, value in held.items() if name == kept or name[:6] != "_self_"}


def _built_for(layer: Layer) -> Shape | list[Shape] | None:
    """Return the shape or shapes a layer was built for; () if none, None if that is not known."""
    held = vars(layer).get("_build_shapes_dict")
    if held is None:
        return ()
    shapes = next(iter(held.values())) if len(held) == 1 else None
    if not isinstance(shapes, (list, tuple)):
        return None
    if all(length is None or type(length) is int for length in shapes):
        return tuple(shapes)  # a file gives a list
    parts = [tuple(shape) for shape in shapes if isinstance(shape, (list, tuple))]
    return parts if len(parts) == len(shapes) else None


class _Comparison:
    """Compares a copy with a layer that was rebuilt, attribute by attribute, at any depth."""

    def __init__(self) -> None:
        self._pairs: dict[int, object] = {}
        """``id`` of a part of the copy -> the part of the other layer in its place."""

    def is_same(self, copy: Layer, made: Layer) -> bool:
        """Return whether two layers are the same, but for their values and their calls."""
        if type(copy) is not type(made) or copy.name != made.name:
            return False
        self._pairs[id(copy)] = made
        return self._alike_attributes(copy, made, (*_NODES, "_auto_config"))

    def _alike_attributes(self, mine: object, other: object, but: Sequence[str] = ()) -> bool:
        held, theirs = vars(mine), vars(other)
        return held.keys() == theirs.keys() and all(
            name in but or self._is_alike(value, theirs[name]) for name, value in held.items()
        )

    def _is_alike(self, value: Any, other: Any) -> bool:
        if value is other:
            return True
        if type(value) in _IMMUTABLE:
            return type(value) is type(other) and bool(value == other)
        if id(value) in self._pairs:
            return self._pairs[id(value)] is other
        if isinstance(value, keras.initializers.Initializer):
            return True  # of the other layer, zeros stand in its place
        if type(value) is not type(other):
            return False
        self._pairs[id(value)] = other
        return self._has_like_parts(value, other)

    def _has_like_parts(self, value: Any, other: Any) -> bool:
        kind = type(value)
        if isinstance(value, (dict, list, tuple)) or is_reference(kind):
            return self._are_alike_containers(value, other)
        if isinstance(value, types.MethodType):
            alike = self._is_alike(value.__self__, other.__self__)
            return alike and value.__func__ is other.__func__
        if isinstance(value, Variable):
            return self._are_alike_variables(value, other)
        if isinstance(value, types.FunctionType):
            return self._are_alike_functions(value, other)
        if isinstance(value, Tracker):  # its sets of ids belong to parts that are compared
            return self._alike_attributes(value, other, ("stored_ids",))
        if isinstance(value, keras.layers.InputSpec) or is_parameters(kind):
            return self._alike_attributes(value, other)
        if hasattr(value, "get_config"):
            return bool(value.get_config() == other.get_config())
        return isinstance(value, _COMPARABLE) and bool(value == other)

    def _are_alike_containers(self, value: Any, other: Any) -> bool:
        if isinstance(value, _TRACKED) and not self._alike_attributes(value, other):
            return False
        parts, others = (
            [*one, *one.values()] if isinstance(one, dict) else list(one) for one in (value, other)
        )
        return len(parts) == len(others) and all(map(self._is_alike, parts, others))

    def _are_alike_functions(self, value: types.FunctionType, other: types.FunctionType) -> bool:
        cells = [[cell.cell_contents for cell in one.__closure__ or ()] for one in (value, other)]
        return (
            value.__code__ is other.__code__
            and all(map(self._is_alike, *cells))
            and self._alike_attributes(value, other)
        )

    def _are_alike_variables(self, value: Variable, other: Variable) -> bool:
        """Compare two variables but for their numbers, and for the flag that is copied later."""
        self._pairs[id(value.value)] = other.value
        return _describe_value(value) == _describe_value(other) and (
            self._alike_attributes(value, other, ("_value", "_trainable"))
        )


_TRACKED = (TrackedList, TrackedDict)

_COMPARABLE = (inspect.Signature, set)
"""Types of which ``==`` compares the contents."""


def _describe_value(variable: Variable) -> tuple[object, ...]:
    """Return all of a variable's value but the numbers."""
    value = variable.value
    return (
        type(value),
        tuple(value.shape),
        str(value.dtype),
        str(getattr(value, "device", "")),
        str(getattr(value, "name", "")),
        str(getattr(value, "stride", tuple)()),
    )
