"""8-bit ONNX files, by ONNX Runtime's static quantisation."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.deployment import onnx_files
from secateurs.deployment.sessions import RunSession, first_line, onnx_session
from secateurs.errors import DataError, ExportError
from secateurs.formatting import megabytes, percent
from secateurs.measurement.conditions import Conditions
from secateurs.measurement.timing import Timing, clock_for, compare_times


@dataclass(frozen=True, slots=True)
class Quantized:
    """An 8-bit file, compared with the original.

    Attributes:
        path: path of the 8-bit file.
        bytes: its size.
        agreement: share of the images that both classify alike.
        accuracy: (accuracy of the original, of the 8-bit file) on the given images; None without
            labels.
        timing: time of the 8-bit file relative to the original, on one thread with one image.
    """

    path: Path
    bytes: int
    agreement: float
    accuracy: tuple[float, float] | None
    timing: Timing

    def __str__(self) -> str:
        right = (
            ""
            if self.accuracy is None
            else f", accuracy {percent(self.accuracy[1])} (before: {percent(self.accuracy[0])})"
        )
        return (
            f"{self.path}: {megabytes(self.bytes)} in int8, {1 / self.timing.ratio:.2f} times as "
            f"fast, the same class for {percent(self.agreement)} of the images{right}"
        )


def quantize(
    path: Path, images: Any, *, output: Path | None = None, overwrite: bool = False
) -> Quantized:
    """Quantise an ONNX file to 8 bits, and compare the two.

    Weights are quantised per channel, activations with ranges calibrated on the images. The
    comparison uses the same images, so its accuracy is slightly optimistic.

    Args:
        path: path of a single-precision file with one input.
        images: (images, labels) or images, in the model's input format.
        output: path of the 8-bit file; None is ``small-int8.onnx`` beside ``small.onnx``.
        overwrite: whether to replace an existing file.

    Raises:
        ExportError: the file exists, or the quantiser does not support the model.
        DataError: there are no images.
    """
    output = output or int8_beside(path)
    if output.exists() and not overwrite:
        raise ExportError(f"{output}: exists already; replace it with overwrite=True (--overwrite)")
    pictures, labels = _images_and_labels(images)
    quantize_file(path, output, pictures)
    names = onnx_files.input_names(path)
    conditions = Conditions(runtime="onnxruntime", threads=1)
    sessions = [onnx_session(one, conditions) for one in (path, output)]
    before, after = (_classes(session, names[0], pictures) for session in sessions)
    accuracy = None
    if labels is not None:
        accuracy = (float((before == labels).mean()), float((after == labels).mean()))
    one = {names[0]: pictures[:1]}
    timing = compare_times(
        {"before": lambda: sessions[0](one), "int8": lambda: sessions[1](one)},
        "before",
        clock=clock_for(conditions),
    )["int8"]
    agreement = float((before == after).mean())
    return Quantized(output, output.stat().st_size, agreement, accuracy, timing)


def int8_beside(path: Path) -> Path:
    """Default path of the 8-bit version of an ONNX file."""
    return path.with_name(f"{path.stem}-int8.onnx")


def quantize_file(path: Path, output: Path, images: NDArray[Any]) -> None:
    """Write the 8-bit version of an ONNX file.

    Args:
        path: path of a single-precision file with one input.
        output: path of the 8-bit file.
        images: images to calibrate ranges on.

    Raises:
        ExportError: the quantiser does not support the model.
    """
    names = onnx_files.input_names(path)
    if len(names) != 1:
        raise ExportError(f"{path}: int8: expected a model of one input; received {len(names)}")
    try:
        _quantize_file(path, output, names[0], images)
    except Exception as error:
        raise ExportError(f"{path}: cannot be quantised: {first_line(error)}") from error


def _quantize_file(path: Path, output: Path, name: str, images: NDArray[Any]) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class OrderedReader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches: Iterator[NDArray[Any]] = iter(
                [images[at : at + 16] for at in range(0, len(images), 16)]
            )

        def get_next(self) -> Mapping[str, NDArray[Any]] | None:
            batch = next(self._batches, None)
            return None if batch is None else {name: batch}

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ready = Path(folder) / "ready.onnx"
        quant_pre_process(str(path), str(ready), skip_symbolic_shape=True)
        quantize_static(
            str(ready),
            str(output),
            OrderedReader(),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def _images_and_labels(given: Any) -> tuple[NDArray[Any], NDArray[np.int64] | None]:
    images, labels = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
    pictures = np.asarray(images, np.float32)
    if pictures.ndim < 2 or not len(pictures):
        raise DataError(
            f"int8: expected images to calibrate with, one at least; received an array of shape "
            f"{pictures.shape}"
        )
    return pictures, None if labels is None else np.asarray(labels, np.int64)


def _classes(session: RunSession, name: str, images: NDArray[Any]) -> NDArray[np.int64]:
    found = [session({name: images[at : at + 16]})[0] for at in range(0, len(images), 16)]
    flat = np.concatenate(found).reshape(len(images), -1)
    classes: NDArray[np.int64] = flat.argmax(axis=1)
    return classes
