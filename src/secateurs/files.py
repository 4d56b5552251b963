"""Atomic writing of files, and checksums that detect damage."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
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
"""Key of the checksum in a safetensors file's metadata; it covers the rest of the file."""

_SHA256 = re.compile("[0-9a-f]{64}")

MOST_HEADER_BYTES = 100_000_000
"""Longest header that the safetensors format allows."""

Tensors = TypeVar("Tensors")

_ITEMSIZES = {"I64": 8, "U64": 8, "F64": 8, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2}


MODEL_SUFFIX = ".safetensors"
KERAS_SUFFIX = ".keras"

_NO_FORMAT = re.compile(r"\.?|\.v?\d.*")
"""End of a name that is no format's: of "small", "small.v2" or "small-0.5"."""

_EXPORTED = ".onnx, .xml, .pt2, .pte, .tflite and .mlpackage"
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


def check_model_suffix(path: Path, *, allows_keras: bool = False) -> None:
    """Refuse to write a safetensors file under the name of another format.

    Args:
        path: path of the file.
        allows_keras: whether the model may be written as a ``.keras`` file too.

    Raises:
        StudyError: the suffix is that of another format, known or not; the message says what
            writes that format, or else which formats are written.
    """
    suffix = path.suffix.lower()
    if suffix == MODEL_SUFFIX or _NO_FORMAT.fullmatch(suffix):
        return
    if suffix == KERAS_SUFFIX and allows_keras:
        return
    other = _OTHER_FORMATS.get(suffix)
    raise StudyError(
        f"{path}: expected a name that ends in {MODEL_SUFFIX}, the only format written here; "
        f"received {path.suffix}. Write {path.with_suffix(MODEL_SUFFIX).name}; "
        + (
            "other formats are written from Python, from the model that secateurs.load returns: "
            f"{other.format(path.name)}."
            if other
            else f"secateurs.export writes {_EXPORTED}, and of a Keras model .keras."
        )
    )


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``; a crash or a full disk leaves the previous file intact.

    The file gets the default permissions of the umask.

    Raises:
        StudyError: the file cannot be written (no such folder, disk full, no permission).
    """
    # Not mkstemp: its files are readable by their owner only, and stay so after the rename.
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
    """Check that a file can be written, before anything is computed for it.

    Args:
        path: path of the file; neither it nor its folder need exist.
        overwrite: whether an existing file may be replaced.

    Raises:
        StudyError: the file exists and may not be replaced, the path is a folder's, or the folder
            cannot be written to.
    """
    if os.path.isdir(path):
        raise StudyError(f"{path}: expected the path of a file; received that of a directory")
    if os.path.lexists(path) and not overwrite:
        raise StudyError(f"{path}: exists already; replace it with --overwrite, or name another")
    check_can_hold(path.parent, asked=path)


def check_can_hold(folder: Path, *, asked: Path | None = None) -> None:
    """Check that files can be written into a folder, before anything is computed for them.

    Args:
        folder: path of the folder; neither it nor its parents need exist.
        asked: the path that the user gave, where that is another.

    Raises:
        StudyError: the folder or one of its parents is a file, or cannot be written to.
    """
    named = folder if asked is None else asked
    try:
        _exists(named)  # raises where the path is not a valid one
        nearest = next(one for one in (folder, *folder.absolute().parents) if _exists(one))
        if not nearest.is_dir():
            expected = "directory" if asked is None else "folder"
            raise StudyError(
                f"{named}: expected a path in a {expected}; {nearest} is a file. Name another path."
            )
        _try_to_write(nearest)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StudyError(
            f"{named}: cannot be written: {reason}. Nothing was started; name another path."
        ) from error


def _exists(path: Path) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _try_to_write(folder: Path) -> None:
    """Create an unnamed file, or where the system has none, one that is removed at once.

    Raises:
        OSError: no file can be made in this folder.
    """
    # Permissions are not enough: they say nothing of a read-only disk, nor to root.
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
    """Read the content of a model's file.

    Raises:
        CheckpointError: the file cannot be read.
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
    """Read the tensors and the metadata of a safetensors file.

    Args:
        content: content of the file.
        load: the framework's function that reads the tensors.
        expected: beginning of the error message.

    Raises:
        CheckpointError: the file is damaged, not safetensors, or does not match its checksum.
            Files without one, from older releases or other tools, are accepted.
    """
    try:
        tensors = load(content)
        metadata = metadata_in(_header_of(content))
    except (SafetensorError, ValueError, struct.error) as error:
        raise CheckpointError(
            f"{expected}; received {len(content)} bytes that are damaged or something else "
            f"({error})"
        ) from error
    written = metadata.get(CHECKSUM)
    if written is None and (damaged := _renamed_checksum(metadata, content)):
        raise CheckpointError(
            f"{expected} that is as it was written, with a {CHECKSUM!r} in its metadata; received "
            f"that under the name {damaged!r}: it was damaged. Use another copy of it."
        )
    if written is not None and written != (present := _checksum_of(content)):
        raise CheckpointError(
            f"{expected} that is as it was written, with checksum {written[:12]}; received one "
            f"whose content has {present[:12]}: it was damaged or changed since. Use another copy "
            "of it, or write it again."
        )
    return tensors, {key: value for key, value in metadata.items() if key != CHECKSUM}


def check_tensor_names(
    path: Path, model: str, missing: Sequence[str], foreign: Sequence[str], hint: str = ""
) -> None:
    """Check that a file holds exactly the tensors of a model.

    Args:
        path: path of the file.
        model: name of the model.
        missing: tensors of the model that the file does not hold.
        foreign: tensors of the file that the model does not have.
        hint: advice for building the model, such as ", with the same layer names".

    Raises:
        CheckpointError: there are missing or foreign tensors.
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
    """Check that a tensor in a file has the shape that it has in the model.

    Raises:
        CheckpointError: the shapes differ.
    """
    if tuple(expected) != tuple(received):
        raise CheckpointError(
            f"{path}: {name}: expected shape {tuple(expected)}; received {tuple(received)}. Build "
            "the model as it was built before it was saved."
        )


def checksum_of_tensors(arrays: Mapping[str, bytes | bytearray | memoryview]) -> str:
    """SHA-256 of named byte strings, as 64 hexadecimal digits.

    Names and lengths are hashed too, so that moving bytes from one entry to the next changes the
    checksum; the order of the entries does not.

    Args:
        arrays: name -> bytes of a tensor, a cut as JSON, ...: whatever belongs together.

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
    """Add a checksum of a safetensors file to its metadata.

    It covers the values, names, types and shapes of the tensors and the metadata itself, so a cut
    and the weights it led to are verified together. ``unpack_safetensors`` checks it; other
    readers ignore it.

    Args:
        content: content of the file, as a framework's ``safetensors`` produced it.
    """
    header = _header_of(content)
    checksum = _checksum_of(content)
    header["__metadata__"] = {**metadata_in(header), CHECKSUM: checksum}
    # Not ASCII only: safetensors itself writes names unescaped.
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors begin at a multiple of eight
    return struct.pack("<Q", len(text)) + text + _numbers_in(content)


def halve(content: bytes) -> bytes:
    """Convert a safetensors file's floating-point tensors to half precision, and seal it again.

    Single and double precision become half; integer tensors are unchanged.
    """
    header, numbers = _header_of(content), _numbers_in(content)
    entries: dict[str, Any] = {"__metadata__": metadata_in(header)}
    header.pop("__metadata__", None)
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
    """Whether content is meant to be a safetensors file, judged by its structure, damaged or not.

    It begins with the length of its header, which begins with a brace. In a zip archive (PyTorch's
    checkpoints) that byte is the compression method; a pickle has no plausible length there.
    """
    length = int.from_bytes(content[:8], "little")
    return content[8:9] == b"{" and length <= MOST_HEADER_BYTES


def _header_of(content: bytes) -> dict[str, Any]:
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    if not isinstance(header, dict):
        raise ValueError("its header is not a dictionary")
    return header


def metadata_in(header: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata in the header of a safetensors file; empty where it has none.

    Raises:
        ValueError: they are not a dictionary.
    """
    # The format allows null there too.
    metadata = header.get("__metadata__") or {}
    if not isinstance(metadata, dict):
        raise ValueError("its metadata are not a dictionary")
    return metadata


def _numbers_in(content: bytes) -> memoryview:
    return memoryview(content)[8 + struct.unpack("<Q", content[:8])[0] :]


def _renamed_checksum(metadata: Mapping[str, Any], content: bytes) -> str | None:
    """The key of a checksum whose name was damaged; without this, it would not be checked."""
    suspects = [key for key, value in metadata.items() if _SHA256.fullmatch(str(value))]
    return next((key for key in suspects if metadata[key] == _checksum_of(content, key)), None)


def _checksum_of(content: bytes, key_of_checksum: str = CHECKSUM) -> str:
    """Checksum of everything in a safetensors file except the checksum itself."""
    header = _header_of(content)
    header["__metadata__"] = {
        key: value for key, value in metadata_in(header).items() if key != key_of_checksum
    }
    # Sorted: safetensors may write metadata in any order.
    text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    return checksum_of_tensors({"header": text, "numbers": _numbers_in(content)})


def header_of_file(path: Path) -> dict[str, Any]:
    """Read the header of a safetensors file without its tensors.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a safetensors file.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(MOST_HEADER_BYTES, path.stat().st_size):
            raise ValueError(f"{path}: not a safetensors file: its header would be {length} bytes")
        return _header_of(struct.pack("<Q", length) + file.read(length))


def seal_json(values: Mapping[str, Any]) -> str:
    """Write an object as readable JSON text that includes a checksum of its values."""
    return json.dumps({**values, CHECKSUM: _checksum_of_values(values)}, indent=1) + "\n"


def open_json(content: bytes) -> Any:
    """Read what ``seal_json`` wrote; other JSON is returned as it is.

    Raises:
        ValueError: it is not JSON, or its values do not match the checksum.
    """
    try:
        values = json.loads(content)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply to be read") from error
    if not isinstance(values, dict):
        return values
    if CHECKSUM not in values:
        _check_no_key_is_damaged(values)
        return values
    written = values.pop(CHECKSUM)
    if written != _checksum_of_values(values):
        raise ValueError(
            f"expected the values that it was written with (checksum {written!r}); received "
            f'others: it was damaged or changed. If the change is meant, remove "{CHECKSUM}"'
        )
    return values


def _check_no_key_is_damaged(values: Mapping[str, Any]) -> None:
    """Refuse values whose checksum is there under a damaged name; it would not be checked."""
    for key, value in values.items():
        rest = {name: other for name, other in values.items() if name != key}
        if isinstance(value, str) and len(value) == 16 and value == _checksum_of_values(rest):
            raise ValueError(f'expected "{CHECKSUM}"; received {key!r}: the name was damaged')


def _checksum_of_values(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def remove_temporaries(folder: Path, of: str = "*") -> None:
    """Remove temporary files that killed writers left in a folder; subfolders are not searched.

    Args:
        folder: folder to clean; need not exist.
        of: name of the file that was being written; ``*`` matches any.
    """
    for temporary in find_temporaries(folder, of):
        _remove(temporary)


def find_temporaries(folder: Path, of: str = "*") -> list[Path]:
    """Find the temporary files that killed writers left in a folder."""
    return list(folder.glob(f".{of}.{_RANDOM}{_TEMPORARY}"))


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # no folder, or no permission: nothing to clean up
