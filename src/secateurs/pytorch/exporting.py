"""Write PyTorch models for the runtimes that they are deployed on, and run the files."""

from __future__ import annotations

import io
import logging
import re
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.export import ExportedProgram

from secateurs.deployment.sessions import first_line
from secateurs.deployment.targets import TARGETS
from secateurs.errors import ExportError
from secateurs.pytorch.model.copies import copy_model, list_modules
from secateurs.pytorch.model.example_inputs import check_model, parse_example_inputs
from secateurs.pytorch.saving import read, save
from secateurs.pytorch.tracing.op_call import iterate_tensors, map_tensors

ArrayList = list[NDArray[np.generic]]
"""A model's inputs or outputs as a flat list."""


class Interpreter(Protocol):
    """The part of LiteRT's interpreter that is used here."""

    def allocate_tensors(self) -> None: ...
    def get_input_details(self) -> Sequence[Mapping[str, int]]: ...
    def get_output_details(self) -> Sequence[Mapping[str, int]]: ...
    def set_tensor(self, index: int, value: NDArray[np.generic]) -> None: ...
    def get_tensor(self, index: int) -> NDArray[np.generic]: ...
    def invoke(self) -> None: ...


def outputs(model: nn.Module, example_inputs: object) -> ArrayList:
    """Outputs of the model in eval mode on these inputs, as arrays."""
    ready = _ready(model)
    arguments, keywords = parse_example_inputs(example_inputs, ready)
    with torch.no_grad():
        return _arrays(ready(*arguments, **keywords))


def input_arrays(model: nn.Module, example_inputs: object) -> ArrayList:
    """The inputs as arrays, in the order in which the forward pass takes them."""
    return _arrays(parse_example_inputs(example_inputs, model))


def write_file(model: nn.Module, path: Path, example_inputs: object, target: str) -> bool:
    """Write the model for a target; return whether the batch size is left dynamic.

    Raises:
        ExportError: the exporter cannot take the model; the message names the operation.
    """
    if target == "safetensors":
        save(model, path)
        return True
    ready = _ready(model)
    arguments, keywords = parse_example_inputs(example_inputs, ready)
    try:
        if target == "onnx":
            return _write_onnx(ready, arguments, keywords, path)
        return _write(ready, arguments, keywords, path, target)
    except ExportError as error:
        layer = _layer_that_ran(ready, error)
        layer = layer or name_layer(ready, arguments, keywords, str(error))
        raise ExportError(f"{error}{layer}") from error


def _write(
    model: nn.Module,
    arguments: tuple[object, ...],
    keywords: dict[str, object],
    path: Path,
    target: str,
) -> bool:
    """Export for a target other than ONNX; return whether the batch size is dynamic."""
    with _quietly(target):
        program, is_open = _program(model, arguments, keywords)
        if target == "pt2":
            # In memory first: PyTorch's writer ends the process where the disk is full.
            content = io.BytesIO()
            torch.export.save(program, content)
            path.write_bytes(content.getvalue())
        elif target == "executorch":
            write_executorch(program, path)
        elif target == "litert":
            import litert_torch

            litert_torch.convert(model, arguments, keywords or None).export(str(path))
            is_open = False
        elif target == "coreml":
            import coremltools

            coremltools.convert(program.run_decompositions({})).save(str(path))
    return is_open


def _layer_that_ran(model: nn.Module, error: BaseException) -> str:
    """The innermost layer whose code was running when the exporter failed; "" if none was.

    Exporters run the model, so the traceback of a forward pass that they cannot follow has the
    layer in one of its frames.
    """
    paths = {id(module): path for path, module in list_modules(model) if path}
    seen: BaseException | None = error
    while seen is not None:
        frames = [frame for frame, _ in traceback.walk_tb(seen.__traceback__)]
        for frame in reversed(frames):
            path = paths.get(id(frame.f_locals.get("self")))
            if path is not None:
                return f" (in the layer {path!r})"
        seen = seen.__cause__ or seen.__context__
    return ""


def name_layer(
    model: nn.Module, arguments: tuple[object, ...], keywords: dict[str, object], message: str
) -> str:
    """Where the model uses the operation that an exporter's message names; "" if unknown."""
    try:
        with _quietly("pt2"):
            program, _ = _program(model, arguments, keywords)
    except ExportError:
        return ""
    named = []
    for node in program.graph.nodes:
        name = getattr(getattr(node.target, "_schema", None), "name", "").partition("::")[2]
        if node.op == "call_function" and name:
            named.append(
                (name, [path for path, _ in node.meta.get("nn_module_stack", {}).values()])
            )
    # A message may also name the operation's inputs (%conv2d), so a name qualified by its library
    # (aten.conv2d) is tried first.
    for before in (r"(?:::|aten\.|prims\.)", r"(?<![\w%.])"):
        for name, inside in named:
            if re.search(rf"{before}{re.escape(name)}\b", message):
                layer = _layer_path(inside[-1]) if inside else ""
                return (
                    f" ({name} is in the layer {layer!r})" if layer else f" ({name} in its forward)"
                )
    return ""


def _layer_path(stacked: str) -> str:
    """Dotted path of a layer from its entry in ``nn_module_stack``.

    Newer releases write ``L['self'].1.1``, PyTorch 2.6 ``getattr(getattr(L['fn'], '1'), '1')``.
    """
    count = 1
    while count:  # from the inside
        stacked, count = re.subn(r"getattr\(([^(),]*), '(\w+)'\)", r"\1.\2", stacked)
    return re.sub(r"^L\['\w+'\]\.?", "", stacked)


def run_file(model: nn.Module, path: Path, example_inputs: object, target: str) -> ArrayList:
    """Run a written file on these inputs in its own runtime and return the outputs."""
    arguments, keywords = parse_example_inputs(example_inputs, model)
    with _quietly(target), torch.no_grad():
        if target == "pt2":
            return _arrays(torch.export.load(path).module()(*arguments, **keywords))
        if target == "safetensors":
            state, _ = read(path)
            twin = _ready(model)
            twin.load_state_dict(state, strict=False)  # tied tensors are saved under one name
            return _arrays(twin(*arguments, **keywords))
        if target == "executorch":
            return _run_executorch(path, (arguments, keywords))
        from ai_edge_litert import interpreter  # type: ignore[import-not-found]

        return _run_litert(interpreter.Interpreter(str(path)), _arrays((arguments, keywords)))


def _run_executorch(path: Path, inputs: object) -> ArrayList:
    from executorch.runtime import Runtime

    # The method holds pointers into its program, and the program into these bytes: all three must
    # stay alive.
    content = path.read_bytes()
    program = Runtime.get().load_program(content)
    method = program.load_method("forward")
    return [array.copy() for array in _arrays(method.execute(list(iterate_tensors(inputs))))]


def _run_litert(interpreter: Interpreter, arrays: ArrayList) -> ArrayList:
    interpreter.allocate_tensors()
    for detail, array in zip(interpreter.get_input_details(), arrays, strict=True):
        interpreter.set_tensor(detail["index"], array)
    interpreter.invoke()
    return [interpreter.get_tensor(one["index"]) for one in interpreter.get_output_details()]


def _write_onnx(
    model: nn.Module, arguments: tuple[object, ...], keywords: dict[str, object], path: Path
) -> bool:
    """Export with PyTorch's newer ONNX exporter, or with the older one where that fails."""
    reasons: list[ExportError] = []
    # Images in a list, as detectors take them, have no axis of images.
    in_lists = any(isinstance(one, list) for one in (*arguments, *keywords.values()))
    for attempt in (_export_with_dynamo, _export_with_torchscript):
        for is_open in (False,) if in_lists else (True, False):
            try:
                with _quietly("onnx"), torch.no_grad():
                    attempt(model, arguments, keywords, path, is_open)
            except ExportError as error:
                reasons.append(error)
                continue
            return is_open
    raise ExportError(f"{reasons[0]}; by the older exporter: {reasons[-1]}") from reasons[0]


def _export_with_dynamo(
    model: nn.Module,
    arguments: tuple[object, ...],
    keywords: dict[str, object],
    path: Path,
    is_open: bool,
) -> None:
    if is_open:
        arguments, keywords = (
            map_tensors(arguments, _at_least_two),
            map_tensors(keywords, _at_least_two),
        )
    torch.onnx.export(
        model,
        arguments,
        path,
        kwargs=keywords,
        dynamo=True,
        verbose=False,
        external_data=False,
        dynamic_shapes=_open_shapes(arguments, keywords) if is_open else None,
    )


def _export_with_torchscript(
    model: nn.Module,
    arguments: tuple[object, ...],
    keywords: dict[str, object],
    path: Path,
    is_open: bool,
) -> None:
    names = [f"input_{number}" for number, _ in enumerate(iterate_tensors((arguments, keywords)))]
    axes = {name: {0: "batch"} for name in [*names, "output"]}
    with _without_graph_dump():
        torch.onnx.export(
            model,
            (*arguments, dict(keywords)) if keywords else arguments,
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=names,
            output_names=["output"] if is_open else None,
            dynamic_axes=axes if is_open else None,
        )


@contextmanager
def _without_graph_dump() -> Iterator[None]:
    """Suppress the dump of the whole graph that the older exporter prints from C++ on failure.

    The exporter means to print it only on request, but tests the function itself where it should
    call it.
    """
    try:
        from torch.onnx._internal.torchscript_exporter import utils
    except ImportError:  # another version of PyTorch
        yield
        return
    before = utils.setup_onnx_logging
    utils.setup_onnx_logging = lambda *_: nullcontext()  # type: ignore[assignment]
    try:
        yield
    finally:
        utils.setup_onnx_logging = before


def _program(
    model: nn.Module, arguments: tuple[object, ...], keywords: dict[str, object]
) -> tuple[ExportedProgram, bool]:
    """(the exported program, whether its batch size is dynamic)."""
    shapes = _open_shapes(arguments, keywords)
    several = map_tensors(arguments, _at_least_two), map_tensors(keywords, _at_least_two)
    try:
        return torch.export.export(model, *several, dynamic_shapes=shapes), True
    except Exception:  # noqa: BLE001 - the forward pass treats the batch size as a constant
        return torch.export.export(model, arguments, keywords), False


OpenShapes = dict[str, object] | tuple[object, ...]
"""Dynamic axes of a model's inputs."""


def _open_shapes(arguments: tuple[object, ...], keywords: dict[str, object]) -> OpenShapes:
    """Mark the first axis of every input as dynamic."""

    def first_axis(tensor: torch.Tensor) -> object:
        return {0: torch.export.Dim.DYNAMIC} if tensor.ndim else None

    if keywords and not arguments:
        return {key: map_tensors(value, first_axis) for key, value in keywords.items()}
    return tuple(map_tensors(value, first_axis) for value in arguments)


def _at_least_two(tensor: torch.Tensor) -> torch.Tensor:
    """Double a batch of one: exporters specialise on a length of one."""
    return torch.cat([tensor, tensor]) if tensor.ndim and len(tensor) == 1 else tensor


def write_executorch(program: ExportedProgram, path: Path) -> None:
    """Write a program for ExecuTorch, delegating to XNNPACK whatever it can run."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)


def _ready(model: nn.Module) -> nn.Module:
    return copy_model(check_model(model)).eval()


def _arrays(values: object) -> ArrayList:
    return [np.asarray(t.detach().cpu().numpy()) for t in iterate_tensors(_plain(values))]


def _plain(values: object) -> object:
    """Outputs as tuples, where Hugging Face's output classes (``to_tuple``) wrap them."""
    to_tuple: Callable[[], object] | None = getattr(values, "to_tuple", None)
    return to_tuple() if callable(to_tuple) else values


_NOISY_LOGGERS = (
    *("torch.onnx", "torch.export", "torch.fx", "torch._dynamo", "onnxscript"),
    *("coremltools", "coremltools.models"),
)


@contextmanager
def _without_onnx_log() -> Iterator[None]:
    """Turn off a log of PyTorch's own, which any earlier export of the process may have left on.

    It is written past Python's streams: the graph that the exporter could not convert.
    """
    turn: Callable[[bool], None] | None = getattr(torch._C, "_jit_set_onnx_log_enabled", None)
    is_on: Callable[[], bool] | None = getattr(torch._C, "_jit_is_onnx_log_enabled", None)
    if turn is None or is_on is None or not is_on():
        yield
        return
    turn(False)
    try:
        yield
    finally:
        turn(True)


@contextmanager
def _quietly(target: str) -> Iterator[None]:
    """Suppress what exporters print and log; their exceptions become one-line ExportErrors."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with (
            _without_onnx_log(),
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),  # progress bars
        ):
            warnings.simplefilter("ignore")
            yield
    except ExportError:
        raise
    except OSError:
        raise
    except ImportError as error:
        raise ExportError(
            f"{target}: needs the package {error.name!r}, which is not installed. Install it: "
            f"{TARGETS[target].command}"
        ) from error
    except Exception as error:
        cause = error.__cause__ or error
        raise ExportError(f"{target}: cannot convert the model: {first_line(cause)}") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
