"""The command-line application: its commands, and the handling of every error."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Sequence
from enum import IntEnum
from importlib.metadata import version
from typing import Annotated

import typer

from secateurs.cli import (
    ablate,
    bench,
    compare,
    criteria,
    doctor,
    export,
    frontier,
    inspect,
    profile,
    prune,
    report,
    run,
    sensitivity,
)
from secateurs.cli.help_pages import Application, PlainGroup
from secateurs.cli.launch import WATCHED
from secateurs.cli.show import console, error_line
from secateurs.cli.signals import ending_signals, is_main_process
from secateurs.cli.vocabulary import respell
from secateurs.errors import SecateursError, describe_raised, find_user_line
from secateurs.training.memory import is_out_of_memory

HELP = """Make trained neural networks smaller and faster, and prove each cut.

Secateurs removes whole channels, so the result is an ordinary dense model that runs faster on any
hardware.

[bold]Getting started[/bold]

  secateurs run --preset demo                    a complete study, in about two minutes

  secateurs inspect resnet50                     what can be pruned, and what cannot

  secateurs prune resnet50 --budget size_mb=15   one cut that meets a budget

[bold]Units[/bold]

  A share lies between 0 and 1: 0.005 is half a point of accuracy.

  Sizes are in megabytes of 1,000,000 bytes; MACs are multiply-accumulates of one image.

  Training is counted in batches (optimizer steps).
"""

# UsageError's own parent: typer has moved it about.
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[2]


class ExitCode(IntEnum):
    """Exit code of the process."""

    FINE = 0
    UNEXPECTED = 1
    """An internal error; the traceback is on stderr."""
    BAD_INPUT = 2
    """An error that the user can fix; one line on stderr says how."""
    INTERRUPTED = 130


app = Application(
    cls=PlainGroup,
    help=HELP,
    add_completion=False,
    rich_markup_mode="rich",
    no_args_is_help=True,
)
for command in (
    *(run, prune, frontier, bench, export, profile),
    *(compare, inspect, sensitivity, ablate, report, criteria, doctor),
):
    command.register(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        console().print(f"secateurs {version('secateurs')}")
        raise typer.Exit


@app.callback(help=HELP)
def secateurs(
    show_version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    """Options shared by all commands."""
    del show_version


_COMMANDS = [one.name for one in app.registered_commands]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Arguments after the program's name; None takes those of the process.

    Returns:
        An ``ExitCode``.
    """
    given = respell(sys.argv[1:] if arguments is None else arguments)
    with ending_signals() as signals:
        code = _run(given)
    if code == ExitCode.INTERRUPTED:
        if is_main_process():
            by = f" by {signals.received.name}" if signals.received else ""
            console(stderr=True).print(f"interrupted{by}")
        return 128 + signals.received if signals.received else code
    return code


def _run(given: list[str]) -> int:
    try:
        # Commands return nothing; typer returns 0 for help and 130 if it caught an interrupt.
        code = app(given, prog_name="secateurs", standalone_mode=False) or ExitCode.FINE
    except SecateursError as error:
        error_line(str(error))
        return ExitCode.BAD_INPUT
    except _USAGE_ERROR as error:
        return _report_misuse(error, given)
    except (KeyboardInterrupt, typer.Abort):
        code = ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last resort; the error is reported below
        if is_out_of_memory(error):
            message = " ".join(str(error).split())[:200]
            error_line(
                f"out of memory: expected sizes that fit into this machine's memory; {message}"
            )
            return ExitCode.BAD_INPUT
        if _is_of_another_process(error):
            if WATCHED not in os.environ:
                error_line("another process of this launch has failed; see its error message")
            return ExitCode.UNEXPECTED
        if find_user_line(error):
            error_line(f"your code raised {describe_raised(error)}")
            return ExitCode.BAD_INPUT
        if is_main_process():
            traceback.print_exc()
        error_line(
            f"internal error of secateurs, please report it: {type(error).__name__}: {error}"
        )
        return ExitCode.UNEXPECTED
    return int(code)


_BROKEN_OFF = (
    "connection closed by peer",
    "connection reset by peer",
    "connection was likely closed",
    "gloo connectfullmesh failed",
    "nccl communicator was aborted",
    "broken pipe",
)
"""Error messages of communication libraries when the peer process has ended."""


def _is_of_another_process(error: Exception) -> bool:
    """Whether the error follows from the failure of another process of the same launch."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) < 2
    return not alone and any(words in str(error).lower() for words in _BROKEN_OFF)


def _report_misuse(error: Exception, given: Sequence[str]) -> int:
    message = " ".join(error.format_message().split()).rstrip(".")  # type: ignore[attr-defined]
    if not given:  # without arguments the "message" is the help
        app(["--help"], prog_name="secateurs", standalone_mode=False)
        return ExitCode.FINE
    named = re.search("Invalid value for '(-[^' /]+)", message)
    if named and named[1] in given[:-1]:
        last = len(given) - 1 - list(reversed(given)).index(named[1])
        received = given[last + 1]
        message += f"; received {received if len(received) < 60 else received[:57] + '...'!r}"
    command = f"{given[0]} " if given[0] in _COMMANDS else ""
    message += "" if message.endswith("?") else "."
    error_line(f"{message} See: secateurs {command}--help")
    return ExitCode.BAD_INPUT


def run_from_shell() -> None:
    """The ``secateurs`` command."""
    sys.exit(main())
