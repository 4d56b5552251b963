"""What a model's own code raises when it is run on tensors without data, in a line."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

from secateurs.errors import ModelError


class ClosedCodeError(ModelError):
    """A subclassed model's code cannot be run on tensors without data.

    Args:
        message: for the user.
        reason: what the code did.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def explain(error: BaseException) -> str:
    """That code takes no tensors without data, with what it raised and where."""
    error = _reaching_code(error)
    line = _own_line(error)
    cause = f"{type(error).__name__}: {_message_of(error)[:100]}"
    return f"its code takes no tensors without data ({cause}{f', at {line}' if line else ''})"


def _reaching_code(error: BaseException) -> BaseException:
    """The error, or the one behind it that came out of the model's own code.

    Keras raises errors of code anew, with more words; of JAX's own kinds that ends in another one.
    """
    behind: BaseException | None = error
    for _ in range(8):
        if behind is None or _own_line(behind):
            break
        behind = behind.__context__
    return behind or error


def _message_of(error: BaseException) -> str:
    """The first line of what was raised, out of what Keras puts around it at each layer."""
    text = re.sub(r"\x1b\[\d*m", "", str(error)).rpartition("Error encountered:")[2]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = [line for line in lines if not line.startswith("Exception encountered when calling")]
    return found[0] if found else ""


def line_of(error: BaseException) -> str:
    """'model.py:12', the innermost line of the model's own code, with what stands there."""
    return _own_line(_reaching_code(error))


def _own_line(error: BaseException) -> str:
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
"""Packages whose lines say nothing of a model's code."""
