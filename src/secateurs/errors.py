"""What can go wrong, each a kind of ``SecateursError``.

A message says what, where, what was expected, what was received, and the fix. The command line
prints it on one line and exits with 2.
"""

from __future__ import annotations

import os
import sysconfig
import traceback

MOST_CHARACTERS = 1500
"""Nobody reads a longer message; what came in from outside may be of any length."""


class SecateursError(Exception):
    """Something the user can put right."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(map(_shorten, arguments)))


def _shorten(argument: object) -> object:
    """A text without its middle, where it is too long: how it begins and the fix at its end."""
    if not isinstance(argument, str) or len(argument) <= MOST_CHARACTERS:
        return argument
    end = MOST_CHARACTERS // 3
    return f"{argument[: MOST_CHARACTERS - end]} [...] {argument[-end:]}"


class ModelError(SecateursError):
    """The model cannot be traced: its forward raises, its weights hold NaN, ..."""


class UnknownNameError(SecateursError):
    """No such criterion, model, layer, data set or file."""


class CutError(SecateursError):
    """The cut cannot be made, or was made and did not pass its proof."""


class BudgetError(SecateursError):
    """No cut meets the budget; the message says the nearest one that can be met."""


class DataError(SecateursError):
    """The data cannot be used: empty, of one class, unreadable, of the wrong shape, ..."""


class StudyError(SecateursError):
    """The study's directory holds something else, or what it holds cannot be read."""


class CheckpointError(SecateursError):
    """The file is corrupted, foreign, or does not fit the model."""


class MeasurementError(SecateursError):
    """A time cannot be told: the machine is too noisy, or the runtime refuses the model."""


class ExportError(SecateursError):
    """The model cannot be written for a runtime, or does not do the same there."""


def nearest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """'; did you mean X?' where a known name is close, else the list of known names."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    shown = ", ".join(list(known)[:20])
    return f"; known: {shown}{', ...' if len(known) > 20 else ''}"


def in_one_line(error: BaseException) -> str:
    """What an error says, on one line; of what pydantic finds wrong, the first."""
    found = error.errors(include_url=False) if hasattr(error, "errors") else []
    if not found:
        return " ".join(str(error).split()) or type(error).__name__
    where = ".".join(str(part)[:60] for part in found[0]["loc"])
    return f"{where}: {found[0]['msg'].replace('Input should be', 'expected')}".lstrip(": ")


_PACKAGE = os.path.dirname(__file__)
_INSTALLED = tuple({sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib")})


def find_user_line(error: BaseException) -> traceback.FrameSummary | None:
    """The line of the user's own code that an error was raised in, or in what that line called.

    Installed packages raise on behalf of whoever called them. So the innermost line that is of no
    installed package is at fault: the user's, or one of ours.

    Returns:
        That line; None where it is one of ours, or there is no line but those of packages.
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith(_PACKAGE):
            return None
        if not _is_installed(frame.filename):
            return frame
    return None


def describe_raised(error: BaseException) -> str:
    """'ValueError: oops (line 35 of mine.py)': what the user's code raised, on one line.

    The line is the user's where there is one, else the innermost.
    """
    kind, message = type(error).__name__, in_one_line(error)
    raised = kind if message == kind else f"{kind}: {message}"
    place = _line_at_fault(error)
    return f"{raised} (line {place[1]} of {os.path.basename(place[0])})" if place else raised


def _line_at_fault(error: BaseException) -> tuple[str, int | None] | None:
    if isinstance(error, SyntaxError):  # its message says which line
        return None
    frames = traceback.extract_tb(error.__traceback__)
    innermost = [frame for frame in frames if not frame.filename.startswith("<")][-1:]
    place = find_user_line(error) or next(iter(innermost), None)
    return None if place is None else (place.filename, place.lineno)


def _is_installed(path: str) -> bool:
    return path.startswith(("<", *_INSTALLED)) or "-packages/" in path
