"""Files that are whole or not there, and say so if they are no longer what was written."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError

from secateurs.errors import CheckpointError, StudyError

_TEMPORARY = ".tmp"

CHECKSUM = "checksum"
"""What a safetensors file's metadata call the checksum of all the rest of the file."""

MOST_HEADER_BYTES = 100_000_000
"""No safetensors file has a longer header; the format says so."""

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


def content_of(path: Path) -> bytes:
    """What a model's file holds.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error


def unpacked(
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
        CheckpointError: it is damaged, no such file, or no longer what was written. Files without
            a checksum, which older releases and others write, are taken as they are.
    """
    try:
        tensors = load(content)
        said = _header_of(content).get("__metadata__", {})
    except (SafetensorError, ValueError, struct.error) as error:
        raise CheckpointError(
            f"{expected}; received {len(content)} bytes that are damaged or something else "
            f"({error})"
        ) from error
    written = said.get(CHECKSUM)
    if written is not None and written != (present := _checksum_of(content)):
        raise CheckpointError(
            f"{expected} that is as it was written, with checksum {written[:12]}; received one "
            f"whose content has {present[:12]}: it was damaged or changed since. Take another copy "
            "of it, or write it again."
        )
    return tensors, {key: value for key, value in said.items() if key != CHECKSUM}


def checksum_of_tensors(arrays: Mapping[str, bytes | bytearray | memoryview]) -> str:
    """SHA-256, as 64 hexadecimal digits, of named pieces of memory.

    Names and lengths count too, so that nothing can move from one piece to the next; the order in
    which they are given does not.

    Args:
        arrays: name -> the bytes of a tensor, a cut as JSON, ...: whatever belongs together.

    Example:
        >>> checksum_of_tensors({"a": b"12", "b": b"3"})[:12]
        'bba6a92cba78'
        >>> checksum_of_tensors({"a": b"1", "b": b"23"})[:12]
        'dadbc76cd247'
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        spelled = name.encode()
        content = memoryview(arrays[name]).cast("B")
        digest.update(struct.pack("<QQ", len(spelled), len(content)))
        digest.update(spelled)
        digest.update(content)
    return digest.hexdigest()


def sealed(content: bytes) -> bytes:
    """A safetensors file with the checksum of all of it in its metadata.

    It is of the numbers, of their names, types and shapes, and of the metadata themselves: a cut
    and the weights that it led to are known as a pair. ``unpacked`` looks at it; readers that know
    nothing of it read past it.

    Args:
        content: of the file, as a framework's ``safetensors`` gave it.
    """
    header = _header_of(content)
    said = header.setdefault("__metadata__", {})
    said.pop(CHECKSUM, None)
    said[CHECKSUM] = _checksum_of(content)
    # Not ASCII alone: safetensors itself writes names as they are.
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers begin at a multiple of eight
    return struct.pack("<Q", len(text)) + text + _numbers_in(content)


def is_safetensors(content: bytes) -> bool:
    """Whether this is meant to be a safetensors file: by its structure, damaged or not.

    It begins with the length of its header, which begins with a brace. A zip archive (PyTorch's
    checkpoints) has its method of compression at that place, a pickle no such length.
    """
    length = int.from_bytes(content[:8], "little")
    return content[8:9] == b"{" and length <= MOST_HEADER_BYTES


def _header_of(content: bytes) -> dict[str, Any]:
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    if not isinstance(header, dict):
        raise ValueError("its header is no dictionary")
    return header


def _numbers_in(content: bytes) -> memoryview:
    return memoryview(content)[8 + struct.unpack("<Q", content[:8])[0] :]


def _checksum_of(content: bytes) -> str:
    """Of all that a safetensors file holds but the checksum itself."""
    header = _header_of(content)
    header["__metadata__"] = {
        key: value for key, value in header.get("__metadata__", {}).items() if key != CHECKSUM
    }
    # Sorted: safetensors may write metadata in any order.
    text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    return checksum_of_tensors({"header": text, "numbers": _numbers_in(content)})


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
