"""Models written for a runtime, read back there, and compared with the model on the same inputs."""

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
"""Largest difference, relative to the largest output, that rounding in another order explains."""

HALF_TOLERANCE = 1e-2
"""The same where weights are written in half precision, which has three digits."""

DECIDED = 0.05
"""Of quite other inputs, what rounding never explains and another decision does."""

NOT_RUN_HERE = {"coreml": "Core ML runs on macOS alone, so it was written and not compared"}


@dataclass(frozen=True, slots=True)
class Exported:
    """What ``export`` wrote.

    Attributes:
        path: the file, or the directory.
        target: whose it is.
        bytes: its size.
        max_difference: the largest difference of an output from the model's, relative to the
            largest output; None where the runtime is not to be had here.
        dynamic_batch: whether any number of examples can be given at once.
        note: what there is to say besides.
        int8: what was made of it in eight bits, if that was asked for.
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
    """Write a model for a runtime, read it back there, and compare it with the model.

    Batch normalisation is folded into the convolutions before it (in ONNX and OpenVINO files), the
    number of examples is left open where the exporter can, and what was removed from the model is
    told in the file where it has room for that.

    Args:
        model: dense or cut; unchanged, exported in eval mode.
        path: of the file, or of the directory; its suffix says the target.
        example_inputs: what the model takes; it is compared on these.
        to: "onnx", "openvino", "pt2", "executorch", "litert", "coreml", "safetensors", "keras" or
            "savedmodel"; None goes by the suffix.
        overwrite: replace what is there.
        tolerance: the largest difference that is let through, relative to the largest output; None
            is 0.001, and 0.01 in half precision.
        int8: (images, labels) or images to calibrate eight-bit arithmetic with: an ONNX file is
            then quantised by ONNX Runtime as well, beside the first, and compared with it.
        precision: of the weights in the file: "float32", or "float16" in files of safetensors, ONNX
            and OpenVINO, which halves them; arithmetic is done in float32 all the same.

    Returns:
        What was written, with the largest difference.

    Raises:
        ExportError: there is no such target, a package is missing, the exporter cannot take the
            model, the file is there already, or what was read back does something else.

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
            "precision: int8 is made of images: give int8=images (--int8 --data NAME), which "
            "writes a second file"
        )
    usual = FORMATS[target.name][0]
    try:
        return FileKind.of(target.name, usual if precision == "float32" else precision)
    except BudgetError as error:
        raise ExportError(str(error)) from None


def weigh_written(model: Any, kind: FileKind, *, example_inputs: Any) -> int:
    """Bytes of the file that ``export`` would write, which is not kept.

    Args:
        model: unchanged.
        kind: the file's format and precision; in int8, ranges are those of the example inputs,
            since what they are does not change how long the file is.
        example_inputs: what the model takes.

    Raises:
        ExportError: a package is missing, or the exporter cannot take the model.
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
    """Write and compare beside the place, and move it there if it does as the model does."""
    backend = backend_of(model)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Beside its place, so that it is moved there whole or not at all.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            inside = Path(folder) / path.name
            made = _compare_written(backend, model, inside, example_inputs, target, kind)
            if made.max_difference is not None and not made.max_difference <= tolerance:
                raise ExportError(
                    f"{path}: expected {target.name} to do as the model does, within "
                    f"{tolerance:.0e} of the largest output; received a difference of "
                    f"{made.max_difference:.1e}. Nothing was written."
                )
            _move(Path(folder), path)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written: {error.strerror or error}") from error
    except StudyError as error:  # of the file beside its place
        raise ExportError(str(error).replace(folder, str(path.parent))) from error
    return replace(made, path=path)


def _write(
    backend: Backend, model: Any, path: Path, example_inputs: Any, target: Target, kind: FileKind
) -> tuple[bool, str, Sequence[str]]:
    """(whether any number of examples can be given, what there is to say, inputs by name)."""
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
    """What is at ``path``, written and compared."""
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
        if difference <= DECIDED:  # else it is refused by that
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
    """Refuse a file that does something else on quite other inputs: the same, of the other sign.

    An exporter may write down what was decided for the example inputs (``if x.sum() > 0``), and
    then the file does what the model does on these alone.

    Raises:
        ExportError: it does.
    """
    others = negate(example_inputs)
    try:
        expected = backend.outputs(model, others)
    except Exception:  # noqa: BLE001 - whatever a forward raises of inputs that it is not meant for
        return
    if not all(np.isfinite(one).all() for one in expected):
        return
    try:
        difference = relative_difference(runs(others), expected)
    except Exception:  # noqa: BLE001 - whatever a runtime raises where the model does not
        difference = float("inf")
    if not difference <= DECIDED:
        raise ExportError(
            "the file does as the model does on the example inputs, and something else "
            f"({difference:.1e} of the largest output) on the same of the other sign: the model "
            "decides by values, and the exporter wrote down what was decided for these. Put the "
            "decision into tensor operations (torch.where), or outside the model. Nothing was "
            "written."
        )


def negate(inputs: Any) -> Any:
    """The same inputs with the sign of broken numbers changed; whole numbers and masks as they are.

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
    """The inputs to compare on: as given, and one more example where any number is promised."""
    return [example_inputs, _one_more(example_inputs)] if dynamic else [example_inputs]


def _one_more(inputs: Any) -> Any:
    """The same inputs with the first example once more at the end."""
    if isinstance(inputs, Mapping):
        return {name: _one_more(value) for name, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return type(inputs)(_one_more(value) for value in inputs)
    if getattr(inputs, "ndim", 0):
        return inputs[[*range(len(inputs)), 0]]  # of arrays and tensors alike
    return inputs


def relative_difference(found: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> float:
    """The largest difference of any output, relative to the largest number of that output."""
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
        # Weights are halved where nothing is said.
        openvino.save_model(openvino.convert_model(str(onnx_path)), path, compress_to_fp16=halve)
    except Exception as error:
        raise ExportError(f"openvino: cannot take the model: {first_line(error)}") from error


def _move(folder: Path, path: Path) -> None:
    """Everything in the folder, to beside ``path``."""
    for made in folder.iterdir():
        place = path.parent / made.name
        if place.is_dir():
            shutil.rmtree(place)
        os.replace(made, place)
