"""Layers that are passed by name or as objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from secateurs.errors import UnknownNameError


def layer_names(model: Any, wanted: Any) -> tuple[str, ...]:
    """Names of layers that are given by name or as objects, one or several.

    Args:
        model: model of the layers.
        wanted: a name or a layer, or several.

    Raises:
        UnknownNameError: a layer does not belong to the model.
    """
    several = [wanted] if isinstance(wanted, str) or is_layer(wanted) else list(wanted)
    return tuple(one if isinstance(one, str) else _name_of(model, one) for one in several)


def _name_of(model: Any, layer: Any) -> str:
    if hasattr(model, "named_modules"):
        known = next((name for name, one in model.named_modules() if one is layer), None)
        # Keras models on PyTorch are modules too, but their layers have their own names.
        if known and not hasattr(layer, "get_config"):
            return str(known)
    flat = getattr(model, "layers", ())
    if any(one is layer for one in flat):
        return str(layer.name)
    raise UnknownNameError(
        f"expected a layer of {type(model).__name__}; received a {type(layer).__name__} that is "
        "not part of it. Give its name, as in dict(model.named_modules())."
    )


def is_layer(value: Any) -> bool:
    """Whether this is a PyTorch module or a Keras layer; neither framework is imported."""
    kind = type(value)
    return hasattr(kind, "named_parameters") or hasattr(kind, "get_config")


def are_layers(value: Any) -> bool:
    """Whether these are several layers, or names of layers."""
    several = isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes)
    return several and all((isinstance(one, str) and one) or is_layer(one) for one in value)
