"""``secateurs ablate``: what removing each channel alone does, class by class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from secateurs.calibration.ablation import Ablation
from secateurs.cli.options import (
    Directory,
    ImagesOption,
    list_fixed_options,
    options_in,
    with_options,
)
from secateurs.cli.show import console, waiting
from secateurs.cli.tasks import TASK_OPTIONS, probe_from
from secateurs.errors import SecateursError
from secateurs.files import check_can_hold, write_atomically

ModeOption = Annotated[
    Literal["exact", "racing"],
    typer.Option(
        metavar="exact|racing",
        help="Mode of the ablation: exact removes every channel on every image; racing only finds "
        "the least important --share of the channels, in a fraction of the time.",
    ),
]
Share_ = Annotated[
    float, typer.Option(metavar="SHARE", help="Share of the channels that racing looks for.")
]
Best = Annotated[
    int | None,
    typer.Option(
        metavar="T",
        help="Number of channels per class to mark in the figure: the T that the class depends on "
        "most in each layer, instead of each class's loss of accuracy.",
    ),
]

EXAMPLE = "secateurs ablate resnet18 --weights mine.pt --data fashion-mnist"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("ablate")(
        with_options(
            ablate_command, [*options_in(TASK_OPTIONS), *list_fixed_options(ablate_command)]
        )
    )


def ablate_command(
    *,
    images: ImagesOption = 256,
    mode: ModeOption = "exact",
    share: Share_ = 0.2,
    best: Best = None,
    directory: Directory = Path("ablation"),
    **options: Any,
) -> None:
    """Remove each channel of a trained model on its own and measure which classes depend on it.

    Writes ablation.json, with the change of the loss per group and channel and, in exact mode, of
    each class's accuracy; and critical.png and .svg, with one panel per layer, channels by classes.

    Try:

      secateurs ablate resnet18 --weights mine.pt --data fashion-mnist --images 512

      secateurs ablate resnet18 --weights mine.pt --data fashion-mnist --mode racing
    """
    from secateurs import api
    from secateurs.calibration.racing import check_options

    given = {name: value for name, value in options.items() if value not in (None, [])}
    check_options(mode, share, "network", 0.5)
    _check_drawn(best, mode)
    check_can_hold(directory)
    with waiting("loading the data and the model"):
        probe = probe_from(given, images, EXAMPLE)
    probe.tell_doubts()
    with waiting("removing channels"):
        ablation = api.ablate(probe.network, probe.images, mode=mode, share=share, task=probe.task)
    place = directory / "ablation.json"
    write_atomically(place, (json.dumps(_plain(ablation), indent=1) + "\n").encode())
    written = [place]
    if mode == "exact" and ablation.classified:
        from secateurs import report

        figure = report.critical_by_class(ablation, probe.classes, best=best)
        written += report.save(figure, directory, "critical")
    out = console()
    out.print(str(ablation), markup=False)
    out.print("\n" + "\n".join(str(path) for path in written), markup=False)


def _check_drawn(best: int | None, mode: str) -> None:
    if best is not None and best < 1:
        raise SecateursError(f"--best: expected a number of at least 1; received {best}")
    if best is not None and mode != "exact":
        raise SecateursError(
            f"--best: expected --mode exact, which measures each class; received {mode}, which "
            "does not"
        )


def _plain(ablation: Ablation) -> dict[str, Any]:
    """Convert the ablation to values that JSON can hold."""
    groups: dict[str, dict[str, Any]] = {}
    for name, estimate in ablation.estimate.items():
        groups[name] = {"loss_change": estimate.tolist(), "error": ablation.error[name].tolist()}
        if ablation.exact and ablation.classified:
            groups[name]["accuracy_loss_by_class"] = ablation.accuracy_loss(name).tolist()
        if ablation.lowest:
            groups[name]["lowest"] = ablation.lowest[name].tolist()
    return {
        "images_by_class": ablation.images.tolist(),
        "dense_loss": ablation.dense_loss,
        "dense_accuracy": (
            float(np.sum(ablation.dense_correct) / np.sum(ablation.images))
            if ablation.classified
            else None
        ),
        "confidence": ablation.confidence,
        "removed_for_real": ablation.spent,
        "groups": groups,
    }
