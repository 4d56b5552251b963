"""``secateurs export``: a model written for a runtime, and compared there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from secateurs.cli.models import build_for_images, build_model, calibration_images, load_data
from secateurs.cli.options import (
    Classes,
    Crop,
    ImagesOption,
    InputOption,
    Int8,
    ModelName,
    ModelOptions,
    Normalise,
    OutputFile,
    Overwrite,
    SizeOption,
    WeightsOption,
)
from secateurs.cli.show import console, waiting
from secateurs.cli.vocabulary import HELP
from secateurs.errors import SecateursError, StudyError
from secateurs.files import KERAS_SUFFIX, check_can_hold, check_can_write

To = Annotated[
    str,
    typer.Option(
        metavar="TARGET",
        help="Target format: onnx, openvino, pt2, executorch, litert, coreml, safetensors, keras "
        "or savedmodel.",
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        metavar="float32|float16",
        help="Precision of the weights in the file; float16 halves its size.",
    ),
]
DataName = Annotated[str | None, typer.Option("--data", metavar="NAME", help=HELP["data"])]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export")(export_command)


def export_command(
    model: ModelName,
    to: To = "onnx",
    weights: WeightsOption = None,
    shape: InputOption = None,
    option: ModelOptions = None,
    classes: Classes = None,
    output: OutputFile = None,
    int8: Int8 = False,
    precision: Precision = "float32",
    data: DataName = None,
    images: ImagesOption = 256,
    normalise: Normalise = None,
    size: SizeOption = None,
    crop: Crop = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a model for a runtime, run the file there, and compare its outputs with the model's.

    The largest difference of an output is printed; a file with other outputs is not written.

    Try:

      secateurs export resnet18 --weights small.safetensors --to onnx

      secateurs export resnet18 --weights small.safetensors --to onnx --int8 --data fashion-mnist
    """
    from secateurs.deployment import exporter
    from secateurs.deployment.targets import TARGETS

    suffix = TARGETS[to].suffix if to in TARGETS else ".onnx"
    stem = re.sub("[^A-Za-z0-9_.]+", "-", model.removesuffix(KERAS_SUFFIX))
    place = output or Path(f"{stem}{suffix}")
    check_place(place, to, int8, data, overwrite)
    with waiting("exporting and comparing"):
        calibration = None
        if data is None:
            made, example, _ = build_model(model, option or (), classes, weights, shape)
        else:
            loaded = load_data(data, model, weights, normalise, size, crop)
            made, example, _, loaded = build_for_images(
                model, option or (), classes, weights, loaded
            )
            calibration = calibration_images(loaded, images)
        written = exporter.export(
            made,
            place,
            example,
            to=to,
            overwrite=overwrite,
            int8=calibration if int8 else None,
            precision=precision,
        )
    console().print(str(written), markup=False)


def check_place(place: Path, to: str, int8: bool, data: str | None, overwrite: bool) -> None:
    """Refuse a file that cannot be written, before a model is built for it.

    Raises:
        SecateursError: there is no such target, its file is there already or cannot be written, or
            there are no images to calibrate eight bits with.
    """
    from secateurs.deployment.quantisation import int8_beside
    from secateurs.deployment.targets import target_of

    target = target_of(place, to)
    if int8 and data is None:
        raise SecateursError("--int8: expected images to calibrate with; give --data NAME")
    if target.suffix:
        check_can_write(place, overwrite=overwrite)
    elif place.exists() and not overwrite:
        raise StudyError(
            f"{place}: exists already; replace it with --overwrite, or name another file"
        )
    check_can_hold(place.parent, asked=place)
    if int8:
        check_can_write(int8_beside(place), overwrite=overwrite)
