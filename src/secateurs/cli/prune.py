"""``secateurs prune``: one cut of one model, to a budget."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from secateurs import text
from secateurs.api import Pruned
from secateurs.cli.models import built
from secateurs.cli.options import (
    Classes,
    Input,
    ModelName,
    ModelOptions,
    Weights,
    options_of,
    with_options,
)
from secateurs.cli.show import console, waiting
from secateurs.configuration import Pruning
from secateurs.errors import StudyError
from secateurs.plan import Budget

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
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace that file.")]
_PLANNING = ("scope", "floor", "multiple", "skip")


def register(app: typer.Typer) -> None:
    """Add the command."""
    parameters = list(inspect.signature(prune, eval_str=True).parameters.values())
    planning = options_of(Pruning, "What goes", only=("criterion", *_PLANNING))
    app.command()(with_options(prune, [*parameters[:-1], *planning]))


def prune(
    model: ModelName,
    to: To,
    weights: Weights = None,
    shape: Input = "1x3x224x224",
    option: ModelOptions = None,
    classes: Classes = None,
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
    """
    from secateurs import api

    budget = Budget.parse(to)
    pruning = Pruning(**{name: value for name, value in chosen.items() if value not in (None, [])})
    place = output or Path(f"{re.sub('[^A-Za-z0-9_.]+', '-', model)}-pruned.safetensors")
    if place.exists() and not overwrite:
        raise StudyError(f"{place}: exists already; replace it with --overwrite, or give --output")
    with waiting("tracing, cutting and proving"):
        dense, example, options = built(model, option or (), classes, weights, shape)
        planning = pruning.model_dump(include=set(_PLANNING))
        pruned = api.prune(dense, example, budget, criterion=pruning.criterion, **planning)
        api.save(pruned.model, place)
    _tell(pruned, place, model, options)
    if weights is None:
        console().print("\nIts weights are random: --weights FILE prunes a trained model.")


def _tell(pruned: Pruned, place: Path, model: str, options: dict[str, Any]) -> None:
    call = ", ".join([f'"{model}"', *(f"{name}={value!r}" for name, value in options.items())])
    lines = (
        pruned.cut.explain(),
        str(pruned.report.proof),
        f"{place}: {text.megabytes(place.stat().st_size)}",
        "",
        "In Python:",
        "    import secateurs as sec",
        "    from secateurs import models",
        f'    model = sec.load(models.build({call}), "{place}")',
    )
    console().print("\n".join(lines), markup=False)
