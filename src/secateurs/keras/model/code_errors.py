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


def explain(error: Exception) -> str:
    """That code takes no tensors without data, with what it raised and where."""
    line = line_of(error)
    cause = f"{type(error).__name__}: {_message_of(error)[:100]}"
    return f"its code takes no tensors without data ({cause}{f', at {line}' if line else ''})"


def _message_of(error: Exception) -> str:
    """The first line of what was raised, out of what Keras puts around it at each layer."""
    text = re.sub(r"\x1b\[\d*m", "", str(error)).rpartition("Error encountered:")[2]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = [line for line in lines if not line.startswith("Exception encountered when calling")]
    return found[0] if found else ""


def line_of(error: Exception) -> str:
    """'model.py:12', the innermost line of the model's own code, with what stands there."""
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
