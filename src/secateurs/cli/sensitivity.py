"""``secateurs sensitivity``: how much each group can lose on its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.progress import track

from secateurs.cli.options import (
    Amounts,
    CriterionName,
    Directory,
    ImagesOption,
    list_fixed_options,
    options_in,
    shares_from,
    with_options,
)
from secateurs.cli.show import console, waiting
from secateurs.cli.tasks import TASK_OPTIONS, probe_from
from secateurs.files import check_can_hold

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from secateurs.planning.damage_curves import Sensitivity


EXAMPLE = "secateurs sensitivity resnet18 --weights mine.pt --data fashion-mnist"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("sensitivity")(
        with_options(
            sensitivity_command,
            [*options_in(TASK_OPTIONS), *list_fixed_options(sensitivity_command)],
        )
    )


def sensitivity_command(
    *,
    images: ImagesOption = 512,
    criterion: CriterionName = "l1",
    amounts: Amounts = None,
    directory: Directory = Path("sensitivity"),
    **options: Any,
) -> None:
    """Measure how the loss of a trained model rises as more of each group is removed alone.

    Writes sensitivity.json, which is reused when the same is asked for again and which
    'secateurs prune --sensitivity' reads; and sensitivity.png and .svg.

    Try:

      secateurs sensitivity resnet18 --weights mine.pt --data fashion-mnist

      secateurs prune resnet18 --weights mine.pt --data fashion-mnist --budget params=0.3
      --sensitivity sensitivity/sensitivity.json
    """
    from secateurs import report
    from secateurs.planning.damage_curves import AMOUNTS, measurements
    from secateurs.planning.damage_curves import sensitivity as measured

    given = {name: value for name, value in options.items() if value not in (None, [])}
    shares = shares_from(amounts, "--amounts") or AMOUNTS
    check_can_hold(directory)
    with waiting("loading the data and the model"):
        probe = probe_from(given, images, EXAMPLE)
    err = console(stderr=True)
    steps = iter(
        track(
            range(measurements(probe.network, shares)),
            "removing channels",
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
    )
    place = directory / "sensitivity.json"

    def tick() -> None:
        if next(steps, None) == 0:  # invalid arguments would have raised by now
            probe.tell_doubts()

    found = measured(
        probe.network,
        probe.images,
        criterion=criterion or "l1",
        amounts=shares,
        task=probe.task,
        metric=given.get("metric"),
        cache=place,
        tick=tick,
    )
    figure = _figure(found)
    written = (place, *report.save(figure, directory, "sensitivity"))
    out = console()
    out.print(str(found), markup=False)
    out.print("\n" + "\n".join(str(path) for path in written), markup=False)


def _figure(found: Sensitivity) -> Figure:
    """Draw the curves of the metric if there is one, else of the loss."""
    from secateurs import report

    metric, has_metric = found.metric, bool(found.accuracies)
    return report.sensitivity(
        found.curves,
        y_label=metric.name[0].upper() + metric.name[1:] if has_metric else "Loss",
        higher_is_better=has_metric and metric.higher_is_better,
        is_share=has_metric and metric.is_share,
    )
