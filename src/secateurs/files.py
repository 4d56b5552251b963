"""Files that are whole or not there."""

from __future__ import annotations

import json
import os
import secrets
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError

from secateurs.errors import CheckpointError, StudyError

_TEMPORARY = ".tmp"

Tensors = TypeVar("Tensors")


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``; a crash or a full disk leaves what was there before.

    The file gets the permissions that the umask leaves, as any other.

    Raises:
        StudyError: the file cannot be written (no such folder, disk full, no permission).
    """
    # Not mkstemp: its files can be read by their owner alone, and stay so when they are renamed.
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}{_TEMPORARY}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        _remove(temporary)
        raise StudyError(
            f"{path}: cannot be written: {error.strerror or error}; "
            f"{len(content)} bytes are needed. What was there before is untouched."
        ) from error
    except BaseException:
        _remove(temporary)
        raise


def read_bytes(path: Path) -> bytes:
    """What a model's file holds.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error


def unpack_safetensors(
    content: bytes,
    load: Callable[[bytes], Tensors],
    expected: str = "expected a safetensors file",
) -> tuple[Tensors, dict[str, str]]:
    """The tensors and the text of a safetensors file.

    Args:
        content: of the file.
        load: how a framework reads its tensors.
        expected: how the message begins if they cannot be read.

    Raises:
        CheckpointError: it is damaged, or no such file.
    """
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    except (SafetensorError, ValueError, struct.error) as error:
        raise CheckpointError(
            f"{expected}; received {len(content)} bytes that are damaged or something else "
            f"({error})"
        ) from error
    return tensors, header.get("__metadata__", {})


def remove_temporaries(folder: Path, of: str = "*") -> None:
    """Remove what writers that were killed left in a folder and those in it.

    Args:
        folder: need not be there.
        of: name of the file that was to be written; ``*`` is any.
    """
    for temporary in folder.rglob(f".{of}.*{_TEMPORARY}"):
        _remove(temporary)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # there was no folder to write to, or it may not be changed: nothing to clean up
