"""Carry functions that layers hold, such as activations, over to rebuilt layers.

A configuration names a function, or cannot hold it at all: a lambda, a partial, a callable object,
a PyTorch module. Two functions may share a name. So no function passes through a configuration: the
configuration is read with Keras's ``linear`` in place of each, and the rebuilt layer is then given
the original functions.
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
"""Function (layer, path) -> copy, for a layer that is the activation of another."""

_SERIALIZABLE = (Layer, Operation, type)
"""Callables that a configuration can hold."""


def is_users_function(value: object) -> bool:
    """Return whether it is a function that Keras does not know by name.

    >>> is_users_function(keras.activations.relu), is_users_function(lambda x: x)
    (False, True)
    """
    if isinstance(value, functools.partial):
        return True
    if not callable(value) or isinstance(value, _SERIALIZABLE) or hasattr(value, "get_config"):
        return False
    module = getattr(value, "__module__", None) or type(value).__module__
    return not str(module).startswith("keras.")


def config_of_others(layer: Operation) -> dict[str, object]:
    """Return a layer's configuration with ``linear`` in place of users' functions, at any depth.

    The layer itself is unchanged: the configuration is read from a shallow copy.
    """
    readable = _copy_for_config(layer) if holds_functions(layer) else layer
    config: dict[str, object] = readable.get_config()
    return config


def with_functions(
    config: Mapping[str, object], layer: Operation, path: str, remake: Remake
) -> dict[str, object]:
    """Put the layer's own functions into a configuration, for those that it takes as options."""
    functions = dict(_functions_of(layer))
    return {
        key: _carry_over(functions[key], layer, path, remake) if key in functions else value
        for key, value in config.items()
    }


def put_functions_(layer: Operation, new: Operation, path: str, remake: Remake) -> None:
    """Give the sublayers of a rebuilt layer the functions of the original's sublayers."""
    mine = [child for child in sublayers(layer) if not _is_activation(layer, child)]
    theirs = [child for child in sublayers(new) if not _is_activation(new, child)]
    if list(map(type, mine)) != list(map(type, theirs)):
        return
    for old, made in zip(mine, theirs, strict=True):
        inner_path = _path_inside(layer, old, path)
        for name, function in _functions_of(old):
            setattr(made, name, _carry_over(function, old, inner_path, remake))
        put_functions_(old, made, inner_path, remake)


def _path_inside(layer: Operation, child: Layer, path: str) -> str:
    names = {id(part): name for name, part in named_children(layer)}
    return path_below(path, names[id(child)])


def copy_torch_module(layer: Layer) -> Layer:
    """Copy a layer that wraps a PyTorch module; its configuration would be a pickle."""
    new: Layer = type(layer)(
        copy.deepcopy(layer.module),
        name=layer.name,
        output_shape=layer.output_shape,
        dtype=layer.dtype_policy,
    )
    return new


def _carry_over(function: object, owner: Operation, path: str, remake: Remake) -> object:
    if isinstance(function, keras.layers.TorchModuleWrapper):
        return copy_torch_module(function)
    if isinstance(function, Layer):
        return remake(function, _path_inside(owner, function, path))
    return function


def _is_activation(layer: Operation, child: Layer) -> bool:
    return any(value is child for _, value in _functions_of(layer))


def _functions_of(layer: Operation) -> Iterator[tuple[str, object]]:
    """Iterate over (option, function) of the functions a layer keeps under the option's name."""
    if not isinstance(layer, Layer):
        return
    held = vars(layer)
    parts = held.get("_modules", {})  # where PyTorch keeps layers
    for name in _options_of(type(layer).__init__):
        value = parts.get(name, held.get(name))
        if value is None or isinstance(value, (bool, int, float, str, tuple)):
            continue
        if is_users_function(value) or _is_activation_layer(layer, name, value):
            yield name, value


@functools.cache
def _options_of(constructor: Callable[..., None]) -> tuple[str, ...]:
    return tuple(inspect.signature(constructor).parameters)


def _is_activation_layer(layer: Layer, name: str, value: object) -> bool:
    """Return whether the option of a built-in layer is an activation layer with weights.

    Such a layer is built on its first call, and its copy would not know for which shape.
    """
    if isinstance(value, keras.layers.TorchModuleWrapper):
        return True
    keras_own = type(layer).__module__.startswith("keras.")
    return keras_own and name.endswith("activation") and bool(getattr(value, "weights", None))


def holds_functions(layer: Operation) -> bool:
    """Return whether a layer or a sublayer holds a function that Keras does not know by name."""
    return any(True for _ in _functions_of(layer)) or any(map(holds_functions, sublayers(layer)))


def _copy_for_config(layer: Layer) -> Layer:
    """Return a shallow copy of a layer that only serves to read its configuration."""
    new: Layer = object.__new__(type(layer))
    names = {name for name, _ in _functions_of(layer)}
    parts = {id(child): child for child in sublayers(layer) if holds_functions(child)}
    replacements = {key: _copy_for_config(child) for key, child in parts.items()}

    def replace(value: object) -> object:
        if isinstance(value, (list, tuple)):
            return [replace(item) for item in value]
        return replacements.get(id(value), value)

    held = dict(vars(layer))
    if "_modules" in held:  # sublayers on the PyTorch backend
        held["_modules"] = {key: replace(part) for key, part in held["_modules"].items()}
        for name in names & held["_modules"].keys():
            del held["_modules"][name]
    changed = {
        name: replace(value)
        for name, value in held.items()
        if id(value) in replacements
        or (isinstance(value, (list, tuple)) and any(id(item) in replacements for item in value))
    }
    vars(new).update(held | changed | dict.fromkeys(names, keras.activations.linear))
    return new


def with_own_function(config: Mapping[str, object], layer: Operation) -> dict[str, object]:
    """Put a ``Lambda`` layer's own functions into its configuration, without serialising code."""
    shape = layer._output_shape if config.get("output_shape") is not None else None
    return {**config, "function": layer.function, "mask": layer.mask, "output_shape": shape}


def own_objects(layer: Operation) -> dict[str, type | types.FunctionType]:
    """Return the users' classes and functions that a layer's configuration may name, by name."""
    objects: dict[str, type | types.FunctionType] = {}
    for inner in [layer, *all_sublayers(layer)]:
        values = [type(inner), *vars(inner).values()]
        for value in values:
            known = value if isinstance(value, (type, types.FunctionType)) else type(value)
            if not known.__module__.startswith(("keras.", "builtins")):
                objects[known.__name__] = known
    return objects


def all_sublayers(layer: Layer) -> Iterator[Layer]:
    """Iterate over the layers inside a layer, at any depth."""
    for child in sublayers(layer):
        yield child
        yield from all_sublayers(child)
