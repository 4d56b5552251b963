"""``secateurs criteria``: the ways to rank channels."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer

from secateurs import formatting
from secateurs.cli.show import console


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("criteria")(criteria_command)


def criteria_command(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Name of the criterion whose method card is shown."),
    ] = None,
) -> None:
    """List the criteria that rank channels, or show the method card of one.

    Try:

      secateurs criteria

      secateurs criteria l1
    """
    from secateurs.criteria import AUTO, CRITERIA, find
    from secateurs.planning.auto_criterion import tournament

    out = console()
    if name == AUTO:
        out.print(f"{AUTO}\n\n{inspect.getdoc(tournament)}", markup=False)
        return
    if name is not None:
        chosen = find(name)
        out.print(f"{chosen.name}\n\n{chosen.card}", markup=False)
        return
    rows = [(one.name, one.summary) for one in CRITERIA.values()]
    rows.append((AUTO, "Several of them make the same cut, and the calibration loss decides."))
    out.print(formatting.table(("criterion", "what it is"), rows), markup=False)
    out.print("\nMore about one: secateurs criteria NAME", markup=False)
