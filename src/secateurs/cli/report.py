"""``secateurs report``: the figures and the page of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateurs.cli.show import console, waiting


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report")(report_command)


def report_command(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of the study.")],
) -> None:
    """Draw the report of a study, finished or still running.

    Writes DIR/report with report.html, which is self-contained, and the figures as PNG and SVG.

    Try:

      secateurs report runs/demo
    """
    from secateurs.study.directory import Study

    study = Study.open(directory)
    with waiting("drawing the report"):
        page = study.report()
    console().print(str(page), markup=False)
