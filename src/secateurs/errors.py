"""The exceptions of this library; all derive from ``SecateursError``.

A message says what, where, what was expected, what was received, and the fix. The command line
prints it on one line and exits with 2.
"""

from __future__ import annotations

import os
import sysconfig
import traceback

MOST_CHARACTERS = 1500
"""Longest message. Parts that come from outside (another library's error) may be of any length."""


class SecateursError(Exception):
    """Base class: an error that the user can correct."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(map(_shorten, arguments)))


def _shorten(argument: object) -> object:
    """Shorten a long text by its middle; its beginning and the fix at its end are kept."""
    if not isinstance(argument, str) or len(argument) <= MOST_CHARACTERS:
        return argument
    end = MOST_CHARACTERS // 3
    return f"{argument[: MOST_CHARACTERS - end]} [...] {argument[-end:]}"


class ModelError(SecateursError):
    """The model cannot be traced: its forward raises, its weights hold NaN, ..."""


class UnknownNameError(SecateursError):
    """No such criterion, model, layer, data set or file."""


class CutError(SecateursError):
    """The cut cannot be made, or failed its proof."""


class BudgetError(SecateursError):
    """No cut meets the budget; the message says the nearest budget that can be met."""


class DataError(SecateursError):
    """The data cannot be used: empty, of one class, unreadable, of the wrong shape, ..."""


class StudyError(SecateursError):
    """The study's directory belongs to something else, or its content cannot be read."""


class CheckpointError(SecateursError):
    """The file is corrupted, of another kind, or does not fit the model."""


class MeasurementError(SecateursError):
    """Time cannot be measured: the machine is too noisy, or the runtime rejects the model."""


class ExportError(SecateursError):
    """The model cannot be exported, or gives other outputs in the target runtime."""


def nearest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """'; did you mean X?' where a known name is close, else the list of known names."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    shown = ", ".join(list(known)[:20])
    return f"; known: {shown}{', ...' if len(known) > 20 else ''}"


def in_one_line(error: BaseException) -> str:
    """Format an error on one line; of pydantic's validation errors, the first."""
    found = error.errors(include_url=False) if hasattr(error, "errors") else []
    if not found:
        return " ".join(str(error).split()) or type(error).__name__
    where = ".".join(str(part)[:60] for part in found[0]["loc"])
    return f"{where}: {found[0]['msg'].replace('Input should be', 'expected')}".lstrip(": ")


_PACKAGE = os.path.dirname(__file__)
_INSTALLED = tuple({sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib")})


def find_user_line(error: BaseException) -> traceback.FrameSummary | None:
    """The line of the user's own code in which an error was raised, directly or in its callees.

    Installed packages raise on behalf of their callers, so the innermost frame outside installed
    packages is at fault: the user's, or one of ours.

    Returns:
        That line; None if it is one of ours, or if all frames are in installed packages.
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith(_PACKAGE):
            return None
        if not _is_installed(frame.filename):
            return frame
    return None


def describe_raised(error: BaseException) -> str:
    """Format an exception and where it was raised: 'ValueError: oops (line 35 of mine.py)'.

    The line is the user's if there is one, else the innermost.
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
