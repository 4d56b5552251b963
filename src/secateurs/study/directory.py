"""A study on disk, and carrying one out.

A study's directory holds::

    config.json               what it was told
    history.jsonl             what happened
    checkpoint.safetensors    all that is needed to go on
    best.safetensors          the smallest model within the tolerance so far; ``secateurs.load``
    cuts/round-001.json       what each round removed from the model before it
    snapshots/*.safetensors   the dense model; the values that rounds are taken back to
    report/                   figures and report.html

Each file is whole or not there. The checkpoint is what counts: the rest is either made again from
it, or, like the last lines of the history, dropped when the study goes on from it.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from secateurs.channels.cut import Cut
from secateurs.channels.file_size import METADATA_KEY, metadata
from secateurs.channels.network import Network
from secateurs.channels.proof import CutReport, keep_report_
from secateurs.criteria.group_data import GroupData
from secateurs.errors import CheckpointError, StudyError
from secateurs.files import read_bytes, remove_temporaries, write_atomically
from secateurs.settings.configuration import Configuration, Pruning, Stop, Task, Training
from secateurs.study.checkpoints import (
    CheckpointStore,
    InMemoryStore,
    Name,
    Position,
    Stage,
    last_proof,
)
from secateurs.study.history import History
from secateurs.study.loop import Loop, check
from secateurs.training.callbacks import Watcher
from secateurs.training.learner import Learner, Snapshot

CONFIGURATION = "config.json"
HISTORY = "history.jsonl"
CHECKPOINT = "checkpoint.safetensors"
BEST = "best.safetensors"
CUTS = "cuts"
SNAPSHOTS = "snapshots"
REPORT = "report"
# In the order in which they may go: what is gone first is missed least.
_OWN = (CHECKPOINT, HISTORY, BEST, CUTS, SNAPSHOTS, REPORT, CONFIGURATION)

_CHECKPOINT_KEY = "secateurs-checkpoint"
_CHECKPOINT_VERSION = 1
_OPTIMIZER_KEY = "optimizer"
_OPTIMIZER_PREFIX = "optimizer:"
_PRESENT, _BEST = "present:", "best:"


class Study:
    """A study on disk.

    Attributes:
        directory: where it is.
        configuration: what it was told.
    """

    def __init__(self, directory: Path, configuration: Configuration) -> None:
        self.directory = directory
        self.configuration = configuration

    @classmethod
    def open(cls, directory: str | Path) -> Self:
        """A study that was begun, for reading.

        Raises:
            StudyError: there is none, or its configuration cannot be read.
        """
        place = Path(directory)
        if not (place / CONFIGURATION).exists():
            raise StudyError(
                f"{place}: expected a study's directory; there is no {CONFIGURATION} in it. "
                f"Begin one with: secateurs run --directory {place} ..."
            )
        return cls(place, Configuration.load(place / CONFIGURATION))

    @classmethod
    def begin(
        cls, directory: str | Path, configuration: Configuration, *, fresh: bool = False
    ) -> Self:
        """A new study, or one of the same configuration that goes on.

        Args:
            directory: made if it is not there.
            configuration: what it is told.
            fresh: remove a study that is there already.

        Raises:
            StudyError: the directory holds another study, or something else, or cannot be written.
        """
        place = Path(directory)
        if fresh and remove(place):
            return cls._begun(place, configuration)
        if (place / CONFIGURATION).exists():
            study = cls.open(place)
            _refuse_another(study, configuration)
            remove_temporaries(place)
            return study
        remove_temporaries(place, CONFIGURATION)
        _refuse_something_else(place)
        return cls._begun(place, configuration)

    @classmethod
    def _begun(cls, place: Path, configuration: Configuration) -> Self:
        write_atomically(place / CONFIGURATION, configuration.to_json().encode())
        return cls(place, configuration)

    @property
    def history(self) -> History:
        """What has happened so far."""
        path = self.directory / HISTORY
        return History.load(path) if path.exists() else History()

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing left to do."""
        return self.history.last("stop") is not None

    @property
    def best(self) -> Path:
        """The file of the study's result, or of the best so far."""
        best = self.directory / BEST
        return best if best.exists() else self.directory / SNAPSHOTS / "dense.safetensors"

    def report(self) -> Path:
        """Draw its figures and write its page; the page's path."""
        from secateurs import report

        settings = self.configuration.model_dump(mode="json", exclude={"format", "version"})
        return report.write(self.history, self.directory / REPORT, configuration=settings)


def remove(directory: Path) -> bool:
    """Remove the study in a directory, and nothing else in it.

    Returns:
        Whether there was one.

    Raises:
        StudyError: a file cannot be removed.
    """
    if not (directory / CONFIGURATION).exists():
        return False
    remove_temporaries(directory)
    try:
        for name in _OWN:
            path = directory / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise StudyError(f"{error.filename}: cannot be removed: {error.strerror}") from error
    return True


def _refuse_another(study: Study, configuration: Configuration) -> None:
    differences = study.configuration.differences(configuration)
    if differences:
        raise StudyError(
            f"{study.directory}: holds another study ({'; '.join(differences)}). "
            f"Go on with it: --resume {study.directory}; start over in its place: --fresh; or "
            "choose another directory."
        )


def _refuse_something_else(directory: Path) -> None:
    try:
        found = sorted(path.name for path in directory.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise StudyError(f"{directory}: cannot be used: {error.strerror or error}") from error
    if found:
        shown = f"{', '.join(found[:3])}{', ...' if len(found) > 3 else ''}"
        raise StudyError(
            f"{directory}: expected an empty or a new directory, or a study's; received one that "
            f"holds {shown}"
        )


class DiskStore:
    """A study's files as a loop's journal."""

    def __init__(self, directory: Path, learner: Learner) -> None:
        self._directory = directory
        self._pack, self._unpack = learner.pack, learner.unpack
        self._writes = learner.is_main
        self.history = History()

    def keep(self, name: Name, snapshot: Snapshot) -> None:
        tensors, said = _flat(snapshot)
        self._write(self._path(name), lambda: self._pack(tensors, metadata(snapshot.cut) | said))

    def fetch(self, name: Name) -> Snapshot:
        tensors, said = self._read(self._path(name))
        return _snapshot(tensors, said)

    def keep_cut(self, number: int, cut: Cut) -> None:
        path = self._directory / CUTS / f"round-{number:03}.json"
        self._write(path, lambda: cut.to_json().encode())

    def checkpoint(
        self, position: Position, present: Callable[[], Snapshot], best: Snapshot | None
    ) -> None:
        if not self._writes:
            return
        now = present()
        tensors, said = _flat(now, _PRESENT)
        describe_task: dict[str, Any] = {
            "version": _CHECKPOINT_VERSION,
            "position": asdict(position),
            "records": len(self.history),
            "present": said,
            "best": None,
        }
        if best is now:
            describe_task["best"] = "present"
        elif best is not None:
            more, describe_task["best"] = _flat(best, _BEST)
            tensors |= more
        content = self._pack(tensors, {"format": "pt", _CHECKPOINT_KEY: json.dumps(describe_task)})
        write_atomically(self._directory / CHECKPOINT, content)

    def resume(self) -> tuple[Position, Snapshot, Snapshot | None] | None:
        path = self._directory / CHECKPOINT
        if not path.exists():
            self._begin_history(None)
            return None
        tensors, said = self._read(path)
        try:
            describe_task = json.loads(said[_CHECKPOINT_KEY])
            if describe_task["version"] != _CHECKPOINT_VERSION:
                raise CheckpointError(
                    f"{path}: expected version {_CHECKPOINT_VERSION} of a checkpoint; received "
                    f"version {describe_task['version']!r}"
                )
            values = describe_task["position"]
            position = Position(**(values | {"stage": Stage(values["stage"])}))
            present = _snapshot(tensors, describe_task["present"], _PRESENT)
            best = describe_task["best"]
            if best is not None:
                best = present if best == "present" else _snapshot(tensors, best, _BEST)
            records = int(describe_task["records"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path}: expected a checkpoint of this study; received something else "
                f"({type(error).__name__}: {error})"
            ) from error
        self._begin_history(records)
        return position, present, best

    def _begin_history(self, records: int | None) -> None:
        """Drop what was recorded after the checkpoint, all of it where there was none."""
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

    def _path(self, name: Name) -> Path:
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


def _flat(snapshot: Snapshot, prefix: str = "") -> tuple[dict[str, Any], dict[str, str]]:
    """A snapshot's tensors under names of a file, and the rest of it as text."""
    tensors = {prefix + name: tensor for name, tensor in snapshot.tensors.items()}
    for name, tensor in snapshot.optimizer.items():
        tensors[f"{prefix}{_OPTIMIZER_PREFIX}{name}"] = tensor
    said = {METADATA_KEY: snapshot.cut.to_json()}
    if snapshot.settings is not None:
        said[_OPTIMIZER_KEY] = json.dumps(snapshot.settings)
    return tensors, said


def _snapshot(tensors: Mapping[str, Any], said: Mapping[str, str], prefix: str = "") -> Snapshot:
    """What ``_flat`` was given."""
    own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    optimizer = {
        name.removeprefix(_OPTIMIZER_PREFIX): own.pop(name)
        for name in list(own)
        if name.startswith(_OPTIMIZER_PREFIX)
    }
    settings = json.loads(said[_OPTIMIZER_KEY]) if _OPTIMIZER_KEY in said else None
    return Snapshot(own, Cut.from_json(said[METADATA_KEY]), optimizer, settings)


@dataclass(frozen=True, slots=True)
class Iterated:
    """What ``iterate`` gives.

    Attributes:
        model: the smallest model within the tolerance; the dense one where no round recovered.
        cut: everything that was removed from the dense model.
        report: the cut, and the proof of the last of its rounds.
        history: what happened.
        directory: of the study, if it is on disk; its page is ``report/report.html``.
    """

    model: Any
    cut: Cut
    report: CutReport
    history: History
    directory: Path | None


@dataclass(frozen=True, slots=True)
class Sources:
    """What to train on, to choose by, and to report; see ``secateurs.iterate``."""

    train: Any
    validation: Any
    test: Any = None


def run_study(
    model: Any,
    sources: Sources,
    *,
    training: Training,
    pruning: Pruning,
    stop: Stop,
    task: Task | None = None,
    command: tuple[str, ...] = (),
    criterion: str | Callable[[GroupData], Any] | None = None,
    loss: Callable[[Any, Any], Any] | None = None,
    directory: str | Path | None = None,
    fresh: bool = False,
    watcher: Watcher | None = None,
) -> Iterated:
    """Carry a study out, or what is left of it. ``secateurs.iterate`` and the command line do this.

    Args:
        model: the dense model; unchanged.
        sources: the data.
        training: how to train.
        pruning: what each round removes.
        stop: when to end.
        task: what the model and the data are called; None describes them.
        command: the command line, for the report.
        criterion: the one ``pruning`` names, if it is a function of the user's.
        loss: of each image, for criteria that need one; None is cross-entropy.
        directory: where the study is kept; None keeps nothing.
        fresh: start over where the directory holds a study.
        watcher: told what happens.
    """
    from secateurs.backends import backend_of

    learner: Learner = backend_of(model).Learner(
        model, sources.train, sources.validation, sources.test, training
    )
    wanted = criterion or pruning.criterion
    configuration = Configuration(
        task=task or Task(model="", data=""), training=training, pruning=pruning, stop=stop
    )
    network = check(learner, configuration, wanted)
    if task is None:
        task = describe_task(network, learner, sources)
    configuration = configuration.model_copy(update={"task": task, "command": command})
    journal = _journal(directory, configuration, learner, fresh)
    watcher = (watcher or Watcher()) if learner.is_main else Watcher()
    position = Loop(learner, journal, configuration, wanted, watcher, loss).run()
    report = CutReport(learner.cut, last_proof(position))
    small = learner.release()
    keep_report_(small, report)
    if directory is not None and learner.is_main:
        Study.open(directory).report()
    place = None if directory is None else Path(directory)
    return Iterated(small, report.cut, report, journal.history, place)


def _journal(
    directory: str | Path | None, configuration: Configuration, learner: Learner, fresh: bool
) -> CheckpointStore:
    if directory is None:
        return InMemoryStore()
    place = Path(directory)
    learner.agree(lambda: str(Study.begin(place, configuration, fresh=fresh).directory))
    return DiskStore(place, learner)


def describe_task(network: Network, learner: Learner, sources: Sources) -> Task:
    """What can be said of a model and data that have no name."""
    shapes = sorted((tensor.name, tensor.shape) for tensor in network.tensors.values())
    return Task(
        model=network.name,
        model_options={
            "parameters": network.params(),
            "shapes": f"{zlib.crc32(json.dumps(shapes).encode()):08x}",
        },
        data=type(sources.train).__name__,
        data_options={
            "batches": learner.batches_an_epoch,
            "validation_batches": learner.batches_of("validation"),
        },
    )
