"""One-line explanations of errors that a model's code raises on tensors without data."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

from secateurs.errors import ModelError


class ClosedCodeError(ModelError):
    """A subclassed model's code cannot be run on tensors without data.

    Args:
        message: error message for the user.
        reason: why the code cannot be run so.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def explain(error: BaseException) -> str:
    """Explain that code does not accept tensors without data: what it raised, and where."""
    error = _error_of_user_code(error)
    line = _user_line(error)
    cause = f"{type(error).__name__}: {_message_of(error)[:100]}"
    return f"its code cannot run on symbolic tensors ({cause}{f', at {line}' if line else ''})"


def _error_of_user_code(error: BaseException) -> BaseException:
    """Return the error in the chain that came out of the model's own code, or the given one.

    Keras re-raises errors with a longer message; for JAX's error classes that itself fails with
    another error.
    """
    behind: BaseException | None = error
    for _ in range(8):
        if behind is None or _user_line(behind):
            break
        behind = behind.__context__
    return behind or error


def _message_of(error: BaseException) -> str:
    """Return the first line of the original message, without what Keras adds at each layer."""
    text = re.sub(r"\x1b\[\d*m", "", str(error)).rpartition("Error encountered:")[2]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = [line for line in lines if not line.startswith("Exception encountered when calling")]
    return found[0] if found else ""


def line_of(error: BaseException) -> str:
    """Return the innermost line of the model's own code, as 'model.py:12, <source text>', or ''."""
    return _user_line(_error_of_user_code(error))


def _user_line(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    package = str(Path(__file__).parents[2])
    others = [
        frame
        for frame in frames
        if not frame.filename.startswith(("<", package))
        and not any(f"site-packages/{name}/" in frame.filename for name in _FRAMEWORKS)
    ]
    if not others:
        return ""
    return f"{Path(others[-1].filename).name}:{others[-1].lineno}, {(others[-1].line or '')[:60]}"


_FRAMEWORKS = ("keras", "tensorflow", "torch", "jax", "optree")
"""Packages whose frames in a traceback are not the model's code."""
