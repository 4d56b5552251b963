"""``secateurs prune``: one cut of one model, to a budget."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateurs.api import Pruned
from secateurs.channels.file_size import FileKind
from secateurs.cli.export import check_place
from secateurs.cli.models import save_model, suffix_for
from secateurs.cli.options import (
    Classes,
    Crop,
    Distil,
    ImagesOption,
    InputOption,
    Int8,
    ModelName,
    ModelOptions,
    Normalise,
    OutputFile,
    Overwrite,
    SizeOption,
    TaskMetric,
    TaskName,
    TokenizerOf,
    WeightsOption,
    list_fixed_options,
    options_of,
    with_options,
)
from secateurs.cli.show import console, waiting
from secateurs.cli.subjects import Naming, Subject, find_subject
from secateurs.cli.tasks import is_trained
from secateurs.cli.vocabulary import HELP
from secateurs.deployment.exporter import export as export_file
from secateurs.errors import SecateursError
from secateurs.files import KERAS_SUFFIX, check_can_write, check_model_suffix
from secateurs.formatting import megabytes
from secateurs.models.keras_files import is_keras_file
from secateurs.planning.budget import Budget
from secateurs.settings.pruning import Pruning
from secateurs.settings.study import parse_budget

if TYPE_CHECKING:
    from secateurs.deployment.exporter import Exported
    from secateurs.planning.damage_curves import Sensitivity

BudgetText = Annotated[str, typer.Option("--budget", metavar="BUDGET", help=HELP["budget"])]
DataName = Annotated[str | None, typer.Option("--data", metavar="NAME", help=HELP["data"])]
MeasuredOption = Annotated[
    Path | None,
    typer.Option(
        "--sensitivity",
        metavar="FILE",
        help="Result of 'secateurs sensitivity'; every group is cut until the loss rises by the "
        "same amount.",
    ),
]
ExportTo = Annotated[
    str | None,
    typer.Option(
        "--export",
        metavar="TARGET",
        help="Runtime to write the model for too, as 'secateurs export' does.",
    ),
]
Repair = Annotated[
    bool | None,
    typer.Option("--repair/--no-repair", help=HELP["repair"], show_default=False),
]
Uniform = Annotated[bool, typer.Option("--uniform", help=HELP["uniform"])]
Used = Annotated[
    str | None,
    typer.Option(
        "--outputs",
        metavar="NAMES",
        help=HELP["outputs"],
    ),
]
_PLANNING = ("scope", "floor", "multiple", "skip")


def register(app: typer.Typer) -> None:
    """Add the command."""
    planning = options_of(Pruning, "What to remove", only=("criterion", *_PLANNING))
    app.command("prune")(
        with_options(prune_command, [*list_fixed_options(prune_command), *planning])
    )


def prune_command(
    model: ModelName,
    budget: BudgetText,
    weights: WeightsOption = None,
    shape: InputOption = None,
    option: ModelOptions = None,
    classes: Classes = None,
    data: DataName = None,
    task: TaskName = None,
    metric: TaskMetric = None,
    images: ImagesOption = 512,
    normalise: Normalise = None,
    size: SizeOption = None,
    crop: Crop = None,
    tokenizer: TokenizerOf = None,
    sensitivity: MeasuredOption = None,
    uniform: Uniform = False,
    repair: Repair = None,
    distil: Distil = None,
    outputs: Used = None,
    output: OutputFile = None,
    export: ExportTo = None,
    int8: Int8 = False,
    overwrite: Overwrite = False,
    **chosen: Any,
) -> None:
    """Cut a model down to a budget, prove the cut, and write the small model.

    With --data, widths are allocated by errors measured on images, without labels, and the
    remaining weights are fitted to the dense model's outputs. Without, a cut of more than a few
    percent needs fine-tuning to keep accuracy; 'secateurs run' does that.

    Try:

      secateurs prune resnet50 --weights mine.pt --data folder:photos --budget size_mb=6

      secateurs prune torchvision:mobilenet_v2 --budget latency=0.5 --export onnx

      secateurs prune resnet18 --weights mine.pt --data fashion-mnist --budget macs=0.25
      --distil 60s
    """
    from secateurs import api

    planning = _planning(chosen, measures=data is not None and sensitivity is None)
    planning |= _aside(sensitivity, repair, distil, outputs) | {"uniform": uniform}
    place = _place(output, model, overwrite)
    wanted = _of_file(parse_budget(budget), place)
    export, int8 = _choose_export(wanted, place, export, int8)
    target = None if export is None else choose_target(place, export, int8, data, overwrite)
    named = (model, option or (), weights, shape, classes, data, images)
    naming = Naming(*named, normalise, size, crop, task, metric, tokenizer)
    with waiting("tracing, cutting and proving"):
        subject = find_subject(naming)
        planning |= _data_of(subject, wanted)
        pruned = api.prune(subject.model, subject.example, wanted, **planning)
        place = _save(pruned, place, subject.example, wanted)
        written = _export(pruned, target, export, subject, overwrite, int8, wanted)
        notes: list[object] = [written, subject.compare(pruned.model), _doubt(model, weights)]
    _show(pruned, place, model, subject.options)
    _show_notes(notes)


def _data_of(subject: Subject, budget: Budget) -> dict[str, Any]:
    """Data arguments of ``prune``."""
    if subject.calibration is None:
        return {}
    judged = {"validation": subject.validation} if "drop" in budget.limits else {}
    return {"calibration": subject.calibration, **judged}


def _aside(
    sensitivity: Path | None, repair: bool | None, distil: str | None, outputs: str | None
) -> dict[str, Any]:
    """Arguments of ``prune`` other than the budget and the planning options."""
    options = {"repair": repair, "distil": distil, "outputs": _names(outputs)}
    return {"sensitivity": _open_sensitivity(sensitivity), **options}


def _names(outputs: str | None) -> list[str] | None:
    """Split 'logits,1' into names or numbers of outputs."""
    return None if outputs is None else [name.strip() for name in outputs.split(",")]


def _place(output: Path | None, model: str, overwrite: bool) -> Path:
    """Path of the file that the model is written to."""
    stem = re.sub("[^A-Za-z0-9_.]+", "-", model.removesuffix(KERAS_SUFFIX))
    place = output or Path(f"{stem}-pruned{suffix_for(model)}")
    check_model_suffix(place, allows_keras=is_keras_file(model))
    check_can_write(place, overwrite=overwrite)
    return place


def _of_file(budget: Budget, place: Path) -> Budget:
    """The budget with its size limit for a ``.keras`` file, if that is what is written."""
    is_open = budget.format is None and budget.precision is None
    if place.suffix == KERAS_SUFFIX and "size_mb" in budget.limits and is_open:
        return replace(budget, format="keras")
    return budget


def _planning(chosen: dict[str, Any], measures: bool) -> dict[str, Any]:
    """Planning arguments of ``prune``; only those given if error curves are measured."""
    given = {name: value for name, value in chosen.items() if value not in (None, [])}
    planning = Pruning(**given).model_dump(include=set(_PLANNING))
    asked = {name: value for name, value in planning.items() if name in given}
    return {**(asked if measures else planning), "criterion": given.get("criterion")}


def _open_sensitivity(sensitivity: Path | None) -> Sensitivity | None:
    from secateurs.planning.damage_curves import Sensitivity

    return None if sensitivity is None else Sensitivity.load(sensitivity)


def _choose_export(
    budget: Budget, place: Path, export: str | None, int8: bool
) -> tuple[str | None, bool]:
    """Return (target, int8): a file whose size is limited is written too."""
    file = budget.file
    is_place = place.suffix == f".{file.format}"
    if "size_mb" not in budget.limits or file.is_foreseen or is_place:
        return export, int8
    if export not in (None, file.format):
        raise SecateursError(
            f"--export {export}: expected the format that the size limit is for, {file.format}. "
            f"Pass --export {file.format}, or format={export} beside size_mb"
        )
    return file.format, int8 or file.precision == "int8"


def _save(pruned: Pruned, place: Path, example: Any, budget: Budget) -> Path:
    """Write the model, in half precision if the size limit is for such a file; return the file."""
    if budget.file == FileKind("safetensors", "float16"):
        export_file(pruned.model, place, example, overwrite=True, precision="float16")
        return place
    return save_model(pruned.model, place)


def _export(
    pruned: Pruned,
    target: Path | None,
    to: str | None,
    subject: Subject,
    overwrite: bool,
    int8: bool,
    budget: Budget,
) -> Exported | None:
    if target is None:
        return None
    file = budget.file
    is_half = to == file.format and file.precision == "float16"
    return export_file(
        pruned.model,
        target,
        subject.example,
        to=to,
        overwrite=overwrite,
        int8=subject.calibration if int8 else None,
        precision="float16" if is_half else "float32",
    )


def choose_target(
    weights: Path, target: str, int8: bool, data: str | None, overwrite: bool
) -> Path:
    """Path of the file for a runtime, beside the weights.

    Raises:
        SecateursError: the target does not exist, the file exists already, or there are no images.
    """
    from secateurs.deployment.targets import TARGETS

    place = weights.with_suffix(TARGETS[target].suffix) if target in TARGETS else weights
    if target in TARGETS and place == weights:
        raise SecateursError(
            f"--export: expected another format than {weights}, which is written anyway; "
            f"received {target}"
        )
    check_place(place, target, int8, data, overwrite)
    return place


def _doubt(model: str, weights: str | None) -> str | None:
    if is_trained({"model": model} | ({"weights": weights} if weights else {})):
        return None
    return "The model's weights are random; pass those of a trained one: --weights FILE."


def _show_notes(notes: list[object]) -> None:
    for line in filter(None, notes):
        console().print(f"\n{line}", markup=False)


def _show(pruned: Pruned, place: Path, model: str, options: dict[str, Any]) -> None:
    if pruned.scores.tournament is not None:
        console().print(f"{pruned.scores.tournament}\n", markup=False)
    for trial in pruned.trials:
        console().print(f"tried {trial}", markup=False)
    call = ", ".join([f'"{model}"', *(f"{name}={value!r}" for name, value in options.items())])
    lines = (
        pruned.cut.explain(),
        str(pruned.report.proof),
        *([] if pruned.report.fidelity is None else ["", str(pruned.report.fidelity), ""]),
        f"{place}: {megabytes(place.stat().st_size)}",
        "",
        "In Python:",
        *_loading(place, call),
    )
    if hasattr(pruned.model, "save_pretrained"):
        lines += ('    model.save_pretrained("DIRECTORY")  # for from_pretrained',)
    console().print("\n".join(lines), markup=False)


def _loading(place: Path, call: str) -> tuple[str, ...]:
    """Lines of Python that load the model that was written."""
    if place.suffix == KERAS_SUFFIX:
        return ("    import keras", f'    model = keras.saving.load_model("{place}")')
    return (
        "    import secateurs as sec",
        "    from secateurs import models",
        f'    model = sec.load(models.build({call}), "{place}")',
    )
