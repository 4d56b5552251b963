"""Running a study, or resuming it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateurs.backends import backend_named
from secateurs.channels.cut import Cut
from secateurs.channels.proof import CutReport, keep_report_
from secateurs.criteria.group_data import GroupData
from secateurs.errors import SecateursError
from secateurs.settings.study import Configuration
from secateurs.study.check import check_study
from secateurs.study.checkpoints import CheckpointStore, InMemoryStore
from secateurs.study.defaults import complete_pruning, complete_training
from secateurs.study.directory import Study
from secateurs.study.disk_store import TRACKING, DiskStore
from secateurs.study.history import History
from secateurs.study.learning import learner_of, learning_named
from secateurs.study.loop import Loop
from secateurs.study.position import proof_of
from secateurs.study.sources import Sources, describe_task
from secateurs.training.callbacks import Watcher
from secateurs.training.learner import Learner
from secateurs.training.task import LearningTask


@dataclass(frozen=True, slots=True)
class Iterated:
    """Result of ``iterate``.

    Attributes:
        model: the smallest model within the tolerance; the initial one if no round recovered.
        cut: everything that was removed from the dense model, including before the study.
        report: the cut, and the proof of its last round.
        history: the history.
        directory: directory of the study, if it is on disk; its page is ``report/report.html``.
    """

    model: Any
    cut: Cut
    report: CutReport
    history: History
    directory: Path | None

    def __str__(self) -> str:
        return str(self.report)


def run_study(
    model: Any,
    sources: Sources,
    configuration: Configuration,
    *,
    criterion: Callable[[GroupData], Any] | None = None,
    loss: Callable[[Any, Any], Any] | None = None,
    directory: str | Path | None = None,
    fresh: bool = False,
    watcher: Watcher | None = None,
    learning: LearningTask | None = None,
    track: Sequence[str] = (),
) -> Iterated:
    """Run a study, or the rest of it. ``secateurs.iterate`` and the command line call this.

    Args:
        model: the initial model, dense or cut before; it is not changed.
        sources: the data.
        configuration: all settings; a task without a name is filled in.
        criterion: the criterion that ``configuration.pruning`` names, if it is a user's function.
        loss: loss of each image, for criteria that need one; None is cross-entropy.
        directory: directory of the study; None keeps nothing.
        fresh: whether to start over if the directory holds a study.
        watcher: callback for what happens.
        learning: the task, if it is not image classification.
        track: names of Accelerate trackers to log to as well: tensorboard, wandb, mlflow, ...

    Returns:
        The result. If the report cannot be drawn, there is a warning, and the result is returned.

    Raises:
        SecateursError: a setting cannot be met; raised before any training where possible.
    """
    _check_trackers(track)
    if learning is None:
        learning = learning_named(model, configuration.task)
    training = complete_training(configuration.training, configuration.pruning, learning)
    learner = learner_of(model, sources, training, learning, configuration.pruning.outputs)
    loss = loss or learner.loss  # criteria use the loss of training
    wanted = criterion or configuration.pruning.criterion
    network = check_study(learner, configuration, wanted)
    pruning = complete_pruning(configuration.pruning, learner, network)
    configuration = configuration.model_copy(update={"training": training, "pruning": pruning})
    if not configuration.task.model:
        task = describe_task(network, learner, sources)
        configuration = configuration.model_copy(update={"task": task})
    watcher = (watcher or Watcher()) if learner.is_main else Watcher()
    with (
        _store(directory, configuration, learner, fresh=fresh) as store,
        _track(watcher, track if learner.is_main else (), directory, configuration) as watcher,
    ):
        ranking = wanted or pruning.criterion
        position = Loop(learner, store, configuration, ranking, watcher, loss).run()
        if directory is not None and learner.is_main:
            _draw(Study(Path(directory), configuration))
    report = CutReport(learner.cut, proof_of(position))
    small = learner.release()
    keep_report_(small, report)
    return Iterated(small, report.cut, report, store.history, _place(directory))


def _place(directory: str | Path | None) -> Path | None:
    return None if directory is None else Path(directory)


@contextmanager
def _store(
    directory: str | Path | None, configuration: Configuration, learner: Learner, *, fresh: bool
) -> Iterator[CheckpointStore]:
    """The study's store. The main process holds its directory, and the others follow."""
    if directory is None:
        yield InMemoryStore()
        return
    place = Path(directory)
    with ExitStack() as stack:

        def hold() -> str:
            study = stack.enter_context(Study.hold(place, configuration, fresh=fresh))
            return str(study.directory)

        learner.agree(hold)
        yield DiskStore(place, learner)


@contextmanager
def _track(
    watcher: Watcher,
    track: Sequence[str],
    directory: str | Path | None,
    configuration: Configuration,
) -> Iterator[Watcher]:
    """The watcher with trackers beside it, which are finished in any case."""
    if not track:
        yield watcher
        return
    place = Path(directory or ".") / TRACKING
    task = configuration.task
    run = Path(directory).name if directory else f"{task.model}-{task.data}".replace("/", "-")
    settings = configuration.model_dump(mode="json", exclude={"command", "code", "format"})
    tracking = _tracking().TrackingWatcher(watcher, track, run, place, settings)
    try:
        yield tracking
    finally:
        tracking.finish()


def _check_trackers(track: Sequence[str]) -> None:
    if track:
        _tracking().check_trackers(track)


def _tracking() -> Any:
    """The package that uses Accelerate, whatever the framework of the model.

    Raises:
        SecateursError: it is not installed.
    """
    try:
        return backend_named("pytorch")
    except ModuleNotFoundError as error:
        raise SecateursError(
            f"track: needs {error.name}; pip install 'secateurs[torch]', whose Accelerate "
            "includes the trackers"
        ) from error


def _draw(study: Study) -> None:
    try:
        study.report()
    except Exception as error:  # noqa: BLE001 - fonts, disks or names can make a figure fail
        warnings.warn(
            f"{study.directory}: its report cannot be drawn ({' '.join(str(error).split())}). The "
            f"result is kept; try again with: secateurs report {study.directory}",
            stacklevel=4,
        )
