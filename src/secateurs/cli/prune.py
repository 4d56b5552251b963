"""``secateurs prune``: one cut of one model, to a budget."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from secateurs.api import Pruned
from secateurs.cli.models import built
from secateurs.cli.options import (
    Classes,
    Input,
    ModelName,
    ModelOptions,
    Weights,
    options_of,
    own_options,
    with_options,
)
from secateurs.cli.show import console, waiting
from secateurs.errors import SecateursError, StudyError
from secateurs.formatting import megabytes
from secateurs.planning.planner import Budget
from secateurs.settings.configuration import Pruning

To = Annotated[
    str,
    typer.Option(
        metavar="BUDGET",
        help="What may remain: channels, params, macs, size_mb; each a fraction of the dense "
        "model (below 1) or absolute; several with commas between them.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Of the small model; MODEL-pruned.safetensors if left out."),
]
DataName = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="NAME",
        help="Where calibration images are from, for criteria that need some; says what --input "
        "and --classes would. As for 'secateurs run'.",
    ),
]
Images = Annotated[int, typer.Option(metavar="N", help="Calibration images, of the training data.")]
Measured = Annotated[
    Path | None,
    typer.Option(
        "--sensitivity",
        metavar="FILE",
        help="Of 'secateurs sensitivity': every group is cut as far as the same rise of the loss "
        "allows.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace that file.")]
_PLANNING = ("scope", "floor", "multiple", "skip")


def register(app: typer.Typer) -> None:
    """Add the command."""
    planning = options_of(Pruning, "What goes", only=("criterion", *_PLANNING))
    app.command("prune")(with_options(prune_command, [*own_options(prune_command), *planning]))


def prune_command(
    model: ModelName,
    to: To,
    weights: Weights = None,
    shape: Input = "1x3x224x224",
    option: ModelOptions = None,
    classes: Classes = None,
    data: DataName = None,
    images: Images = 256,
    sensitivity: Measured = None,
    output: Output = None,
    overwrite: Overwrite = False,
    **chosen: Any,
) -> None:
    """Cut a model down to a budget, prove the cut, and write the small model.

    Accuracy is another matter: a cut of more than a few percent needs fine-tuning, which
    'secateurs run' does. This command answers what a budget takes.

    Try:

      secateurs prune resnet50 --to size_mb=15

      secateurs prune resnet50 --to macs=0.5 --weights mine.pt --output small.safetensors

      secateurs prune vanilla_cnn --to params=0.3 --input 1x3x64x64 --skip hidden

      secateurs prune resnet18 --to params=0.5 --weights mine.pt --data fashion-mnist
      --criterion auto
    """
    from secateurs import api
    from secateurs.planning.damage_curves import Sensitivity

    budget = Budget.parse(to)
    pruning = Pruning(**{name: value for name, value in chosen.items() if value not in (None, [])})
    place = output or Path(f"{re.sub('[^A-Za-z0-9_.]+', '-', model)}-pruned.safetensors")
    if place.exists() and not overwrite:
        raise StudyError(f"{place}: exists already; replace it with --overwrite, or give --output")
    measured = None if sensitivity is None else Sensitivity.load(sensitivity)
    with waiting("tracing, cutting and proving"):
        calibration = None
        if data is not None:
            calibration, shape, classes = _calibration(data, images, classes)
        dense, example, options = built(model, option or (), classes, weights, shape)
        pruned = api.prune(
            dense,
            example,
            budget,
            criterion=pruning.criterion,
            calibration=calibration,
            sensitivity=measured,
            **pruning.model_dump(include=set(_PLANNING)),
        )
        api.save(pruned.model, place)
    if pruned.scores.tournament is not None:
        console().print(f"{pruned.scores.tournament}\n", markup=False)
    _tell(pruned, place, model, options)
    if weights is None:
        console().print("\nIts weights are random: --weights FILE prunes a trained model.")


def _calibration(
    name: str, count: int, classes: int | None
) -> tuple[tuple[Any, Any], str, int | None]:
    """(images and labels, the shape of one of them, number of classes)."""
    from secateurs import data

    if count < 1:
        raise SecateursError(f"--images: expected a number of at least 1; received {count}")
    loaded = data.load(name)
    shape = "x".join(map(str, (1, *loaded.shape)))
    return loaded.train.batch(slice(0, count)), shape, classes or len(loaded.classes)


def _tell(pruned: Pruned, place: Path, model: str, options: dict[str, Any]) -> None:
    call = ", ".join([f'"{model}"', *(f"{name}={value!r}" for name, value in options.items())])
    lines = (
        pruned.cut.explain(),
        str(pruned.report.proof),
        f"{place}: {megabytes(place.stat().st_size)}",
        "",
        "In Python:",
        "    import secateurs as sec",
        "    from secateurs import models",
        f'    model = sec.load(models.build({call}), "{place}")',
    )
    console().print("\n".join(lines), markup=False)
