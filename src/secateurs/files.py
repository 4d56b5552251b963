"""Files that are whole or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from secateurs.errors import StudyError


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``; a crash or a full disk leaves what was there before.

    Raises:
        StudyError: the file cannot be written (no such folder, disk full, no permission).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise StudyError(f"{path}: cannot be written: {error.strerror or error}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise StudyError(
            f"{path}: cannot be written: {error.strerror or error}; "
            f"{len(content)} bytes are needed. What was there before is untouched."
        ) from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
