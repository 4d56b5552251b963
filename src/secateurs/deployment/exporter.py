"""Export: write a model for a runtime, run it there, and compare it on the same inputs."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.arguments import DATA_GIVEN, FLAG, MODEL, NUMBER, PATH, TEXT, takes
from secateurs.backends import Backend, backend_of, framework_of
from secateurs.channels.file_size import FORMATS, FileKind
from secateurs.channels.proof import cut_of
from secateurs.deployment import onnx_files
from secateurs.deployment.quantisation import Quantized, int8_beside, quantize, quantize_file
from secateurs.deployment.sessions import first_line, onnx_session
from secateurs.deployment.targets import TARGETS, Target, target_of
from secateurs.errors import BudgetError, ExportError, StudyError
from secateurs.files import halve
from secateurs.formatting import megabytes
from secateurs.measurement.conditions import Conditions, Runtime
from secateurs.measurement.speed import file_bytes

TOLERANCE = 1e-3
"""Largest difference, relative to the largest output, that reordered rounding explains."""

HALF_TOLERANCE = 1e-2
"""The same for weights in half precision, which has three decimal digits."""

DECIDED = 0.05
"""Relative difference on negated inputs that rounding never explains, but a different control-flow
decision does."""

NOT_RUN_HERE = {"coreml": "Core ML runs only on macOS, so the file was written but not compared"}


@dataclass(frozen=True, slots=True)
class Exported:
    """Result of ``export``.

    Attributes:
        path: path of the file or directory.
        target: name of the target.
        bytes: size on disk.
        max_difference: largest difference of an output from the model's, relative to the largest
            output; None if the runtime is not available here.
        dynamic_batch: whether any number of examples can be given at once.
        note: further remarks.
        int8: the quantised file, if one was requested.
    """

    path: Path
    target: str
    bytes: int
    max_difference: float | None
    dynamic_batch: bool
    note: str = ""
    int8: Quantized | None = None

    def __str__(self) -> str:
        compared = (
            "not compared"
            if self.max_difference is None
            else f"largest difference in {self.target} {self.max_difference:.1e} of the largest "
            "output"
        )
        batch = "any batch" if self.dynamic_batch else "this batch only"
        lines = [f"{self.path}: {megabytes(self.bytes)}, {batch}; {compared}"]
        lines += [self.note] if self.note else []
        lines += [str(self.int8)] if self.int8 is not None else []
        return "\n".join(lines)


@takes(
    model=MODEL,
    path=PATH,
    to=TEXT.or_none(),
    overwrite=FLAG,
    tolerance=NUMBER.or_none(),
    int8=DATA_GIVEN,
    precision=TEXT,
)
def export(
    model: Any,
    path: str | Path,
    example_inputs: Any = None,
    *,
    to: str | None = None,
    overwrite: bool = False,
    tolerance: float | None = None,
    int8: Any = None,
    precision: str = "float32",
) -> Exported:
    """Write a model for a runtime, run the file there, and compare it with the model.

    Batch normalisation is folded into preceding convolutions (in ONNX and OpenVINO files), the
    batch size is dynamic where the exporter supports it, and the cut is recorded in the file's
    metadata where the format has room for it.

    Args:
        model: a dense or cut model; it is not changed, and exported in eval mode.
        path: path of the file or directory; its suffix determines the target.
        example_inputs: inputs of the model, on which outputs are compared.
        to: "onnx", "openvino", "pt2", "executorch", "litert", "coreml", "safetensors", "keras" or
            "savedmodel"; None infers it from the suffix.
        overwrite: whether to replace an existing file.
        tolerance: largest accepted difference, relative to the largest output; None is 0.001, and
            0.01 in half precision.
        int8: (images, labels) or images for calibrating quantisation: an ONNX file is then also
            quantised by ONNX Runtime, beside the first file, and compared with it.
        precision: precision of the weights in the file: "float32", or "float16" for safetensors,
            ONNX and OpenVINO, which halves the file; computation stays in float32.

    Returns:
        What was written, with the largest difference.

    Raises:
        ExportError: no such target, a package is missing, the exporter does not support the model,
            the file exists, or it gives other outputs than the model.

    Example:
        >>> import tempfile, torch, secateurs as sec
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     made = sec.export(model, f"{folder}/small.pt2", torch.randn(2, 4))
        >>> made.max_difference < 1e-5
        True
    """
    path = Path(path)
    target = target_of(path, to)
    target.check(framework_of(model))
    if int8 is not None and target.name != "onnx":
        raise ExportError(f"int8: expected an ONNX file (small.onnx); received {target.name}")
    kind = _kind_of(target, precision)
    _check_new([path, int8_beside(path)] if int8 is not None else [path], overwrite)
    if tolerance is None:
        tolerance = TOLERANCE if kind.precision == "float32" else HALF_TOLERANCE
    made = _put(model, path, example_inputs, target, tolerance, kind)
    if int8 is None:
        return made
    return replace(made, int8=quantize(path, int8, overwrite=overwrite))


def _check_new(places: Sequence[Path], overwrite: bool) -> None:
    for place in places:
        if place.exists() and not overwrite:
            raise ExportError(
                f"{place}: exists already; replace it with overwrite=True (--overwrite)"
            )


def _kind_of(target: Target, precision: str) -> FileKind:
    if precision == "int8":
        raise ExportError(
            "precision: int8 needs calibration images: pass int8=images (--int8 --data NAME), "
            "which writes a second file"
        )
    usual = FORMATS[target.name][0]
    try:
        return FileKind.of(target.name, usual if precision == "float32" else precision)
    except BudgetError as error:
        raise ExportError(str(error)) from None


def weigh_written(model: Any, kind: FileKind, *, example_inputs: Any) -> int:
    """Size in bytes of the file that ``export`` would write; the file is not kept.

    Args:
        model: the model; it is not changed.
        kind: format and precision of the file; for int8, ranges are calibrated on the example
            inputs, because they do not affect the size.
        example_inputs: inputs of the model.

    Raises:
        ExportError: a package is missing, or the exporter does not support the model.
    """
    target = TARGETS[kind.format]
    target.check(framework_of(model))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{target.suffix}"
        backend = backend_of(model)
        _write(backend, model, path, example_inputs, target, kind)
        if kind.precision == "int8":
            (images,) = backend.input_arrays(model, example_inputs)
            quantize_file(path, path.with_name("int8.onnx"), images)
            path.unlink()
        return file_bytes(Path(folder))


def _put(
    model: Any,
    path: Path,
    example_inputs: Any,
    target: Target,
    tolerance: float,
    kind: FileKind,
) -> Exported:
    """Write and compare in a temporary folder, and move the file to its place if it agrees."""
    backend = backend_of(model)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # In a folder beside the destination, so that the final move is atomic.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            inside = Path(folder) / path.name
            made = _compare_written(backend, model, inside, example_inputs, target, kind)
            if made.max_difference is not None and not made.max_difference <= tolerance:
                raise ExportError(
                    f"{path}: expected outputs of {target.name} within {tolerance:.0e} of the "
                    "model's, relative to the largest output; received a difference of "
                    f"{made.max_difference:.1e}. Nothing was written."
                )
            _move(Path(folder), path)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written: {error.strerror or error}") from error
    except StudyError as error:  # raised for the path in the temporary folder
        raise ExportError(str(error).replace(folder, str(path.parent))) from error
    return replace(made, path=path)


def _write(
    backend: Backend, model: Any, path: Path, example_inputs: Any, target: Target, kind: FileKind
) -> tuple[bool, str, Sequence[str]]:
    """(whether the batch size is dynamic, a remark, input names)."""
    if target.name not in ("onnx", "openvino"):
        dynamic = backend.write_file(model, path, example_inputs, target.name)
        if kind.precision == "float16" and target.name == "safetensors":
            path.write_bytes(halve(path.read_bytes()))
        return dynamic, NOT_RUN_HERE.get(target.name, ""), ()
    onnx_path = path.with_suffix(".onnx")
    dynamic = backend.write_file(model, onnx_path, example_inputs, "onnx")
    is_half = kind.precision == "float16"
    folded = onnx_files.finish_(onnx_path, cut_of(model), halve=is_half and target.name == "onnx")
    names = onnx_files.input_names(onnx_path)
    if target.name == "openvino":
        _convert_to_openvino(onnx_path, path, halve=is_half)
        onnx_path.unlink()
    return dynamic, f"{folded} batch normalisations folded" if folded else "", names


def _compare_written(
    backend: Backend, model: Any, path: Path, example_inputs: Any, target: Target, kind: FileKind
) -> Exported:
    """Write the file at ``path``, and compare its outputs with the model's."""
    dynamic, note, names = _write(backend, model, path, example_inputs, target, kind)
    runs: Callable[[Any], Sequence[NDArray[Any]]] | None = None
    if target.name in ("onnx", "openvino"):
        runs = partial(_run_session, backend, model, path, names, target)
    elif target.name not in NOT_RUN_HERE:
        runs = partial(_run_file, backend, model, path, target)
    difference = None
    if runs is not None:
        difference = max(
            relative_difference(runs(inputs), backend.outputs(model, inputs))
            for inputs in _batches(example_inputs, dynamic)
        )
        if difference <= DECIDED:  # larger ones are refused anyway
            _check_decisions(backend, model, example_inputs, runs)
    size = file_bytes(path) + sum(
        file_bytes(one) for one in path.parent.iterdir() if one != path and one.is_file()
    )
    return Exported(path, target.name, size, difference, dynamic, note)


def _run_session(
    backend: Backend,
    model: Any,
    path: Path,
    names: Sequence[str],
    target: Target,
    inputs: Any,
) -> Sequence[NDArray[Any]]:
    runtime: Runtime = "openvino" if target.name == "openvino" else "onnxruntime"
    session = onnx_session(path, Conditions(runtime=runtime))
    arrays = backend.input_arrays(model, inputs)
    return session(dict(zip(names, arrays, strict=True)))


def _run_file(
    backend: Backend, model: Any, path: Path, target: Target, inputs: Any
) -> Sequence[NDArray[Any]]:
    found: Sequence[NDArray[Any]] = backend.run_file(model, path, inputs, target.name)
    return found


def _check_decisions(
    backend: Backend,
    model: Any,
    example_inputs: Any,
    runs: Callable[[Any], Sequence[NDArray[Any]]],
) -> None:
    """Reject a file that gives other outputs on quite different inputs: the negated ones.

    An exporter may record a decision that was made for the example inputs (``if x.sum() > 0``); the
    file then agrees with the model on those only.

    Raises:
        ExportError: the outputs differ.
    """
    others = negate(example_inputs)
    try:
        expected = backend.outputs(model, others)
    except Exception:  # noqa: BLE001 - a forward may raise anything on unsuitable inputs
        return
    if not all(np.isfinite(one).all() for one in expected):
        return
    try:
        difference = relative_difference(runs(others), expected)
    except Exception:  # noqa: BLE001 - a runtime may raise anything where the model does not
        difference = float("inf")
    if not difference <= DECIDED:
        raise ExportError(
            f"the file agrees with the model on the example inputs, but differs ({difference:.1e} "
            "of the largest output) on the same inputs with the opposite sign: control flow in "
            "the model depends on values, and the exporter recorded one path only. Express the "
            "decision with tensor operations (torch.where), or move it out of the model. Nothing "
            "was written."
        )


def negate(inputs: Any) -> Any:
    """Negate floating-point inputs; integers and masks are unchanged.

    >>> negate([np.array([1.5]), np.array([2])])
    [array([-1.5]), array([2])]
    """
    if isinstance(inputs, Mapping):
        return {name: negate(value) for name, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        made = [negate(value) for value in inputs]
        return made if isinstance(inputs, list) else tuple(made)
    return -inputs if "float" in str(getattr(inputs, "dtype", "")) else inputs


def _batches(example_inputs: Any, dynamic: bool) -> list[Any]:
    """Inputs to compare on: as given, and with one more example if the batch size is dynamic."""
    return [example_inputs, _one_more(example_inputs)] if dynamic else [example_inputs]


def _one_more(inputs: Any) -> Any:
    """Append the first example to the inputs once more."""
    if isinstance(inputs, Mapping):
        return {name: _one_more(value) for name, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return type(inputs)(_one_more(value) for value in inputs)
    if getattr(inputs, "ndim", 0):
        return inputs[[*range(len(inputs)), 0]]  # works for arrays and tensors
    return inputs


def relative_difference(found: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> float:
    """Largest difference of any output, relative to the largest absolute value of that output."""
    if [one.shape for one in found] != [one.shape for one in expected]:
        return float("inf")
    largest = 0.0
    for mine, theirs in zip(found, expected, strict=True):
        if not theirs.size:
            continue
        gap = np.abs(mine.astype(np.float64) - theirs.astype(np.float64))
        largest = max(largest, float(gap.max() / max(float(np.abs(theirs).max()), 1e-12)))
        if not np.isfinite(gap).all():
            return float("inf")
    return largest


def _convert_to_openvino(onnx_path: Path, path: Path, halve: bool) -> None:
    import openvino

    try:
        # OpenVINO halves weights by default.
        openvino.save_model(openvino.convert_model(str(onnx_path)), path, compress_to_fp16=halve)
    except Exception as error:
        raise ExportError(f"openvino: cannot convert the model: {first_line(error)}") from error


def _move(folder: Path, path: Path) -> None:
    """Move everything in the folder next to ``path``."""
    for made in folder.iterdir():
        place = path.parent / made.name
        if place.is_dir():
            shutil.rmtree(place)
        os.replace(made, place)
