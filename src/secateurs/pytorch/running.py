"""Callables that time PyTorch models: eager, compiled, or exported to ONNX for another runtime."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from itertools import count
from types import FunctionType

import torch
from torch import nn

from secateurs.deployment.sessions import first_line, onnx_session
from secateurs.errors import ExportError, MeasurementError
from secateurs.measurement.conditions import Conditions
from secateurs.pytorch.model.copies import copy_model
from secateurs.pytorch.model.example_inputs import check_model, parse_example_inputs
from secateurs.pytorch.tracing.op_call import iterate_tensors, map_tensors
from secateurs.training.memory import explain_no_room

_NUMBERS = count()
_TYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def runner(
    model: nn.Module, example_inputs: object, conditions: Conditions
) -> Callable[[], object]:
    """A callable that runs a copy of the model once under these conditions and synchronises.

    Args:
        model: model in any mode; unchanged. The copy is in eval mode.
        example_inputs: inputs of its forward pass.
        conditions: runtime, batch, threads, number type and device.

    Raises:
        MeasurementError: the runtime cannot run the model, or the device does not exist.
    """
    if conditions.device == "cuda" and not torch.cuda.is_available():
        raise MeasurementError(
            "device: expected an available one; received 'cuda', but there is no CUDA device"
        )
    ready = copy_model(check_model(model)).eval()
    with explain_no_room(conditions.batch):
        arguments, keywords = _call(example_inputs, ready, conditions.batch)
    if conditions.runtime in ("onnxruntime", "openvino"):
        return _onnx_runner(ready, arguments, keywords, conditions)
    dtype, device = _TYPES[conditions.dtype], torch.device(conditions.device)
    ready.to(device, dtype)

    def place(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device, dtype if tensor.is_floating_point() else None)

    arguments, keywords = map_tensors(arguments, place), map_tensors(keywords, place)
    if conditions.runtime == "channels-last":
        ready.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        arguments, keywords = (
            map_tensors(arguments, _to_channels_last),
            map_tensors(keywords, _to_channels_last),
        )
    forward: Callable[..., object] = ready
    if conditions.runtime == "compile":
        forward = _compile_separately(ready)
    return _framework_runner(forward, arguments, keywords, conditions)


def _compile_separately(model: nn.Module) -> Callable[..., object]:
    """Compile the model with a compile cache of its own.

    PyTorch caches compiled code by code object, at most eight versions of one forward, and runs a
    ninth uncompiled. Of twenty cuts of one network, some would be timed compiled and some not. So
    each call gets a code object of its own.

    Raises:
        MeasurementError: the compiler is switched off, and would leave the model as it is.
    """
    from torch._dynamo import config

    if config.disable:
        raise MeasurementError(
            "compile: expected PyTorch's compiler switched on; received "
            "torch._dynamo.config.disable = True (TORCHDYNAMO_DISABLE=1 does that)"
        )

    def call(*arguments: object, **keywords: object) -> object:
        return model(*arguments, **keywords)

    code = call.__code__.replace(co_name=f"call_{next(_NUMBERS)}")
    apart = FunctionType(code, call.__globals__, code.co_name, None, call.__closure__)
    compiled: Callable[..., object] = torch.compile(apart)
    return compiled


def _framework_runner(
    forward: Callable[..., object],
    arguments: tuple[object, ...],
    keywords: dict[str, object],
    conditions: Conditions,
) -> Callable[[], object]:
    """A function that runs a PyTorch model on this number of threads, and restores the number."""
    threads, on_cuda = conditions.threads, conditions.device == "cuda"

    def run() -> object:
        before = torch.get_num_threads()
        if threads is not None and threads != before:
            torch.set_num_threads(threads)
        try:
            with torch.inference_mode(), explain_no_room(conditions.batch):
                found = forward(*arguments, **keywords)
            if on_cuda:
                torch.cuda.synchronize()
            return found
        finally:
            if threads is not None and threads != before:
                torch.set_num_threads(before)

    return run


def _onnx_runner(
    model: nn.Module,
    arguments: tuple[object, ...],
    keywords: dict[str, object],
    conditions: Conditions,
) -> Callable[[], object]:
    try:
        content, names = quick_onnx(model, arguments, keywords)
    except ExportError as error:
        raise MeasurementError(f"{conditions.runtime}: {error}") from error
    session = onnx_session(content, conditions)
    given = [tensor.detach().cpu().numpy() for tensor in iterate_tensors((arguments, keywords))]
    feeds = dict(zip(names, given, strict=True))
    return lambda: session(feeds)


def quick_onnx(
    model: nn.Module, arguments: tuple[object, ...], keywords: dict[str, object]
) -> tuple[bytes, list[str]]:
    """(an ONNX file's content, the names of its inputs), with batch normalisation folded.

    Uses PyTorch's older exporter, which takes a tenth of the newer one's time: the result is for
    timing, not for keeping.

    Raises:
        ExportError: the exporter cannot take the model.
    """
    buffer = io.BytesIO()
    names = [
        f"input_{number}" for number in range(len(list(iterate_tensors((arguments, keywords)))))
    ]
    if keywords:
        arguments = (*arguments, dict(keywords))
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # deprecation of the exporter, constants in the trace
            torch.onnx.export(
                model,
                arguments,
                buffer,  # type: ignore[arg-type]  # the older exporter takes one
                dynamo=False,
                opset_version=17,
                input_names=names,
            )
    except Exception as error:
        raise ExportError(f"the model cannot be written as ONNX: {first_line(error)}") from error
    return buffer.getvalue(), names


def batch_size(example_inputs: object, conditions: Conditions) -> int:
    """Number of examples in one call under these conditions."""
    if conditions.batch is not None:
        return conditions.batch
    if isinstance(example_inputs, Mapping):
        leaves: list[object] = list(example_inputs.values())
    elif isinstance(example_inputs, (tuple, list)):
        leaves = list(example_inputs)
    else:
        leaves = [example_inputs]
    shapes = [tuple(leaf.shape) for leaf in leaves if hasattr(leaf, "shape") and len(leaf.shape)]
    return int(shapes[0][0]) if shapes else 1


def _call(
    example_inputs: object, model: nn.Module, batch: int | None
) -> tuple[tuple[object, ...], dict[str, object]]:
    """(args, kwargs) for a model, repeated or cut to this batch size; None keeps it."""
    arguments, keywords = parse_example_inputs(example_inputs, model)
    if batch is None:
        return arguments, keywords
    wanted = batch

    def repeat(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim == 0 or len(tensor) == wanted:
            return tensor
        times = -(-wanted // len(tensor))
        return tensor.repeat(times, *[1] * (tensor.ndim - 1))[:wanted].contiguous()

    return map_tensors(arguments, repeat), map_tensors(keywords, repeat)


def _to_channels_last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
