"""What a layer has learned that is neither a weight nor part of its configuration.

``adapt`` leaves bins, vocabularies and the like in plain attributes. Making a layer again from its
configuration loses them, so they are carried over: to a layer of Keras's own where it is known to
keep some, to a layer of the user's for every attribute that holds plain data.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from functools import cache

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.errors import ModelError
from secateurs.keras.internals import Layer, Operation, Variable, is_tensor, own_variables
from secateurs.keras.model.layer_tree import named_children, path_below

_KEPT_BY_KERAS = frozenset(
    {"dtype_policy", "built", "input_spec", "supports_masking", "name", "training", "_parameters"}
)
_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.ndarray, np.generic)


def carry_learned_(layer: Layer, new: Layer, path: str, fresh: Layer) -> None:
    """Give a layer that was just made, and the layers inside it, what the old ones have learned.

    Args:
        layer: the old layer.
        new: of the same class and, but for sizes, of the same configuration; not built.
        path: of the layer, for messages.
        fresh: the same of the same sizes: what differs in the old one came later.

    Raises:
        ModelError: something cannot be carried over.
    """
    begun = {own: as_made for _, as_made, own in _pairs(layer, fresh, path)}
    for old, made, own in _pairs(layer, new, path):
        if hasattr(old, "get_vocabulary"):
            _carry_vocabulary_(old, made)
        elif isinstance(old, Layer) and (not _is_keras_own(old) or hasattr(old, "adapt")):
            _carry_attributes_(old, made, own, begun.get(own, made))


def carry_again_(layer: Layer, new: Layer, path: str, changed: Collection[str]) -> None:
    """The same once the new layer is built: ``build`` may have begun anew what was learned.

    Layers that have other sizes now are left out: there, other numbers are right.

    Args:
        layer: the old layer.
        new: the new one, built.
        path: of the layer.
        changed: layers whose configuration changed.
    """
    for old, made, own in _pairs(layer, new, path):
        if not isinstance(old, Layer) or _is_keras_own(old) or own in changed:
            continue
        shapes = [tuple(variable.shape) for variable, _ in own_variables(old)]
        if shapes == [tuple(variable.shape) for variable, _ in own_variables(made)]:
            _carry_attributes_(old, made, own, made)


def _pairs(layer: Layer, new: Layer, path: str) -> Iterator[tuple[Layer, Layer, str]]:
    yield layer, new, path
    if not isinstance(layer, Layer):
        return
    theirs = dict(named_children(new))
    for name, child in named_children(layer):
        if name in theirs:
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
    for name, value in vars(old).items():
        if name in _KEPT_BY_KERAS or name in _bookkeeping():
            continue
        if not _is_data(value) or (name in present and not _is_data(present[name])):
            continue
        if name not in present or not _equal(value, present[name]):
            _set_(made, name, value, path)


@cache
def _bookkeeping() -> frozenset[str]:
    """What every layer keeps of itself."""
    return frozenset(vars(keras.layers.Identity())) | {"_torch_params"}


def _plain(value: object) -> object:
    """A copy, out of the lists and dictionaries with which Keras watches for layers."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    for kind in (list, set):
        if isinstance(value, kind):
            return kind(_plain(item) for item in value)
    return copy.deepcopy(value)


def _set_(layer: Layer, name: str, value: object, path: str) -> None:
    try:
        setattr(layer, name, _plain(value))
    except Exception as error:
        raise ModelError(
            f"{path}: expected state that can be copied into a new {type(layer).__name__}; its "
            f"{name}, which is neither a weight nor in get_config(), cannot be "
            f"({type(error).__name__}: {error}). Make it a weight, or let get_config() give it."
        ) from error


def _is_data(value: object) -> bool:
    """Whether it is numbers, text, tensors, or lists and dictionaries of such."""
    if isinstance(value, (Variable, Layer, Operation, keras.KerasTensor)) or callable(value):
        return False
    if isinstance(value, _PLAIN) or is_tensor(value):
        return True
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(_is_data(item) for item in value)
    if isinstance(value, dict):
        return all(_is_data(item) for item in value.values())
    return _is_foreign(value)


def _is_foreign(value: object) -> bool:
    """An object of a library that knows nothing of Keras, such as a fitted scaler."""
    module = type(value).__module__
    if module.startswith(("keras", "tensorflow", "torch", "jax")):
        return False
    inside = getattr(value, "__dict__", None)
    return inside is not None and all(_is_data(item) for item in inside.values())


def _equal(one: object, other: object) -> bool:
    if is_tensor(one) or isinstance(one, (np.ndarray, np.generic)):
        if not hasattr(other, "shape"):
            return False
        mine, theirs = (_as_numbers(value) for value in (one, other))
        return mine.shape == theirs.shape and bool(np.array_equal(mine, theirs))
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if hasattr(one, "__dict__") and type(one) is type(other):
        return _equal(vars(one), vars(other))
    return type(one) is type(other) and bool(one == other)


def _as_numbers(value: object) -> NDArray[np.generic]:
    return np.asarray(keras.ops.convert_to_numpy(value) if is_tensor(value) else value)
