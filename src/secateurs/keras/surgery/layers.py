"""Delete, insert and replace whole layers, keeping the weights of all others."""

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
    """Delete a layer: the layers that read its output read its input instead.

    Args:
        model: sequential or functional model; unchanged.
        name: name of the layer, 'encoder.conv1' for one in a nested model, or the layer itself.

    Returns:
        A new model with the weights of all other layers, compiled if the model was compiled.

    Raises:
        UnknownNameError: there is no such layer.
        ModelError: the layers after it do not fit their new input.
    """
    name = path_of(check_model(model), name)
    keep = Copies(Cut()).of
    target = _find(model, name)
    return _edit(
        model, name, lambda path, layer: [] if layer is target else [keep(layer, path)], [target]
    )


def insert_layer(model: keras.Model, after: str | Layer, layer: Layer) -> keras.Model:
    """Insert a layer, called on the output of another.

    Args:
        model: sequential or functional model; unchanged.
        after: the layer, or its name, whose output the new layer is called on.
        layer: layer to insert; it becomes part of the new model.

    Returns:
        A new model with the weights of all other layers, compiled if the model was compiled.

    Raises:
        UnknownNameError: there is no such layer.
        ModelError: the layer's name is taken, it does not fit its input, or the layers after it do
            not fit its output.
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
    """Replace a layer by another.

    Args:
        model: sequential or functional model; unchanged.
        name: name of the layer to remove, or the layer itself.
        layer: layer to put in its place, with its own weights; it may have the same name.

    Returns:
        A new model with the weights of all other layers, compiled if the model was compiled.

    Raises:
        UnknownNameError: there is no such layer.
        ModelError: the layer does not fit its input, or the layers after it do not fit its output.
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
    """Rebuild the model from what ``make`` returns; ``changed`` layers are in one model only."""
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
    """Copy the weights of the layers in both models; an inserted layer keeps its own."""
    apart = {id(variable) for layer in changed for variable in getattr(layer, "variables", ())}
    present = {leaf.name: leaf for leaf in _tensors_except(new, apart)}
    leaves = _tensors_except(model, apart)
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


def _tensors_except(model: keras.Model, apart: Container[int]) -> list[ModelTensor]:
    """List a model's tensors without those whose variables' ids are given."""
    return [leaf for leaf in list_tensors(model) if id(leaf.variable) not in apart]
