"""Running of ONNX files by ONNX Runtime or OpenVINO. Uses no training framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.errors import MeasurementError
from secateurs.measurement.conditions import Conditions, check_installed

NamedArrays = Mapping[str, NDArray[Any]]
RunSession = Callable[[NamedArrays], list[NDArray[Any]]]


def onnx_session(source: bytes | Path, conditions: Conditions) -> RunSession:
    """Load an ONNX model; returns a function from named inputs to outputs.

    Args:
        source: path of the file, or its content.
        conditions: conditions, of which the runtime ("onnxruntime" or "openvino"), the threads and
            the device are used.

    Raises:
        UnknownNameError: the runtime is not installed.
        MeasurementError: it cannot run the model, or not under these conditions.
    """
    check_installed(conditions.runtime)
    if conditions.dtype != "float32":
        raise MeasurementError(
            f"{conditions.runtime}: expected dtype float32; received {conditions.dtype}. ONNX "
            "files are written in single precision; sec.export(..., int8=images) quantises one."
        )
    try:
        if conditions.runtime == "openvino":
            return _openvino(source, conditions)
        return _onnxruntime(source, conditions)
    except MeasurementError:
        raise
    except Exception as error:
        raise MeasurementError(
            f"{conditions.runtime}: cannot run the model: {first_line(error)}"
        ) from error


def _onnxruntime(source: bytes | Path, conditions: Conditions) -> RunSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if conditions.threads is not None:
        options.intra_op_num_threads = options.inter_op_num_threads = conditions.threads
    provider = "CUDAExecutionProvider" if conditions.device == "cuda" else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise MeasurementError(
            f"onnxruntime: expected a build with {provider}; this one has "
            f"{', '.join(onnxruntime.get_available_providers())}. "
            "Install it: pip install onnxruntime-gpu"
        )
    given = source if isinstance(source, bytes) else str(source)
    session = onnxruntime.InferenceSession(given, options, providers=[provider])

    def run(inputs: NamedArrays) -> list[NDArray[Any]]:
        try:
            return [np.asarray(value) for value in session.run(None, dict(inputs))]
        except Exception as error:  # it has classes of its own for each status
            raise MeasurementError(
                f"onnxruntime: cannot run the model: {first_line(error)}"
            ) from error

    return run


def _openvino(source: bytes | Path, conditions: Conditions) -> RunSession:
    import openvino

    core = openvino.Core()
    # By default OpenVINO computes in lower precision where the CPU can, which breaks comparisons.
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if conditions.threads is not None:
        settings["INFERENCE_NUM_THREADS"] = conditions.threads
    model = core.read_model(source if isinstance(source, bytes) else str(source))
    compiled = core.compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()

    def run(inputs: NamedArrays) -> list[NDArray[Any]]:
        found = request.infer(dict(inputs))
        return [np.array(found[output]) for output in compiled.outputs]

    return run


def first_line(error: BaseException, longest: int = 300) -> str:
    """First line of an error's message, shortened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:longest]
