"""Help pages: names of values in place of Python's types, and paragraphs that wrap."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


class _PlainHelp:
    """What the group and its commands share.

    Typer prints the Python type of every parameter without a metavar (``<list[str]>``), the flags'
    ``<bool>`` included, and how it does so differs from release to release. A metavar is shown by
    all of them, so each parameter gets one here, in the one place that every help page asks.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, each with a name of its value; none for a flag."""
        found: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in found:
            if parameter.param_type_name == "argument":
                # An argument is shown by its name alone; its type is a column of its own.
                parameter.display_type_rich = lambda ctx: None
            elif parameter.metavar is None and parameter.is_flag:
                parameter.metavar = ""
        return found


class PlainCommand(_PlainHelp, TyperCommand):
    """A command whose help page names values and wraps paragraphs."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options["help"] = wrap_freely(options.get("help") or "")
        super().__init__(*arguments, **options)


class PlainGroup(_PlainHelp, TyperGroup):
    """The program, whose help page shows no types either."""


class Application(typer.Typer):
    """A Typer application whose commands are ``PlainCommand``s."""

    def command(self, *arguments: Any, **options: Any) -> Callable[[Any], Any]:
        """Register a command, as ``typer.Typer.command`` does."""
        options.setdefault("cls", PlainCommand)
        return super().command(*arguments, **options)


def wrap_freely(text: str) -> str:
    r"""Join the lines of each paragraph, so that they wrap at the terminal's width.

    >>> wrap_freely("One\ntwo.\n\nTry:\n\n  secateurs run\n  --fresh")
    'One two.\n\nTry:\n\n  secateurs run --fresh'
    """
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(re.sub(r"\s*\n\s*", " ", paragraph) for paragraph in paragraphs)
