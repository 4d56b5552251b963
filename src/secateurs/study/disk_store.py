"""A study's files, written atomically and checked when they are read.

A study's directory holds::

    config.json               its settings
    history.jsonl             its history
    checkpoint.safetensors    all that is needed to resume
    best.safetensors          the smallest model within the tolerance so far; ``secateurs.load``
    cuts/round-001.json       what each round removed from the model before it
    snapshots/*.safetensors   the dense model; the weights that rounds are rewound to
    report/                   figures and report.html

Each file is written atomically and contains a checksum. The checkpoint is authoritative: the other
files are either recreated from it or, like the last lines of the history, dropped when the study
resumes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from secateurs.channels.cut import Cut
from secateurs.channels.file_size import METADATA_KEY, metadata
from secateurs.errors import CheckpointError, StudyError
from secateurs.files import header_of_file, metadata_in, read_bytes, write_atomically
from secateurs.study.checkpoints import CheckpointName
from secateurs.study.history import History
from secateurs.study.position import Position, StudyStage
from secateurs.training.learner import Learner, Snapshot

CONFIGURATION = "config.json"
HISTORY = "history.jsonl"
CHECKPOINT = "checkpoint.safetensors"
BEST = "best.safetensors"
CUTS = "cuts"
SNAPSHOTS = "snapshots"
REPORT = "report"
TRACKING = "tracking"

CHECKPOINT_KEY = "secateurs-checkpoint"
_CHECKPOINT_VERSION = 1
_OPTIMIZER_KEY = "optimizer"
_OPTIMIZER_PREFIX, _AVERAGE_PREFIX = "optimizer:", "average:"
_PRESENT, _BEST = "present:", "best:"


_Tensors = TypeVar("_Tensors", bound=Mapping[str, Any])


class DiskStore:
    """Checkpoint store of the loop in a study's directory."""

    def __init__(self, directory: Path, learner: Learner) -> None:
        self._directory = directory
        self._pack, self._unpack = learner.pack, learner.unpack
        self._writes = learner.is_main
        self.history = History()

    def keep(self, name: CheckpointName, snapshot: Snapshot) -> None:
        tensors, entries = _flat(snapshot)
        self._write(self._path(name), lambda: self._pack(tensors, metadata(snapshot.cut) | entries))

    def fetch(self, name: CheckpointName) -> Snapshot:
        tensors, entries = self._read(self._path(name))
        return _snapshot(tensors, entries)

    def keep_cut(self, number: int, cut: Cut) -> None:
        path = self._directory / CUTS / f"round-{number:03}.json"
        self._write(path, lambda: cut.to_json().encode())

    def checkpoint(
        self, position: Position, present: Callable[[], Snapshot], best: Snapshot | None
    ) -> None:
        if not self._writes:
            return
        now = present()
        tensors, entries = _flat(now, _PRESENT)
        described: dict[str, Any] = {
            "version": _CHECKPOINT_VERSION,
            "position": asdict(position),
            "records": len(self.history),
            "present": entries,
            "best": None,
        }
        if best is now:
            described["best"] = "present"
        elif best is not None:
            more, described["best"] = _flat(best, _BEST)
            tensors |= more
        content = self._pack(tensors, {"format": "pt", CHECKPOINT_KEY: json.dumps(described)})
        write_atomically(self._directory / CHECKPOINT, content)

    def resume(self) -> tuple[Position, Snapshot, Snapshot | None] | None:
        path = self._directory / CHECKPOINT
        if not path.exists():
            self._begin_history(None)
            return None
        tensors, entries = self._read(path)
        try:
            described = json.loads(entries[CHECKPOINT_KEY])
            if described["version"] != _CHECKPOINT_VERSION:
                raise CheckpointError(
                    f"{path}: expected version {_CHECKPOINT_VERSION} of a checkpoint; received "
                    f"version {described['version']!r}"
                )
            position = _position(described["position"])
            present = _snapshot(tensors, described["present"], _PRESENT)
            best = described["best"]
            if best is not None:
                best = present if best == "present" else _snapshot(tensors, best, _BEST)
            records = int(described["records"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path}: expected a checkpoint of this study; received something else "
                f"({type(error).__name__}: {error})"
            ) from error
        self._begin_history(records)
        return position, present, best

    def _begin_history(self, records: int | None) -> None:
        """Drop records made after the checkpoint; all of them if there is none."""
        if not self._writes:
            return
        path = self._directory / HISTORY
        if records is None:
            path.unlink(missing_ok=True)
            self.history = History.create(path)
            return
        history = History.load(path)
        if len(history) < records:
            raise StudyError(
                f"{path}: expected at least {records} records, as the checkpoint was written after "
                f"so many; received {len(history)}. Start over with --fresh."
            )
        if len(history) > records:
            history[:records].save(path)
        self.history = History.load(path)

    def _path(self, name: CheckpointName) -> Path:
        if name == "best":
            return self._directory / BEST
        return self._directory / SNAPSHOTS / f"{name}.safetensors"

    def _write(self, path: Path, content: Callable[[], bytes]) -> None:
        if self._writes:
            write_atomically(path, content())

    def _read(self, path: Path) -> tuple[dict[str, Any], dict[str, str]]:
        content = read_bytes(path)
        try:
            return self._unpack(content)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error


def read_position(directory: Path) -> Position | None:
    """Position at which a study would resume; None if there is no readable checkpoint."""
    try:
        entries = metadata_in(header_of_file(directory / CHECKPOINT))
        return _position(json.loads(entries[CHECKPOINT_KEY])["position"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _position(values: Mapping[str, Any]) -> Position:
    return Position(**{**values, "stage": StudyStage(values["stage"])})


def _flat(snapshot: Snapshot, prefix: str = "") -> tuple[dict[str, Any], dict[str, str]]:
    """A snapshot's tensors with their names in a file, and the rest of it as text."""
    tensors = {prefix + name: tensor for name, tensor in snapshot.tensors.items()}
    for mark, more in _beside(snapshot.optimizer, snapshot.average):
        tensors |= {f"{prefix}{mark}{name}": tensor for name, tensor in more.items()}
    entries = {METADATA_KEY: snapshot.cut.to_json()}
    if snapshot.settings is not None:
        entries[_OPTIMIZER_KEY] = json.dumps(snapshot.settings)
    return tensors, entries


def _snapshot(tensors: Mapping[str, Any], entries: Mapping[str, str], prefix: str = "") -> Snapshot:
    """The inverse of ``_flat``."""
    named = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    optimizer: dict[str, Any] = {}
    average: dict[str, Any] = {}
    for mark, more in _beside(optimizer, average):
        for name in [name for name in named if name.startswith(mark)]:
            more[name.removeprefix(mark)] = named.pop(name)
    settings = json.loads(entries[_OPTIMIZER_KEY]) if _OPTIMIZER_KEY in entries else None
    cut = Cut.from_json(entries[METADATA_KEY])
    return Snapshot(named, cut, optimizer, settings, average)


def _beside(optimizer: _Tensors, average: _Tensors) -> tuple[tuple[str, _Tensors], ...]:
    """Prefix of the names in a file, and tensors, of each part besides the model's own tensors."""
    return (_OPTIMIZER_PREFIX, optimizer), (_AVERAGE_PREFIX, average)
