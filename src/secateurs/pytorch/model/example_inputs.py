"""Convert example inputs, as users give them, to the arguments of a model's forward."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from secateurs.channels.proof import unwrap
from secateurs.errors import ModelError
from secateurs.pytorch.model.copies import list_modules

SHARDED = {"FullyShardedDataParallel", "FSDPModule"}
"""Class names of both kinds of FSDP: the wrapper, and the base that ``fully_shard`` adds."""


def parse_example_inputs(
    example_inputs: object, model: nn.Module
) -> tuple[tuple[object, ...], dict[str, object]]:
    """Convert a tensor or array, or a tuple, list or dictionary of them, to (args, kwargs).

    Arrays become tensors on the model's device, floating-point ones of the model's dtype.
    """
    if isinstance(example_inputs, Mapping):
        return (), {key: _as_tensor(value, model) for key, value in example_inputs.items()}
    if isinstance(example_inputs, (tuple, list)):
        return tuple(_as_tensor(value, model) for value in example_inputs), {}
    return (_as_tensor(example_inputs, model),), {}


def _as_tensor(value: object, model: nn.Module) -> object:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufc":
            raise ModelError(
                f"example inputs: expected an array of numbers; received one of {value.dtype}"
            )
        tensor = torch.from_numpy(np.ascontiguousarray(value))
        like = next(model.parameters(), None)
        if like is None:
            return tensor
        return tensor.to(like.device, like.dtype if tensor.is_floating_point() else None)
    return value


def format_inputs(example_inputs: object) -> str:
    """Shapes and dtypes for error messages: '(1, 3, 224, 224) float32'."""
    if isinstance(example_inputs, Mapping):
        return "{" + ", ".join(f"{k}: {format_inputs(v)}" for k, v in example_inputs.items()) + "}"
    if isinstance(example_inputs, (tuple, list)):
        return "(" + ", ".join(format_inputs(value) for value in example_inputs) + ")"
    if isinstance(example_inputs, (np.ndarray, torch.Tensor)):
        return f"{tuple(example_inputs.shape)} {str(example_inputs.dtype).removeprefix('torch.')}"
    return type(example_inputs).__name__


def check_model(model: object) -> nn.Module:
    """The model inside wrappers that compile it or distribute it over devices.

    Raises:
        ModelError: the model cannot be traced; the message says what to pass instead.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"expected a torch.nn.Module; received {type(model).__name__}")
    inner = unwrap(model)
    kind = type(inner).__name__
    if isinstance(inner, torch.jit.ScriptModule):
        raise ModelError(
            f"{kind}: expected a model in Python; received a scripted one, whose code cannot "
            "change. Prune or save the nn.Module it was made from, and script the result."
        )
    modules = list_modules(inner)
    kinds = {type(part) for _, part in modules}
    if SHARDED & {base.__name__ for part in kinds for base in part.__mro__}:
        raise ModelError(
            f"{kind}: expected a whole model; received one that FSDP has sharded. Prune or save "
            "it before it is wrapped."
        )
    for path, part in modules:
        for name, tensor in itertools.chain(part._parameters.items(), part._buffers.items()):
            if tensor is not None and not _is_dense(tensor):
                _check_tensor(f"{path}.{name}" if path else name, tensor)
    _check_modules(modules)
    return inner


def _is_dense(tensor: torch.Tensor) -> bool:
    """Whether it is a tensor or parameter of PyTorch's own, dense and not quantised."""
    is_of_pytorch = type(tensor) is nn.Parameter or type(tensor) is torch.Tensor
    return is_of_pytorch and tensor.layout is torch.strided and not tensor.is_quantized


def _check_tensor(name: str, tensor: torch.Tensor) -> None:
    if nn.parameter.is_lazy(tensor):
        raise ModelError(
            f"{name}: expected a parameter with a shape; received one that is made at the first "
            "forward pass. Run the model once on the example inputs, then prune it."
        )
    if tensor.layout is not torch.strided:
        raise ModelError(
            f"{name}: expected a dense tensor; received a {str(tensor.layout).partition('.')[2]} "
            "one. Make it dense (tensor.to_dense()) first."
        )
    if tensor.is_quantized:
        raise ModelError(f"{name}: {_QUANTISED}")


def _check_modules(modules: Sequence[tuple[str, nn.Module]]) -> None:
    for path, module in modules:
        where = type(module).__module__
        if "quantized" in where and where.startswith(("torch.ao.nn", "torch.nn.quantized")):
            raise ModelError(f"{path or type(module).__name__}: {_QUANTISED}")


_QUANTISED = (
    "expected floating-point weights; received quantised ones. Prune or save the model before "
    "it is quantised."
)
