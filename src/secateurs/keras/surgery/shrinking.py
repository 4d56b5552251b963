"""Cutting a layer whose sizes its configuration does not tell: of a user's, or of a library's.

Its object is copied, attribute by attribute. The layers inside that have rules are made again from
their own configurations, in their new sizes; the weights it uses itself are made smaller. Its code
is the class's, and runs as it is. Keras cannot make such a layer again from ``get_config``; a cut
that is applied to the dense model can, which is what ``secateurs.save`` and ``load`` do.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import keras
import numpy as np

from secateurs.channels.cut import TensorCut
from secateurs.keras.internals import (
    COMPILED,
    Layer,
    SeedGenerator,
    Variable,
    finish_copy_,
    infer,
    is_tensor,
    metrics_inside,
    new_layer_like,
    seed_generators_of,
)
from secateurs.keras.model.layer_tree import (
    attributes_of,
    named_children,
    named_own_variables,
    path_below,
)
from secateurs.keras.surgery.slicing import slice_tensor
from secateurs.keras.tracing.composites import is_composite

SHRUNK = "_secateurs_shrunk"
"""The attribute that marks a layer whose configuration tells other sizes than it has."""

Remake = Callable[[Layer, str], Layer]
"""(layer, path) -> the layer made again from its configuration, in its new sizes."""


def is_shrunk(layer: Layer) -> bool:
    """Whether a layer, or one inside it, has other sizes than its configuration tells."""
    return bool(getattr(layer, SHRUNK, False)) or any(
        is_shrunk(child) for _, child in named_children(layer)
    )


def shrink(
    layer: Layer,
    path: str,
    tensors: Mapping[str, TensorCut],
    remake: Remake,
    made: dict[int, Layer],
) -> Layer:
    """A copy of a composite layer in its new sizes.

    Args:
        layer: unchanged.
        path: of the layer.
        tensors: what leaves the model's tensors, by name.
        remake: for the layers inside that are no composites.
        made: layer (by ``id``) -> what was made of it so far, so that what is shared stays so.
    """
    new = new_layer_like(layer)
    made[id(layer)] = new
    base = set(vars(new)) | COMPILED | {"compute_output_spec", "_torch_params"}
    known: dict[int, object] = {id(layer): new}
    for name, child in named_children(layer):
        known[id(child)] = _rebuild_part(child, path_below(path, name), tensors, remake, made)
    for name, variable, _ in named_own_variables(layer):
        known[id(variable)] = _cut_variable(variable, tensors.get(path_below(path, name)))
    known |= {id(generator): SeedGenerator() for generator in seed_generators_of(layer)}
    for metric in metrics_inside(layer):
        known[id(metric)] = type(metric).from_config(metric.get_config())
    for name, value in attributes_of(layer).items():
        if name not in base:
            setattr(new, name, _translate(value, known))
    setattr(new, SHRUNK, True)
    if layer.input_spec is not None:
        new.input_spec = keras.tree.map_structure(_without_sizes, layer.input_spec)
    finish_copy_(layer, new, known)
    # What the class says of its shapes may be by its configuration; its code knows better.
    vars(new)["compute_output_spec"] = partial(shapes_by_code, new)
    return new


def copy_activation(
    layer: Layer, path: str, tensors: Mapping[str, TensorCut], made: dict[int, Layer]
) -> Layer:
    """A copy, in its new size, of a layer of Keras's that is the activation of others.

    Args:
        layer: unchanged.
        path: of the layer.
        tensors: what leaves the model's tensors, by name.
        made: as for ``shrink``.
    """
    if id(layer) not in made:
        shrink(layer, path, tensors, lambda child, _: child, made)
        if not any(name.startswith(f"{path}.") for name in tensors):
            del vars(made[id(layer)])[SHRUNK]
    return made[id(layer)]


def shapes_by_code(layer: Layer, *arguments: object, **keywords: object) -> object:
    """The shapes and types that a layer's code gives, with open lengths left open.

    Keras tries a length of its own in the place of open ones, which may be more than a table of
    positions has; so a few are tried too.
    """
    try:
        return infer(layer, *arguments, **keywords)
    except Exception:  # noqa: BLE001 - what is raised below is what counts
        found = [_with_lengths(layer, arguments, keywords, length) for length in (2, 3)]
    return keras.tree.map_structure(
        lambda few, more: keras.KerasTensor(
            [
                one if one == other else None
                for one, other in zip(few.shape, more.shape, strict=True)
            ],
            dtype=few.dtype,
        ),
        *found,
    )


def _with_lengths(
    layer: Layer, arguments: Sequence[object], keywords: Mapping[str, object], length: int
) -> object:
    def close(item: object) -> object:
        if not isinstance(item, keras.KerasTensor):
            return item
        shape = [length if size is None else size for size in item.shape]
        return keras.KerasTensor(shape, dtype=item.dtype)

    given, options = keras.tree.map_structure(close, (list(arguments), dict(keywords)))
    return infer(layer, *given, **options)


def _without_sizes(spec: object) -> object:
    """What a layer's ``build`` says of its input, but for lengths, which may be others now."""
    if not isinstance(spec, keras.layers.InputSpec):
        return spec
    numbers = {name: getattr(spec, name) for name in ("dtype", "ndim", "max_ndim", "min_ndim")}
    return keras.layers.InputSpec(**numbers, allow_last_axis_squeeze=spec.allow_last_axis_squeeze)


def _translate(value: object, known: Mapping[int, object]) -> object:
    """An attribute's value with new parts in the places of old ones."""
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, dict):
        return {key: _translate(item, known) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        items: list[object] = [_translate(item, known) for item in value]
        if hasattr(value, "_fields"):  # a named tuple
            return type(value)(*items)  # type: ignore[arg-type]
        plain = next(kind for kind in (list, tuple, set) if isinstance(value, kind))
        return plain(items)
    if isinstance(value, types.MethodType) and id(value.__self__) in known:
        return types.MethodType(value.__func__, known[id(value.__self__)])
    if isinstance(value, np.ndarray) or is_tensor(value):
        return copy.deepcopy(value)
    return value


def _rebuild_part(
    child: Layer,
    path: str,
    tensors: Mapping[str, TensorCut],
    remake: Remake,
    made: dict[int, Layer],
) -> Layer:
    if id(child) not in made:
        if is_composite(child):
            shrink(child, path, tensors, remake, made)
        else:
            made[id(child)] = remake(child, path)
    return made[id(child)]


def _cut_variable(variable: Variable, cut: TensorCut | None) -> Variable:
    values = slice_tensor(variable.value, cut)
    return Variable(
        values,
        dtype=variable.dtype,
        trainable=variable.trainable,
        name=variable.name,
        autocast=variable._autocast,
        aggregation=variable.aggregation,
    )
