"""Tensors of a model: parameters, buffers, and plain tensors kept as attributes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import nn

from secateurs.channels.equations import Ids
from secateurs.channels.network import Role, Tensor
from secateurs.channels.tensors import layer_of
from secateurs.errors import ModelError
from secateurs.pytorch.model.copies import OF_EVERY_MODULE

AnyValue = TypeVar("AnyValue")


@dataclass(eq=False, slots=True)
class ModelTensor:
    """One tensor of the model, and the units found along its axes so far.

    Attributes:
        name: its first name in the model's state.
        tensor: the tensor itself.
        is_parameter: False for buffers and plain tensors.
        aliases: its other names.
        axes: axis -> ids of the units, one for each index, for the axes that carry channels.
        roles: axis -> its role.
        is_read: whether an operation took it as an input.
        fixed: axis -> reason why units found along it are frozen.
    """

    name: str
    tensor: torch.Tensor
    is_parameter: bool
    aliases: list[str] = field(default_factory=list)
    axes: dict[int, Ids] = field(default_factory=dict)
    roles: dict[int, Role] = field(default_factory=dict)
    is_read: bool = False
    fixed: dict[int, str] = field(default_factory=dict)

    @property
    def layer(self) -> str:
        """Path of the layer that it belongs to."""
        return layer_of(self.name)

    @property
    def can_carry_channels(self) -> bool:
        """Whether it is floating-point or complex; axes of integer tensors (indices) have none."""
        return self.tensor.is_floating_point() or self.tensor.is_complex()

    def describe(self) -> Tensor:
        """The tensor in the terms of the framework-free algebra."""
        return Tensor(
            self.name,
            tuple(self.tensor.shape),
            self.tensor.element_size(),
            self.is_parameter,
            tuple(self.aliases),
            _in_order(self.axes),
            _in_order(self.roles),
            self.is_read,
        )


def _in_order(by_axis: dict[int, AnyValue]) -> dict[int, AnyValue]:
    return dict(sorted(by_axis.items())) if len(by_axis) > 1 else by_axis.copy()


def list_tensors(model: nn.Module) -> list[ModelTensor]:
    """Every tensor of the model once, parameters first, with all its names."""
    leaves: dict[int, ModelTensor] = {}
    for name, tensor, is_parameter in named_tensors(model):
        known = leaves.get(id(tensor))
        if known is None:
            leaves[id(tensor)] = ModelTensor(name, tensor, is_parameter)
        elif name != known.name:
            known.aliases.append(name)
    return list(leaves.values())


def named_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor, bool]]:
    """(name, tensor, whether a parameter) for all of a model's tensors, repeats included."""
    modules = _paths(model, "")
    for prefix, module in modules:
        named = module._parameters.items()
        yield from ((prefix + name, tensor, True) for name, tensor in named if tensor is not None)
    for prefix, module in modules:
        kept = module._buffers.items()
        yield from ((prefix + name, tensor, False) for name, tensor in kept if tensor is not None)
    for prefix, module in modules:
        for attribute, value in vars(module).items():
            if attribute in OF_EVERY_MODULE or type(value) in _HOLD_NOTHING:
                continue
            if attribute[:1] != "_" or attribute in vars(type(module)):
                yield from _bare_tensors(prefix + attribute, value)


_HOLD_NOTHING = frozenset((bool, int, float, str, type(None)))


def _paths(module: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
    """(path with a trailing dot, module), repeats included; '' for the model itself."""
    found = [(prefix, module)]
    for name, inner in module._modules.items():
        if inner is not None:
            found += _paths(inner, f"{prefix}{name}.")
    return found


def check_values(
    leaves: Iterable[ModelTensor], example_inputs: object, *, caller: str, otherwise: str
) -> None:
    """Refuse a model or inputs on the meta device, where tensors have shapes but no values.

    Args:
        leaves: tensors of the model.
        example_inputs: inputs; tensors in nested lists, tuples and dictionaries are checked.
        caller: operation that needs values, for the message.
        otherwise: alternative without values, for the message.

    Raises:
        ModelError: a tensor has no values; the message names the first one.
    """
    inputs = ((name, x) for name, x, _ in _bare_tensors("example_inputs", example_inputs))
    for name, tensor in itertools.chain(((leaf.name, leaf.tensor) for leaf in leaves), inputs):
        if tensor.is_meta:
            raise ModelError(
                f"{name}: {caller} needs values; received a tensor on the meta device, which has "
                f"none. Load the weights first (model.to_empty, load_state_dict), or {otherwise}."
            )


def _bare_tensors(name: str, value: object) -> Iterator[tuple[str, torch.Tensor, bool]]:
    """Tensors in an attribute: by itself, or in a list, tuple or dictionary."""
    if isinstance(value, torch.Tensor):
        yield name, value, isinstance(value, nn.Parameter)
    elif isinstance(value, (list, tuple)):
        for place, item in enumerate(value):
            if type(item) not in _HOLD_NOTHING:
                yield from _bare_tensors(f"{name}.{place}", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if type(item) not in _HOLD_NOTHING:
                yield from _bare_tensors(f"{name}.{key}", item)


def check_gradients_exist(caller: str) -> None:
    """Refuse to go on in ``torch.inference_mode``, whose tensors autograd cannot use later.

    Raises:
        ModelError: the call is inside it.
    """
    if torch.is_inference_mode_enabled():
        raise ModelError(
            f"{caller}: expected a call where gradients can be taken; received one inside "
            "torch.inference_mode(). Call it outside, or inside torch.inference_mode(False)."
        )
