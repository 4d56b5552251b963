"""Files that are whole or not there, and say so if they are no longer what was written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError

from secateurs.errors import CheckpointError, StudyError

_TEMPORARY = ".tmp"
_RANDOM = "[0-9a-f]" * 8

CHECKSUM = "checksum"
"""What a safetensors file's metadata call the checksum of all the rest of the file."""

MOST_HEADER_BYTES = 100_000_000
"""No safetensors file has a longer header; the format says so."""

Tensors = TypeVar("Tensors")

_ITEMSIZES = {"I64": 8, "U64": 8, "F64": 8, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2}


MODEL_SUFFIX = ".safetensors"
_OTHER_FORMATS = {
    ".onnx": "secateurs.export(model, {0!r}, example_inputs)",
    ".pt": "torch.save(model.state_dict(), {0!r})",
    ".pth": "torch.save(model.state_dict(), {0!r})",
    ".ckpt": "the trainer that writes such files",
    ".bin": "torch.save(model.state_dict(), {0!r})",
    ".keras": "model.save({0!r})",
    ".h5": "model.save_weights({0!r})",
    ".tflite": "secateurs.export(model, {0!r}, example_inputs)",
}


def check_model_suffix(path: Path) -> None:
    """Refuse to write a safetensors file under the name of another format.

    Raises:
        StudyError: the name promises something else; the message says what writes that.
    """
    other = _OTHER_FORMATS.get(path.suffix.lower())
    if other is not None:
        raise StudyError(
            f"{path}: expected a name that ends in {MODEL_SUFFIX}, which is what is written; "
            f"received {path.suffix}. Write {path.with_suffix(MODEL_SUFFIX).name}; another format "
            f"is written from Python, from the model that secateurs.load gives: "
            f"{other.format(path.name)}."
        )


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


def check_can_write(path: Path, *, overwrite: bool = True) -> None:
    """Refuse a place where no file can be written, before anything is computed for it.

    Args:
        path: of the file; neither it nor its folder need be there.
        overwrite: whether a file that is there may be replaced.

    Raises:
        StudyError: there is one that may not, a folder has this name, or the folder that it would
            lie in cannot be written to.
    """
    if os.path.isdir(path):
        raise StudyError(f"{path}: expected the path of a file; received that of a directory")
    if os.path.lexists(path) and not overwrite:
        raise StudyError(f"{path}: exists already; replace it with --overwrite, or name another")
    check_can_hold(path.parent, asked=path)


def check_can_hold(folder: Path, *, asked: Path | None = None) -> None:
    """Refuse a folder that no file can be written into, before anything is computed for it.

    Args:
        folder: need not be there, nor need those that it lies in.
        asked: what the user named, where that is something else.

    Raises:
        StudyError: it, or one that it lies in, is a file, or cannot be written to.
    """
    named = folder if asked is None else asked
    try:
        _exists(named)  # or its name is none
        nearest = next(one for one in (folder, *folder.absolute().parents) if _exists(one))
        if not nearest.is_dir():
            expected = "directory" if asked is None else "folder"
            raise StudyError(
                f"{named}: expected a place in a {expected}; {nearest} is a file. Name another."
            )
        _try_to_write(nearest)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StudyError(
            f"{named}: cannot be written: {reason}. Nothing was begun; name another place."
        ) from error


def _exists(path: Path) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _try_to_write(folder: Path) -> None:
    """Make a file that has no name, or where that cannot be one that goes at once.

    Raises:
        OSError: no file can be made in this folder.
    """
    # Permissions do not tell: of a disk that is read-only, or to root, they say nothing.
    nameless = getattr(os, "O_TMPFILE", None)
    if nameless is not None:
        try:
            os.close(os.open(folder, nameless | os.O_WRONLY, 0o600))
        except OSError as error:
            if error.errno in (errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT):
                raise
        else:
            return
    temporary = folder / f".secateurs.{secrets.token_hex(4)}{_TEMPORARY}"
    temporary.touch(exist_ok=False)
    temporary.unlink()


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
        CheckpointError: it is damaged, no such file, or no longer what was written. Files without
            a checksum, which older releases and others write, are taken as they are.
    """
    try:
        tensors = load(content)
        metadata = _header_of(content).get("__metadata__", {})
    except (SafetensorError, ValueError, struct.error) as error:
        raise CheckpointError(
            f"{expected}; received {len(content)} bytes that are damaged or something else "
            f"({error})"
        ) from error
    written = metadata.get(CHECKSUM)
    if written is not None and written != (present := _checksum_of(content)):
        raise CheckpointError(
            f"{expected} that is as it was written, with checksum {written[:12]}; received one "
            f"whose content has {present[:12]}: it was damaged or changed since. Take another copy "
            "of it, or write it again."
        )
    return tensors, {key: value for key, value in metadata.items() if key != CHECKSUM}


def check_tensor_names(
    path: Path, model: str, missing: Sequence[str], foreign: Sequence[str], hint: str = ""
) -> None:
    """Refuse a file that holds other tensors than a model has.

    Args:
        path: of the file.
        model: its name.
        missing: tensors of the model that the file does not hold.
        foreign: tensors of the file that the model does not have.
        hint: what to watch when building the model, ", with the same layer names".

    Raises:
        CheckpointError: there are any.
    """
    faults = [
        f"{fault}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
        for fault, names in (("missing", missing), ("not in the model", foreign))
        if names
    ]
    if faults:
        raise CheckpointError(
            f"{path}: expected the tensors of {model}; {'; '.join(faults)}. Build the model as it "
            f"was built before it was saved{hint}."
        )


def check_tensor_shape(
    path: Path, name: str, expected: Sequence[int], received: Sequence[int]
) -> None:
    """Refuse a file in which a tensor has another shape than in the model.

    Raises:
        CheckpointError: it has.
    """
    if tuple(expected) != tuple(received):
        raise CheckpointError(
            f"{path}: {name}: expected shape {tuple(expected)}; received {tuple(received)}. Build "
            "the model as it was built before it was saved."
        )


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


def seal(content: bytes) -> bytes:
    """A safetensors file with the checksum of all of it in its metadata.

    It is of the numbers, of their names, types and shapes, and of the metadata themselves: a cut
    and the weights that it led to are known as a pair. ``unpack_safetensors`` looks at it; readers
    that know nothing of it read past it.

    Args:
        content: of the file, as a framework's ``safetensors`` gave it.
    """
    header = _header_of(content)
    metadata = header.setdefault("__metadata__", {})
    metadata.pop(CHECKSUM, None)
    metadata[CHECKSUM] = _checksum_of(content)
    # Not ASCII alone: safetensors itself writes names as they are.
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers begin at a multiple of eight
    return struct.pack("<Q", len(text)) + text + _numbers_in(content)


def halve(content: bytes) -> bytes:
    """A safetensors file's content with its numbers in half precision, sealed again.

    Single and double precision become half; whole numbers stay as they are.
    """
    header, numbers = _header_of(content), _numbers_in(content)
    entries: dict[str, Any] = {"__metadata__": header.pop("__metadata__", {})}
    pieces: dict[str, bytes] = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        pieces[name] = bytes(numbers[start:end])
        if entry["dtype"] in ("F32", "F64"):
            wide = np.frombuffer(pieces[name], "<f4" if entry["dtype"] == "F32" else "<f8")
            pieces[name], entry["dtype"] = wide.astype("<f2").tobytes(), "F16"
    place = 0
    # Wide types first, then by name, as safetensors does.
    for name in sorted(header, key=lambda name: (-_ITEMSIZES.get(header[name]["dtype"], 1), name)):
        end = place + len(pieces[name])
        entries[name] = {**header[name], "data_offsets": [place, end]}
        place = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    joined = b"".join(pieces[name] for name in entries if name != "__metadata__")
    return seal(struct.pack("<Q", len(text)) + text + joined)


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


def header_of_file(path: Path) -> dict[str, Any]:
    """The header of a safetensors file, its numbers unread.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(MOST_HEADER_BYTES, path.stat().st_size):
            raise ValueError(f"{path}: no safetensors file: its header would be {length} bytes")
        return _header_of(struct.pack("<Q", length) + file.read(length))


def seal_json(values: Mapping[str, Any]) -> str:
    """An object as JSON text for people to read, with a checksum of its values in it."""
    return json.dumps({**values, CHECKSUM: _checksum_of_values(values)}, indent=1) + "\n"


def open_json(content: bytes) -> Any:
    """What ``seal_json`` was given; anything else that is JSON, as it is.

    Raises:
        ValueError: it is no JSON, or its values are not those it was written with.
    """
    try:
        values = json.loads(content)
    except RecursionError as error:
        raise ValueError("brackets within brackets, too deep to be read") from error
    if not isinstance(values, dict) or CHECKSUM not in values:
        return values
    written = values.pop(CHECKSUM)
    if written != _checksum_of_values(values):
        raise ValueError(
            f"expected the values that it was written with (checksum {written!r}); received "
            f'others: it was damaged or changed. If the change is meant, remove "{CHECKSUM}"'
        )
    return values


def _checksum_of_values(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def remove_temporaries(folder: Path, of: str = "*") -> None:
    """Remove what writers that were killed left in a folder, not in those below it.

    Args:
        folder: need not be there.
        of: name of the file that was to be written; ``*`` is any.
    """
    for temporary in find_temporaries(folder, of):
        _remove(temporary)


def find_temporaries(folder: Path, of: str = "*") -> list[Path]:
    """What writers that were killed left in a folder; see ``remove_temporaries``."""
    return list(folder.glob(f".{of}.{_RANDOM}{_TEMPORARY}"))


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # there was no folder to write to, or it may not be changed: nothing to clean up
