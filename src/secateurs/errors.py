"""What can go wrong, each a kind of ``SecateursError``.

A message says what, where, what was expected, what was received, and the fix. The command line
prints it on one line and exits with 2.
"""

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


def nearest(name: str, known: "list[str] | tuple[str, ...]") -> str:
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
