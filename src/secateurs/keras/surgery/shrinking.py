"""Cut composite layers: a user's or library's layers whose configuration does not list their sizes.

The object is copied attribute by attribute. Sublayers with rules are rebuilt from their own
configurations with new sizes; weights that the layer uses directly are sliced. The layer's code
runs unchanged. Keras cannot rebuild such a layer from ``get_config``, but applying the cut to the
dense model can, which is what ``secateurs.save`` and ``secateurs.load`` do.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

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
from secateurs.keras.sizes.layer_sizes import SizeChanges, changed_attributes
from secateurs.keras.surgery.slicing import slice_tensor
from secateurs.keras.tracing.composites import is_composite

SHRUNK = "_secateurs_shrunk"
"""Attribute that marks a layer whose sizes differ from its configuration."""

Remake = Callable[[Layer, str], Layer]
"""Function (layer, path) -> layer rebuilt from its configuration with new sizes."""


def is_shrunk(layer: Layer) -> bool:
    """Return whether the sizes of a layer or a sublayer differ from its configuration."""
    return bool(getattr(layer, SHRUNK, False)) or any(
        is_shrunk(child) for _, child in named_children(layer)
    )


def shrink(
    layer: Layer,
    path: str,
    tensors: Mapping[str, TensorCut],
    remake: Remake,
    made: dict[int, Layer],
    sizes: SizeChanges = MappingProxyType({}),
) -> Layer:
    """Copy a composite layer with its new sizes.

    Args:
        layer: layer to copy; unchanged.
        path: path of the layer.
        tensors: cuts of the model's tensors, by name.
        remake: function that rebuilds sublayers that are not composite.
        made: ``id`` of a layer -> its copy, so that shared layers stay shared; extended.
        sizes: path of a layer -> changes of the integers in its attributes.

    Raises:
        CutError: an attribute does not have the value that the cut expects.
    """
    new = new_layer_like(layer)
    made[id(layer)] = new
    base = set(vars(new)) | COMPILED | {"compute_output_spec", "_torch_params"}
    known: dict[int, object] = {id(layer): new}
    for name, child in named_children(layer):
        known[id(child)] = _rebuild_part(
            child, path_below(path, name), tensors, remake, made, sizes
        )
    for name, variable, _ in named_own_variables(layer):
        known[id(variable)] = _cut_variable(variable, tensors.get(path_below(path, name)))
    known |= {id(generator): SeedGenerator() for generator in seed_generators_of(layer)}
    for metric in metrics_inside(layer):
        known[id(metric)] = type(metric).from_config(metric.get_config())
    numbers = changed_attributes(layer, sizes.get(path, ()))
    for name, value in attributes_of(layer).items():
        if name not in base:
            setattr(new, name, _replace_parts(numbers.get(name, value), known))
    setattr(new, SHRUNK, True)
    if layer.input_spec is not None:
        new.input_spec = keras.tree.map_structure(_without_sizes, layer.input_spec)
    finish_copy_(layer, new, known)
    # The class may compute its shapes from the old configuration; running the code is exact.
    vars(new)["compute_output_spec"] = partial(shapes_by_code, new)
    return new


def copy_activation(
    layer: Layer, path: str, tensors: Mapping[str, TensorCut], made: dict[int, Layer]
) -> Layer:
    """Copy, with its new size, a built-in layer that is the activation of others.

    Args:
        layer: layer to copy; unchanged.
        path: path of the layer.
        tensors: cuts of the model's tensors, by name.
        made: as for ``shrink``.
    """
    if id(layer) not in made:
        shrink(layer, path, tensors, lambda child, _: child, made)
        if not any(name.startswith(f"{path}.") for name in tensors):
            del vars(made[id(layer)])[SHRUNK]
    return made[id(layer)]


def shapes_by_code(layer: Layer, *arguments: object, **keywords: object) -> object:
    """Infer output shapes and dtypes by running a layer's code, keeping open lengths open.

    Keras replaces an open length by a fixed number, which may exceed a table of positions. If that
    fails, two small lengths are tried; output lengths that differ between them are open.
    """
    try:
        return infer(layer, *arguments, **keywords)
    except Exception:  # noqa: BLE001 - user code; the attempts below raise again
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
    """Return an input specification without lengths, which may have changed."""
    if not isinstance(spec, keras.layers.InputSpec):
        return spec
    numbers = {name: getattr(spec, name) for name in ("dtype", "ndim", "max_ndim", "min_ndim")}
    return keras.layers.InputSpec(**numbers, allow_last_axis_squeeze=spec.allow_last_axis_squeeze)


def _replace_parts(value: object, known: Mapping[int, object]) -> object:
    """Copy an attribute's value, with old layers and variables replaced by new ones."""
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, dict):
        return {key: _replace_parts(item, known) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        items: list[object] = [_replace_parts(item, known) for item in value]
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
    sizes: SizeChanges,
) -> Layer:
    if id(child) not in made:
        if is_composite(child):
            shrink(child, path, tensors, remake, made, sizes)
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
