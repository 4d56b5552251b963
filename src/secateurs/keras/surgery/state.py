"""Learned state of layers that is neither a weight nor part of the configuration.

``adapt`` stores bins, vocabularies and the like in plain attributes. Rebuilding a layer from its
configuration loses them, so they are copied: for a built-in layer where it is known to keep some,
for a user-defined layer every attribute that holds plain data.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from functools import cache

import keras
import numpy as np

from secateurs.errors import ModelError
from secateurs.keras.internals import Layer, Operation, own_variables, sublayers
from secateurs.keras.model.layer_tree import named_children, path_below
from secateurs.keras.surgery.plain_state import holds_parts, is_alike

_KEPT_BY_KERAS = frozenset(
    {"dtype_policy", "built", "input_spec", "supports_masking", "name", "training", "_parameters"}
)

_BY_TENSORFLOW = ("_self_", "_tf_")
"""Prefixes of the attributes in which TensorFlow tracks a layer's dependencies."""


def name_alike_(
    layer: Operation, new: Operation, dtype: Callable[[str], str] | None = None
) -> None:
    """Give a rebuilt layer and its sublayers the names and dtype policies of the original ones.

    A configuration may lack them: a user's ``get_config`` without ``super().get_config()``, or the
    default one of a class whose ``__init__`` takes them under other names.

    Args:
        layer: original layer.
        new: layer rebuilt from its configuration; not built.
        dtype: function from the name of a layer's policy to that of its copy; None keeps it.
    """
    if type(new) is not type(layer):
        return
    if new.name != layer.name:
        new.name = layer.name
    if not isinstance(layer, Layer):
        return
    policy = layer.dtype_policy
    if dtype is not None and dtype(policy.name) != policy.name:
        policy = keras.dtype_policies.get(dtype(policy.name))
    if new.dtype_policy != policy:
        new.dtype_policy = policy
    mine, theirs = sublayers(layer), sublayers(new)
    if list(map(type, mine)) == list(map(type, theirs)):
        for old, made in zip(mine, theirs, strict=True):
            name_alike_(old, made, dtype)


def may_learn(layer: Operation) -> bool:
    """Return whether a layer or a sublayer may keep state in plain attributes.

    >>> may_learn(keras.layers.Dense(2)), may_learn(keras.layers.Normalization())
    (False, True)
    """
    if not isinstance(layer, Layer):
        return False
    keeps = not _is_keras_own(layer) or hasattr(layer, "adapt")
    return keeps or any(may_learn(child) for _, child in named_children(layer))


def carry_learned_(layer: Layer, new: Layer, path: str, fresh: Layer) -> None:
    """Copy the learned state of a layer and its sublayers to a rebuilt layer.

    Args:
        layer: original layer.
        new: layer of the same class and, except for sizes, the same configuration; not built.
        path: path of the layer, for error messages.
        fresh: layer rebuilt with the original sizes: attributes in which the original differs from
            it were set after construction.

    Raises:
        ModelError: an attribute cannot be copied.
    """
    begun = {inner_path: as_made for _, as_made, inner_path in _pairs(layer, fresh, path)}
    for old, made, inner_path in _pairs(layer, new, path):
        if hasattr(old, "get_vocabulary"):
            _carry_vocabulary_(old, made)
        elif isinstance(old, Layer) and (not _is_keras_own(old) or hasattr(old, "adapt")):
            _carry_attributes_(old, made, inner_path, begun.get(inner_path, made))


def carry_again_(layer: Layer, new: Layer, path: str, changed: Collection[str]) -> None:
    """Copy the learned state once more after ``build``, which may have reset it.

    Layers whose sizes changed are skipped: their state is expected to differ.

    Args:
        layer: original layer.
        new: new layer, built.
        path: path of the layer.
        changed: paths of the layers whose configuration changed.

    Raises:
        ModelError: an attribute was lost.
    """
    for old, made, inner_path in _pairs(layer, new, path):
        if not isinstance(old, Layer) or _is_keras_own(old) or inner_path in changed:
            continue
        shapes = [tuple(variable.shape) for variable, _ in own_variables(old)]
        if shapes == [tuple(variable.shape) for variable, _ in own_variables(made)]:
            _carry_attributes_(old, made, inner_path, made)
            _check_nothing_lost(old, made, inner_path)


def find_lost_attributes(layer: Operation, again: Operation, path: str) -> list[str]:
    """List the attributes of user-defined layers that a saved file does not restore.

    Args:
        layer: layer that was saved.
        again: layer that Keras loaded from the file.
        path: path of the layer.
    """
    return [
        f"{inner_path}.{name}"
        for old, made, inner_path in _pairs(layer, again, path)
        if isinstance(old, Layer) and not _is_keras_own(old)
        for name, value in _own_attributes(old)
        if not is_alike(value, vars(made).get(name))
    ]


def is_users(layer: object) -> bool:
    """Return whether the class of a layer or a sublayer is user-defined."""
    if isinstance(layer, Layer) and not _is_keras_own(layer):
        return True
    return any(is_users(child) for _, child in named_children(layer))


def _pairs(layer: Layer, new: Layer, path: str) -> Iterator[tuple[Layer, Layer, str]]:
    yield layer, new, path
    if not isinstance(layer, Layer):
        return
    theirs = dict(named_children(new))
    for name, child in named_children(layer):
        if type(theirs.get(name)) is type(child):  # another class, where a block was removed
            yield from _pairs(child, theirs[name], path_below(path, name))


def _is_keras_own(layer: object) -> bool:
    return type(layer).__module__.startswith("keras.")


def _carry_vocabulary_(old: Layer, made: Layer) -> None:
    if made.get_config().get("vocabulary"):
        return
    words = old.get_vocabulary(include_special_tokens=False)
    table = getattr(old, "_lookup_layer", old)
    weights = getattr(table, "idf_weights_const", None)
    if getattr(table, "output_mode", None) != "tf_idf" or weights is None:
        made.set_vocabulary(words)
        return
    special = len(old.get_vocabulary()) - len(words)
    made.set_vocabulary(words, np.asarray(weights)[special:])


def _carry_attributes_(old: Layer, made: Layer, path: str, begun: Layer) -> None:
    present = vars(begun)
    for name, value in _own_attributes(old):
        if name in present and is_alike(value, present[name]):
            continue
        if not holds_parts(value) and not holds_parts(present.get(name)):
            _set_(made, name, value, path)


def _own_attributes(layer: Layer) -> Iterator[tuple[str, object]]:
    """Iterate over the attributes that the layer's class or its user set, without Keras's own."""
    for name, value in vars(layer).items():
        kept = name in _KEPT_BY_KERAS or name in _bookkeeping() or name.startswith(_BY_TENSORFLOW)
        of_models = isinstance(layer, keras.Model) and name in _bookkeeping_of_models()
        if not kept and not of_models:
            yield name, value


_LEFT_BY_RUNNING = frozenset(
    ("history", "_eval_epoch_iterator", "stop_training", "stop_evaluating", "stop_predicting")
)
"""Records that ``fit``, ``evaluate`` and ``predict`` leave in a model; not learned state."""


@cache
def _bookkeeping() -> frozenset[str]:
    """Return the names of attributes that every layer has."""
    return frozenset(vars(keras.layers.Identity())) | {"_torch_params"}


@cache
def _bookkeeping_of_models() -> frozenset[str]:
    """Return the names of attributes that every compiled model has, such as metrics."""
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Identity()])
    model.compile("sgd", "mse", metrics=["mae"])
    return frozenset(vars(model)) | _LEFT_BY_RUNNING


def _check_nothing_lost(old: Layer, made: Layer, path: str) -> None:
    """Raise for state that could not be copied and that the built layer lacks."""
    for name, value in _own_attributes(old):
        if value is not None and getattr(made, name, None) is None:
            raise _copy_error(made, name, path, "it holds layers, weights or the layer itself")


def _copy_plain(value: object) -> object:
    """Deep-copy a value, with plain containers in place of Keras's tracked ones."""
    if isinstance(value, dict):
        return {key: _copy_plain(item) for key, item in value.items()}
    for kind in (list, set):
        if isinstance(value, kind):
            return kind(_copy_plain(item) for item in value)
    return copy.deepcopy(value)


def _set_(layer: Layer, name: str, value: object, path: str) -> None:
    try:
        setattr(layer, name, _copy_plain(value))
    except Exception as error:
        raise _copy_error(layer, name, path, f"{type(error).__name__}: {error}") from error


def _copy_error(layer: Layer, name: str, path: str, why: str) -> ModelError:
    return ModelError(
        f"{path}: expected state that can be copied into a new {type(layer).__name__}; its "
        f"{name}, which is neither a weight nor in get_config(), cannot be ({why}). Make it a "
        "weight, or let get_config() give it."
    )
