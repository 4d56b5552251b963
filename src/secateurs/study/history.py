"""History of a study: an append-only list of records that can be sliced.

A record is a dict with a ``kind``. On disk a history is JSON lines, one record per line, so that a
killed process loses at most the line it was writing. The last field of a line is a checksum of the
others, which is verified when it is read and is not part of the record. The loop writes these
kinds, and figures and reports are drawn from them alone:

- ``dense``: round (0), batch, model, data, criterion, seed, params, macs, bytes, channels, widths
  {layer: filters}; metric {name, higher_is_better, is_share} where it is not accuracy: then every
  ``accuracy`` below is called ``value``, and is the metric in its own units
- ``train``: batch (of all rounds together), round (0: dense), loss, validation_loss, accuracy
  (validation, 0 to 1), learning_rate, seconds; averaged (whether the average of the weights did
  better, and these are its), where one is taken
- ``tournament``: round, winner, reason, images, standings [{criterion, loss, accuracy, behind,
  error}, ...]; where the criterion is "auto"
- ``prune``: batch, round, removed (channels, this round), channels, params, macs, bytes, widths,
  accuracy (validation, after the cut, before fine-tuning), max_difference, tolerance, inexact
  [text, ...]
- ``recovered``: batch, round, accuracy (validation), by ("repair"); of a round that needs no
  training
- ``speed``: round, images_per_second, dense_images_per_second, ratio, low, high, batch_size,
  device, threads
- ``stop``: round, batch, reason, best_round, accuracy, dense_accuracy (both validation),
  test_accuracy, dense_test_accuracy
- ``extended``: round, batch, stop {setting: value}; a study that had ended goes on by these
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self, overload

import numpy as np

from secateurs.arguments import PATH, takes, takes_as_annotated
from secateurs.errors import StudyError, nearest
from secateurs.files import write_atomically

Record = dict[str, Any]
_CHECKSUM = "crc32"
_SEAL = f', "{_CHECKSUM}": "'
FieldNames = str | tuple[str, ...]


class History:
    """An append-only list of records; ``history[:, "macs"]`` is a column of it.

    ``history[-1]`` is a record, ``history[2:5]`` a shorter history, ``history[-1, "macs"]`` a
    value, ``history[:, "macs"]`` a list of values, ``history[:, ("batch", "accuracy")]`` a list of
    tuples. Columns skip records that do not have all of the fields.

    A history made with ``create`` or ``load`` is bound to its file: an appended record is on disk
    before ``append`` returns. A slice, or one made with ``History(records)``, is in memory only.
    """

    @takes_as_annotated(StudyError)
    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._records = list(records)
        self._path: Path | None = None
        self._whole = (
            0  # bytes of the file that hold whole records; what lies behind is overwritten
        )

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> Self:
        """Create an empty history bound to a new file.

        Raises:
            StudyError: the file exists and is not empty, or cannot be written.
        """
        file = Path(path)
        if file.exists() and file.stat().st_size:
            raise StudyError(
                f"{file}: holds a history already; continue it with History.load({str(path)!r})"
            )
        write_atomically(file, b"")
        history = cls()
        history._path = file
        return history

    @classmethod
    @takes(path=PATH)
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Load the history in a file, bound to it. Reading changes nothing on disk.

        An incomplete last line, left by a process killed while writing, is dropped.

        Raises:
            StudyError: the file cannot be read, or another line is damaged.
        """
        file = Path(path)
        try:
            content = file.read_bytes()
        except OSError as error:
            raise StudyError(f"{file}: cannot be read: {error.strerror or error}") from error
        history = cls()
        history._path = file
        for number, line in enumerate(content.splitlines(keepends=True), start=1):
            record = _read_line(line, f"{file}, line {number}")
            if record is not None:
                history._records.append(record)
                history._whole += len(line)
        return history

    def append(self, kind: str, **values: Any) -> Record:
        """Add a record, to the file too if there is one, and return it.

        Args:
            kind: kind of the record, such as "train".
            **values: its fields: JSON values, NumPy numbers and arrays, paths.

        Raises:
            StudyError: the file cannot be written; neither it nor the history has changed.
            TypeError: a value cannot be converted to JSON.
            TypeError: a value cannot be written as JSON.
        """
        line = _seal(json.dumps({"kind": kind, **values}, default=_plain))
        if self._path is not None:
            self._whole = _write_line(self._path, self._whole, line)
        # Converted to JSON and back, so that memory and file agree.
        record: Record = json.loads(line)
        del record[_CHECKSUM]
        self._records.append(record)
        return record

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all records to a file, atomically; does not bind the history to it."""
        lines = [_seal(json.dumps(record, default=_plain)) + "\n" for record in self]
        write_atomically(Path(path), "".join(lines).encode())
        return Path(path)

    def of(self, *kinds: str) -> History:
        """The records of these kinds, in order."""
        return History(record for record in self if record.get("kind") in kinds)

    def last(self, kind: str) -> Record | None:
        """The latest record of a kind, if there is one."""
        return next(
            (record for record in reversed(self._records) if record.get("kind") == kind), None
        )

    @property
    def ending(self) -> Record | None:
        """The record of the study's end; None if it has not ended, or was extended since."""
        latest = next(reversed(self.of("stop", "extended")._records), None)
        return latest if latest is not None and latest["kind"] == "stop" else None

    @property
    def path(self) -> Path | None:
        """The file that the history is bound to."""
        return self._path

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def __repr__(self) -> str:
        kinds = [str(record.get("kind")) for record in self]
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        return f"History({counts or 'empty'})"

    @overload
    def __getitem__(self, key: int) -> Record: ...
    @overload
    def __getitem__(self, key: slice) -> History: ...
    @overload
    def __getitem__(self, key: tuple[int, FieldNames]) -> Any: ...
    @overload
    def __getitem__(self, key: tuple[slice, FieldNames]) -> list[Any]: ...

    def __getitem__(self, key: int | slice | tuple[int | slice, FieldNames]) -> Any:
        rows, fields = key if isinstance(key, tuple) else (key, None)
        chosen = self._records[rows]
        if isinstance(chosen, dict):
            return chosen if fields is None else _column([chosen], fields)[0]
        return History(chosen) if fields is None else _column(chosen, fields)


def _column(records: list[Record], fields: FieldNames) -> list[Any]:
    """The values of ``fields`` in the records that have them all.

    Raises:
        KeyError: no record has them all, which is more likely a typo than an empty column.
    """
    names = (fields,) if isinstance(fields, str) else tuple(fields)
    rows = [
        tuple(record[name] for name in names) for record in records if record.keys() >= set(names)
    ]
    if records and not rows:
        known = list(dict.fromkeys(name for record in records for name in record))
        missing = [name for name in names if name not in known]
        hint = nearest(missing[0], known) if missing else ""
        raise KeyError(f"no record holds {', '.join(names)}{hint}")
    return [row[0] for row in rows] if isinstance(fields, str) else rows


def _plain(value: object) -> object:
    """Convert ``value`` to JSON-ready data."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(
        f"a history holds plain values; received {value!r} of type {type(value).__name__}"
    )


def _seal(line: str) -> str:
    """Append the checksum as the last field of a record's line."""
    return f'{line[:-1]}{_SEAL}{zlib.crc32(line.encode()):08x}"}}'


def _check_seal(line: str, checksum: object, place: str) -> None:
    body = line.rstrip().rpartition(_SEAL)[0] + "}"
    if checksum != f"{zlib.crc32(body.encode()):08x}":
        raise StudyError(
            f"{place}: expected the record that was written, with checksum {checksum}; received "
            f"another one: it was damaged or changed. If the change is meant, remove its "
            f'"{_CHECKSUM}".'
        )


def _read_line(line: bytes, place: str) -> Record | None:
    """Parse the record on a line; None if the line is incomplete."""
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        if not line.endswith(b"\n"):
            return None
        raise StudyError(
            f"{place}: not a record of a history: {error}. Correct the line or delete it."
        ) from error
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        raise StudyError(f"{place}: expected a JSON object with a 'kind'; received {line[:60]!r}")
    if _CHECKSUM in record:
        _check_seal(line.decode(), record.pop(_CHECKSUM), place)
    else:
        _check_no_key_is_damaged(line.decode(), record, place)
    return record


def _check_no_key_is_damaged(line: str, record: Record, place: str) -> None:
    """Refuse a record whose checksum is there under a damaged name; it would not be checked."""
    name, value = next(reversed(record.items()))
    body = line.rstrip().rpartition(f', "{name}": ')[0] + "}"
    if value == f"{zlib.crc32(body.encode()):08x}":
        raise StudyError(
            f'{place}: expected the record that was written, with "{_CHECKSUM}"; received {name!r} '
            "in its place: it was damaged. Correct the name."
        )


def _write_line(path: Path, whole: int, line: str) -> int:
    """Write ``line`` after the first ``whole`` bytes; returns the new number of whole bytes."""
    try:
        with path.open("r+b") as file:
            file.seek(max(0, whole - 1))
            found = file.read()
            last, tail = (found[:1], found[1:]) if whole else (b"\n", found)
            if not last or b"\n" in tail:
                raise StudyError(f"{path}: another process has written to it since it was read")
            # A file edited by hand may lack the last line's end.
            start = b"" if last == b"\n" else b"\n"
            file.seek(whole)
            file.truncate()
            file.write(start + line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            return file.tell()
    except OSError as error:
        raise StudyError(
            f"{path}: cannot be written: {error.strerror or error}. Its records are untouched."
        ) from error
