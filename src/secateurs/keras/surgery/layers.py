"""Whole layers: taken out, put in, or changed for others. The weights of all others are kept."""

from __future__ import annotations

from collections.abc import Container, Sequence

import keras

from secateurs.channels.cut import Cut
from secateurs.errors import ModelError, UnknownNameError, nearest
from secateurs.keras.internals import Layer, Operation
from secateurs.keras.model.example_inputs import check_model
from secateurs.keras.model.tensors import ModelTensor, list_tensors, named_operations, path_of
from secateurs.keras.surgery.compiling import compile_like_
from secateurs.keras.surgery.rebuilding import (
    Copies,
    Make,
    carry_again,
    check_same_tensors,
    copy_flags_,
    finalize_,
    keep_random_state,
    rebuild,
)
from secateurs.keras.surgery.slicing import slice_tensor


def delete_layer(model: keras.Model, name: str | Layer) -> keras.Model:
    """The model without a layer: what read its result reads its input instead.

    Args:
        model: sequential or functional; unchanged.
        name: of the layer, or the layer itself; 'encoder.conv1' for one in a model inside.

    Returns:
        A new model with the weights of all other layers, compiled anew if the model was compiled.

    Raises:
        UnknownNameError: no such layer.
        ModelError: the layers behind it do not fit what they would read.
    """
    name = path_of(check_model(model), name)
    keep = Copies(Cut()).of
    target = _find(model, name)
    return _edit(
        model, name, lambda path, layer: [] if layer is target else [keep(layer, path)], [target]
    )


def insert_layer(model: keras.Model, after: str | Layer, layer: Layer) -> keras.Model:
    """The model with one more layer, called on the result of another.

    Args:
        model: sequential or functional; unchanged.
        after: the name of the layer whose result it is called on.
        layer: to be put in; it becomes part of the new model.

    Raises:
        UnknownNameError: no such layer.
        ModelError: the layer's name is taken, it does not fit what it would read, or the layers
            behind it do not fit its result.
    """
    after = path_of(check_model(model), after)
    keep = Copies(Cut()).of
    target = _find(model, after)
    _check_new(model, layer)
    return _edit(
        model,
        layer.name,
        lambda path, old: [keep(old, path), layer] if old is target else [keep(old, path)],
        [layer],
    )


def replace_layer(model: keras.Model, name: str | Layer, layer: Layer) -> keras.Model:
    """The model with a layer changed for another.

    Args:
        model: sequential or functional; unchanged.
        name: of the layer that goes, or the layer itself.
        layer: that comes in its place, with its own weights (it may have the same name).

    Raises:
        UnknownNameError: no such layer.
        ModelError: it does not fit what it would read, or the layers behind it do not fit its
            result.
    """
    name = path_of(check_model(model), name)
    keep = Copies(Cut()).of
    target = _find(model, name)
    _check_new(model, layer, but=name)
    return _edit(
        model,
        name,
        lambda path, old: [layer] if old is target else [keep(old, path)],
        [target, layer],
    )


def _find(model: keras.Model, name: str) -> Operation:
    operations = dict(named_operations(check_model(model)))
    if name not in operations:
        raise UnknownNameError(f"no layer named {name!r}{nearest(name, list(operations))}")
    return operations[name]


def _check_new(model: keras.Model, layer: Layer, but: str = "") -> None:
    if not isinstance(layer, Layer):
        raise ModelError(f"expected a keras.Layer; received {type(layer).__name__}")
    taken = {operation.name for path, operation in named_operations(model) if path != but}
    if layer.name in taken:
        raise ModelError(
            f"{layer.name}: expected a layer with a name of its own; the model has one of this "
            f"name already. Give it another: {type(layer).__name__}(..., name=...)"
        )


def _edit(model: keras.Model, name: str, make: Make, changed: Sequence[Operation]) -> keras.Model:
    """The model of what ``make`` gives; ``changed`` layers are in one of the two alone."""
    try:
        with keep_random_state():
            new = rebuild(model, make)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"{name}: the layers around it do not fit together any more: {type(error).__name__}: "
            f"{error}"
        ) from error
    _keep_weights_(model, new, name, changed)
    carry_again(model, new, {})
    copy_flags_(model, new)
    compile_like_(model, new, Cut())
    return new


def _keep_weights_(
    model: keras.Model, new: keras.Model, name: str, changed: Sequence[Operation]
) -> None:
    """The weights of the layers that are in both; a layer that was put in keeps its own."""
    apart = {id(variable) for layer in changed for variable in getattr(layer, "variables", ())}
    present = {leaf.name: leaf for leaf in _but(new, apart)}
    leaves = _but(model, apart)
    check_same_tensors([[leaf.name, *leaf.aliases] for leaf in leaves], present.keys())
    for leaf in leaves:
        for other in (present[alias] for alias in (leaf.name, *leaf.aliases) if alias in present):
            if other.shape != leaf.shape:
                raise ModelError(
                    f"{name}: expected its result to be as wide as before; {leaf.name} would have "
                    f"to change from shape {leaf.shape} to {other.shape}. Put in a layer of the "
                    "same width, or change that layer too."
                )
            other.variable.assign(slice_tensor(leaf.variable.value, None))
    finalize_(new)


def _but(model: keras.Model, apart: Container[int]) -> list[ModelTensor]:
    """A model's tensors without some variables, told by ``id``."""
    return [leaf for leaf in list_tensors(model) if id(leaf.variable) not in apart]
