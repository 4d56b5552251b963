"""``secateurs sensitivity``: how much each group can lose on its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import track

from secateurs.cli.options import fixed_options, options_in, with_options
from secateurs.cli.show import console, waiting
from secateurs.cli.tasks import TASK_OPTIONS, probe_from
from secateurs.errors import SecateursError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from secateurs.planning.damage_curves import Sensitivity

Images = Annotated[int, typer.Option(metavar="N", help="Validation images to measure on.")]
Criterion = Annotated[str, typer.Option(help="What chooses the channels that go.")]
Amounts = Annotated[
    str | None,
    typer.Option(metavar="A,B,...", help="Shares to remove. [dim]\\[default: 0.1 to 0.9][/dim]"),
]
Output = Annotated[Path, typer.Option(metavar="DIR", help="For sensitivity.json and the picture.")]

EXAMPLE = "secateurs sensitivity --model resnet18 --weights mine.pt --data fashion-mnist"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("sensitivity")(
        with_options(
            sensitivity_command, [*options_in(TASK_OPTIONS), *fixed_options(sensitivity_command)]
        )
    )


def sensitivity_command(
    *,
    images: Images = 512,
    criterion: Criterion = "l1",
    amounts: Amounts = None,
    output: Output = Path("sensitivity"),
    **options: Any,
) -> None:
    """Remove more and more of each group of a trained model alone; see what the loss does.

    Writes sensitivity.json, which is taken as it is when the same is asked again, and which
    'secateurs prune --sensitivity' plans by; and sensitivity.png and .svg.

    Try:

      secateurs sensitivity --model resnet18 --weights mine.pt --data fashion-mnist

      secateurs prune resnet18 --weights mine.pt --data fashion-mnist --to params=0.3
      --sensitivity sensitivity/sensitivity.json
    """
    from secateurs import report
    from secateurs.planning.damage_curves import AMOUNTS, measurements
    from secateurs.planning.damage_curves import sensitivity as measured

    given = {name: value for name, value in options.items() if value not in (None, [])}
    shares = AMOUNTS if amounts is None else _shares(amounts)
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
    place = output / "sensitivity.json"

    def tick() -> None:
        if next(steps, None) == 0:  # what was asked for makes sense, or it would have raised
            probe.tell_doubts()

    found = measured(
        probe.network,
        probe.images,
        criterion=criterion,
        amounts=shares,
        task=given.get("task"),
        metric=given.get("metric"),
        cache=place,
        tick=tick,
    )
    figure = _figure(found)
    written = (place, *report.save(figure, output, "sensitivity"))
    out = console()
    out.print(str(found), markup=False)
    out.print("\n" + "\n".join(str(path) for path in written), markup=False)


def _shares(given: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in given.split(",") if part.strip())
    except ValueError as error:
        raise SecateursError(
            f"--amounts: expected shares with commas between, such as 0.25,0.5; received {given!r}"
        ) from error


def _figure(found: Sensitivity) -> Figure:
    """The curves, of the metric where there is one, else of the loss."""
    from secateurs import report

    metric, has_metric = found.metric, bool(found.accuracies)
    return report.sensitivity(
        found.curves,
        y_label=metric.name[0].upper() + metric.name[1:] if has_metric else "Loss",
        higher_is_better=has_metric and metric.higher_is_better,
        is_share=has_metric and metric.is_share,
    )
