"""Recognition of the files that a study or a comparison wrote, by content and not by name.

Starting over removes these files and nothing else. If a file has one of the names but not the
content, it belongs to someone else, and starting over stops before anything is removed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from secateurs.errors import StudyError
from secateurs.files import header_of_file, metadata_in, remove_temporaries

Recognize = Callable[[Path], bool]

_LOOKED_AT = 4096
"""Number of leading bytes of a page or image in which the generator's mark is searched."""
_GENERATOR = b"secateurs"


def remove_files(directory: Path, patterns: Mapping[str, Recognize]) -> None:
    """Remove the files that were written here, and folders that become empty.

    Args:
        directory: the directory.
        patterns: pattern for ``Path.glob`` -> function that checks whether a file has the expected
            content.

    Raises:
        StudyError: a file matches by name but not by content (nothing is removed then), or a file
            cannot be removed.
    """
    found = {path: known for name, known in patterns.items() for path in directory.glob(name)}
    _check_ownership(directory, found)
    try:
        for path in found:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise StudyError(f"{error.filename}: cannot be removed: {error.strerror}") from error
    # Also folders that were made for a file which could not be written.
    folders = {directory / Path(name).parent for name in patterns if "**" not in name}
    folders |= {one for path in found for one in path.parents if directory in one.parents}
    for folder in sorted(folders - {directory}, reverse=True):  # inner folders first
        remove_temporaries(folder)
        with suppress(OSError):  # other files are in it
            folder.rmdir()
    remove_temporaries(directory)


def _check_ownership(directory: Path, found: Mapping[Path, Recognize]) -> None:
    foreign = [path for path, known in found.items() if not _is_known(path, known)]
    if foreign:
        names = ", ".join(str(path.relative_to(directory)) for path in sorted(foreign)[:3])
        raise StudyError(
            f"{directory}: expected files that were written here before, to start over in their "
            f"place; received something else, or something damaged, under the name of {names}"
            f"{', ...' if len(foreign) > 3 else ''}. Nothing was removed. Move it away, or choose "
            "another directory."
        )


def _is_known(path: Path, known: Recognize) -> bool:
    try:
        return path.is_file() and not path.is_symlink() and known(path)
    except (OSError, ValueError, RecursionError):  # the last of deeply nested JSON
        return False


def is_json_of(*formats: str) -> Recognize:
    """A check whether a file is a JSON document of one of these formats, of any version."""

    def recognise(path: Path) -> bool:
        values = json.loads(path.read_bytes())
        return isinstance(values, dict) and values.get("format") in formats

    return recognise


def is_json_with(*keys: str) -> Recognize:
    """A check whether a file is a JSON object with all of these keys."""

    def recognise(path: Path) -> bool:
        values: Any = json.loads(path.read_bytes())
        return isinstance(values, dict) and values.keys() >= set(keys)

    return recognise


def is_safetensors_with(key: str) -> Recognize:
    """A check whether a file is safetensors with this entry in its metadata."""

    def recognise(path: Path) -> bool:
        return key in metadata_in(header_of_file(path))

    return recognise


def is_history(path: Path) -> bool:
    """Whether a file consists of lines that a history wrote; the last may be incomplete."""
    lines = path.read_bytes().splitlines(keepends=True)
    whole = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return all(isinstance(record, dict) and "kind" in record for record in whole) and (
        bool(whole) or not lines or lines[0].startswith(b'{"kind"')
    )


def is_table(header: Iterable[str]) -> Recognize:
    """A check whether a file is comma-separated values with this header."""
    expected = ",".join(header)
    return lambda path: path.read_text().splitlines()[0] == expected


def is_event_log(path: Path) -> bool:
    """Whether a file holds TensorBoard events."""
    with path.open("rb") as file:
        return b"brain.Event:" in file.read(_LOOKED_AT)


def is_settings_of_ours(path: Path) -> bool:
    """Whether a tracker's file holds the settings of a study, one name per line."""
    lines = path.read_text().splitlines()
    known = ("pruning.", "stop.", "task.", "training.")
    return any(line.startswith(known) for line in lines)


def is_drawn(path: Path) -> bool:
    """Whether a page or image states that this library made it."""
    with path.open("rb") as file:
        return _GENERATOR in file.read(_LOOKED_AT).lower()
