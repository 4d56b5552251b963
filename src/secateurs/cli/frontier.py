"""``secateurs frontier``: what could be had at a dozen budgets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from secateurs.cli.models import save_model, suffix_for
from secateurs.cli.options import (
    Classes,
    CriterionName,
    Crop,
    Directory,
    Distil,
    ImagesOption,
    InputOption,
    ModelName,
    ModelOptions,
    Normalise,
    SizeOption,
    TaskName,
    TokenizerOf,
    WeightsOption,
    shares_from,
)
from secateurs.cli.show import console, waiting
from secateurs.cli.subjects import Naming, find_subject
from secateurs.cli.tasks import is_trained
from secateurs.cli.vocabulary import HELP
from secateurs.errors import UnknownNameError, nearest
from secateurs.files import check_can_hold

RequiredDataName = Annotated[str, typer.Option("--data", metavar="NAME", help=HELP["data"])]
UnitOption = Annotated[str, typer.Option(metavar="NAME", help=HELP["unit"])]
Shares = Annotated[
    list[str] | None,
    typer.Option(
        metavar="A,B,...",
        help="Shares of the dense model that may remain; may be repeated or separated by commas. "
        "[dim]\\[default: 0.9 to 0.05][/dim]",
    ),
]
Keep = Annotated[
    str | None,
    typer.Option(metavar="POINT", help="Point whose model is written too: knee, macs=0.25."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("frontier")(frontier_command)


def frontier_command(
    model: ModelName,
    data: RequiredDataName,
    weights: WeightsOption = None,
    shape: InputOption = None,
    option: ModelOptions = None,
    classes: Classes = None,
    images: ImagesOption = 512,
    normalise: Normalise = None,
    size: SizeOption = None,
    crop: Crop = None,
    tokenizer: TokenizerOf = None,
    task: TaskName = None,
    criterion: CriterionName = None,
    unit: UnitOption = "macs",
    shares: Shares = None,
    distil: Distil = None,
    keep: Keep = None,
    directory: Directory = Path("frontier"),
) -> None:
    """Cut, repair and evaluate a trained model at a dozen budgets; print a table, draw a figure.

    Try:

      secateurs frontier resnet18 --weights mine.pt --data fashion-mnist

      secateurs frontier resnet18 --weights mine.pt --data fashion-mnist --keep macs=0.25
    """
    from secateurs import api, report
    from secateurs.reconstruction.trade_off import SHARES

    wanted = shares_from(shares, "--shares") or SHARES
    _check_point(keep, unit, wanted)
    check_can_hold(directory)
    naming = Naming(
        *(model, option or (), weights, shape, classes, data, images, normalise, size, crop, task),
        tokenizer=tokenizer,
    )
    with waiting("measuring, cutting and repairing"):
        subject = find_subject(naming)
        found = api.frontier(
            subject.model,
            subject.example,
            calibration=subject.calibration,
            criterion=criterion,
            unit=unit,
            shares=wanted,
            distil=distil,
        )
    written = list(report.save(found.figure(), directory, "frontier"))
    if keep is not None:
        point = found[found.knee if keep == "knee" else keep]
        name = point.name.replace("=", "-") + suffix_for(model)
        written.append(save_model(point.model, directory / name))
    out = console()
    out.print(str(found), markup=False)
    out.print("\n" + "\n".join(str(path) for path in written), markup=False)
    if not is_trained({"model": model} | ({"weights": weights} if weights else {})):
        out.print("\nThe model's weights are random; pass those of a trained one: --weights FILE.")


def _check_point(keep: str | None, unit: str, shares: Sequence[float]) -> None:
    """Raise if no point will have this name."""
    known = ["knee", "dense", *(f"{unit}={share:g}" for share in shares)]
    if keep is not None and keep not in known:
        raise UnknownNameError(f"--keep: no point {keep!r}{nearest(keep, known)}")
