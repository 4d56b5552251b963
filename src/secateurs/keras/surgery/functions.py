"""Functions that layers hold, such as activations, when a layer is made again.

Keras writes a function into a configuration by its name, or not at all: a lambda, a partial, an
object that can be called, a module of PyTorch's. Two functions may have one name. So none of them
goes through a configuration: it is read with Keras's ``linear`` in their places, and what is made
of it is given the functions themselves.
"""

from __future__ import annotations

import copy
import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping

import keras

from secateurs.keras.internals import Layer, Operation, sublayers
from secateurs.keras.model.layer_tree import named_children, path_below

Remake = Callable[[Layer, str], Layer]
"""(layer, path) -> what is made of a layer that another was given as its activation."""

_WRITTEN = (Layer, Operation, type)
"""What can be called, and is written as what it is."""


def is_users_function(value: object) -> bool:
    """Whether it is a function, and not one that Keras knows by name.

    >>> is_users_function(keras.activations.relu), is_users_function(lambda x: x)
    (False, True)
    """
    if isinstance(value, functools.partial):
        return True
    if not callable(value) or isinstance(value, _WRITTEN) or hasattr(value, "get_config"):
        return False
    module = getattr(value, "__module__", None) or type(value).__module__
    return not str(module).startswith("keras.")


def config_of_others(layer: Operation) -> dict[str, object]:
    """A layer's configuration, ``linear`` in the places of functions in it and the layers inside.

    The layer itself is not touched: its configuration is read off a shallow copy.
    """
    readable = _readable(layer) if holds_functions(layer) else layer
    config: dict[str, object] = readable.get_config()
    return config


def with_functions(
    config: Mapping[str, object], layer: Operation, path: str, remake: Remake
) -> dict[str, object]:
    """A configuration with the layer's own functions, as they are, where it has them as options."""
    functions = dict(_functions_of(layer))
    return {
        key: _for_another(functions[key], layer, path, remake) if key in functions else value
        for key, value in config.items()
    }


def put_functions_(layer: Operation, new: Operation, path: str, remake: Remake) -> None:
    """Give what was made of a configuration the functions of the layers inside the old one."""
    mine = [child for child in sublayers(layer) if not _is_activation(layer, child)]
    theirs = [child for child in sublayers(new) if not _is_activation(new, child)]
    if list(map(type, mine)) != list(map(type, theirs)):
        return
    for old, made in zip(mine, theirs, strict=True):
        inner_path = _path_inside(layer, old, path)
        for name, function in _functions_of(old):
            setattr(made, name, _for_another(function, old, inner_path, remake))
        put_functions_(old, made, inner_path, remake)


def _path_inside(layer: Operation, child: Layer, path: str) -> str:
    names = {id(part): name for name, part in named_children(layer)}
    return path_below(path, names[id(child)])


def copy_torch_module(layer: Layer) -> Layer:
    """PyTorch's module as a layer again; its configuration would be a pickle."""
    new: Layer = type(layer)(
        copy.deepcopy(layer.module),
        name=layer.name,
        output_shape=layer.output_shape,
        dtype=layer.dtype_policy,
    )
    return new


def _for_another(function: object, owner: Operation, path: str, remake: Remake) -> object:
    if isinstance(function, keras.layers.TorchModuleWrapper):
        return copy_torch_module(function)
    if isinstance(function, Layer):
        return remake(function, _path_inside(owner, function, path))
    return function


def _is_activation(layer: Operation, child: Layer) -> bool:
    return any(value is child for _, value in _functions_of(layer))


def _functions_of(layer: Operation) -> Iterator[tuple[str, object]]:
    """(option, function) of those that a layer was given and keeps under the option's name."""
    if not isinstance(layer, Layer):
        return
    held = {**vars(layer), **vars(layer).get("_modules", {})}
    for name in _options_of(type(layer).__init__):
        value = held.get(name)
        if is_users_function(value) or _is_activation_layer(layer, name, value):
            yield name, value


@functools.cache
def _options_of(constructor: Callable[..., None]) -> tuple[str, ...]:
    return tuple(inspect.signature(constructor).parameters)


def _is_activation_layer(layer: Layer, name: str, value: object) -> bool:
    """Whether a layer of Keras's own was given another, which has weights, as its activation.

    Such a one is built when it is first run, and nothing tells a copy of what shape.
    """
    if isinstance(value, keras.layers.TorchModuleWrapper):
        return True
    keras_own = type(layer).__module__.startswith("keras.")
    return keras_own and name.endswith("activation") and bool(getattr(value, "weights", None))


def holds_functions(layer: Operation) -> bool:
    """Whether a layer, or one inside it, was given a function that Keras does not know by name."""
    return any(True for _ in _functions_of(layer)) or any(map(holds_functions, sublayers(layer)))


def _readable(layer: Layer) -> Layer:
    """A shallow copy of a layer to read the configuration off, and not to be called."""
    new: Layer = object.__new__(type(layer))
    names = {name for name, _ in _functions_of(layer)}
    parts = {id(child): child for child in sublayers(layer) if holds_functions(child)}
    stand_ins = {key: _readable(child) for key, child in parts.items()}

    def stand_in(value: object) -> object:
        if isinstance(value, (list, tuple)):
            return [stand_in(item) for item in value]
        return stand_ins.get(id(value), value)

    held = dict(vars(layer))
    if "_modules" in held:  # where PyTorch keeps layers
        held["_modules"] = {key: stand_in(part) for key, part in held["_modules"].items()}
        for name in names & held["_modules"].keys():
            del held["_modules"][name]
    changed = {
        name: stand_in(value)
        for name, value in held.items()
        if id(value) in stand_ins
        or (isinstance(value, (list, tuple)) and any(id(item) in stand_ins for item in value))
    }
    vars(new).update(held | changed | dict.fromkeys(names, keras.activations.linear))
    return new


def with_own_function(config: Mapping[str, object], layer: Operation) -> dict[str, object]:
    """A lambda's own function: code of the user's is not written out and read back."""
    shape = layer._output_shape if config.get("output_shape") is not None else None
    return {**config, "function": layer.function, "mask": layer.mask, "output_shape": shape}


def own_objects(layer: Operation) -> dict[str, type | types.FunctionType]:
    """Classes and functions of the user's that a layer's configuration may name, by name."""
    find: dict[str, type | types.FunctionType] = {}
    for inner in [layer, *all_sublayers(layer)]:
        values = [type(inner), *vars(inner).values()]
        for value in values:
            known = value if isinstance(value, (type, types.FunctionType)) else type(value)
            if not known.__module__.startswith(("keras.", "builtins")):
                find[known.__name__] = known
    return find


def all_sublayers(layer: Layer) -> Iterator[Layer]:
    """The layers inside a layer, at any depth."""
    for child in sublayers(layer):
        yield child
        yield from all_sublayers(child)
