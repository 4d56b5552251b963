"""Study directories: creating, opening, and starting over."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from secateurs.arguments import PATH, takes
from secateurs.channels.cut import FORMAT as CUT_FORMAT
from secateurs.channels.file_size import METADATA_KEY
from secateurs.errors import StudyError
from secateurs.files import find_temporaries, remove_temporaries
from secateurs.settings.study import Configuration
from secateurs.study.disk_store import (
    BEST,
    CHECKPOINT,
    CHECKPOINT_KEY,
    CONFIGURATION,
    CUTS,
    HISTORY,
    REPORT,
    SNAPSHOTS,
    TRACKING,
)
from secateurs.study.history import History
from secateurs.study.lock import LOCK, occupy
from secateurs.study.ownership import (
    Recognize,
    is_drawn,
    is_event_log,
    is_history,
    is_json_of,
    is_safetensors_with,
    is_settings_of_ours,
    remove_files,
)

# In the order of removal, so that an interruption leaves the most valuable files.
_WRITTEN: dict[str, Recognize] = {
    CHECKPOINT: is_safetensors_with(CHECKPOINT_KEY),
    HISTORY: is_history,
    BEST: is_safetensors_with(METADATA_KEY),
    f"{CUTS}/round-[0-9][0-9][0-9]*.json": is_json_of(CUT_FORMAT),
    **{
        f"{SNAPSHOTS}/{name}.safetensors": is_safetensors_with(METADATA_KEY)
        for name in ("dense", "rewind")
    },
    **{
        f"{REPORT}/{name}": is_drawn
        for name in (
            "report.html",
            *(
                f"{figure}.{kind}"
                for figure in ("accuracy", "size", "speed", "widths")
                for kind in ("png", "svg")
            ),
        )
    },
    f"{TRACKING}/**/events.out.tfevents.*": is_event_log,
    f"{TRACKING}/**/hparams.yml": is_settings_of_ours,
    CONFIGURATION: is_json_of("secateurs-study"),
}

_NUMBERED = re.compile(r"(functional|sequential)(_\d+)?")
"""Names that Keras gives to models without one."""


class Study:
    """A study on disk.

    Attributes:
        directory: its directory.
        configuration: its settings.
    """

    def __init__(self, directory: Path, configuration: Configuration) -> None:
        self.directory = directory
        self.configuration = configuration

    @classmethod
    @takes(directory=PATH)
    def open(cls, directory: str | Path) -> Self:
        """Open an existing study for reading.

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
    @contextmanager
    def hold(
        cls, directory: str | Path, configuration: Configuration, *, fresh: bool = False
    ) -> Iterator[Self]:
        """Create a study, or resume one with the same configuration, under an exclusive lock.

        A study whose end is set later than before is resumed as well: with more rounds, a looser
        tolerance, more patience, or another budget.

        If it fails before anything can be resumed from, it is removed again.

        Args:
            directory: created if it does not exist.
            configuration: settings of the study.
            fresh: remove an existing study first.

        Raises:
            StudyError: the directory holds another study, or something else, cannot be written, or
                is in use by another process.
        """
        place = Path(directory)

        def begin() -> bool:
            begun = _clear(place, configuration, fresh=fresh)
            if begun or Study.open(place).configuration != configuration:  # or it is extended
                configuration.save(place / CONFIGURATION)
            return begun

        def give_up() -> None:
            if not (place / CHECKPOINT).exists():
                remove(place)

        with occupy(
            place,
            refuse=lambda: _refuse(place, configuration, fresh=fresh),
            begin=begin,
            give_up=give_up,
        ):
            yield cls(place, configuration)

    @property
    def history(self) -> History:
        """The history so far."""
        path = self.directory / HISTORY
        return History.load(path) if path.exists() else History()

    @property
    def has_ended(self) -> bool:
        """Whether the study has ended."""
        return self.history.ending is not None

    @property
    def best(self) -> Path:
        """Path of the study's result, or of the best model so far."""
        best = self.directory / BEST
        return best if best.exists() else self.directory / SNAPSHOTS / "dense.safetensors"

    def report(self) -> Path:
        """Draw the figures and write the report page; returns its path."""
        from secateurs import report

        settings = self.configuration.model_dump(mode="json", exclude={"format", "version"})
        return report.write(self.history, self.directory / REPORT, configuration=settings)


def remove(directory: Path) -> bool:
    """Remove the study in a directory, and nothing else in it.

    Returns:
        Whether there was one.

    Raises:
        StudyError: a file has the name of a study's file but other content (nothing is removed
            then), or a file cannot be removed.
    """
    if not (directory / CONFIGURATION).exists():
        return False
    remove_files(directory, _WRITTEN)
    return True


def _clear(place: Path, configuration: Configuration, *, fresh: bool) -> bool:
    """Prepare a directory; returns whether a new study is to begin, removing an old one if asked.

    Raises:
        StudyError: there is another study, or something else.
    """
    if fresh and remove(place):
        return True
    _refuse(place, configuration, fresh=False)
    if (place / CONFIGURATION).exists():
        for folder in (place, place / CUTS, place / SNAPSHOTS, place / REPORT):
            remove_temporaries(folder)
        return False
    remove_temporaries(place, CONFIGURATION)
    return True


def _refuse(place: Path, configuration: Configuration, *, fresh: bool) -> None:
    """Check, before anything is written, whether this study may use the directory."""
    try:
        is_study, is_there = (place / CONFIGURATION).exists(), place.exists()
    except (OSError, ValueError):
        return  # not a valid name of a directory; creating it raises
    if is_study and not fresh:
        _refuse_another(Study.open(place), configuration)
    elif is_there and not is_study:
        _refuse_something_else(place)


def _refuse_another(study: Study, configuration: Configuration) -> None:
    every = study.configuration.differences(configuration)
    tighter = configuration.stop.list_tighter(study.configuration.stop)
    if tighter:
        raise StudyError(
            f"{study.directory}: expected no fewer rounds, no tighter tolerance and no less "
            f"patience than the study there had; received {'; '.join(tighter)}. Continue it as it "
            f"was: --resume {study.directory}; or start over in its place: --fresh."
        )
    differences = [one for one in every if not one.startswith("stop.")]
    if differences:
        raise StudyError(
            f"{study.directory}: holds another study ({'; '.join(differences)}). Continue it: "
            f"--resume {study.directory}; start over in its place: --fresh; or choose another "
            f"directory.{_hint_of_numbered_names(study.configuration, configuration)}"
        )


def _hint_of_numbered_names(before: Configuration, now: Configuration) -> str:
    """What to do where Keras has numbered an unnamed model, and its layers, anew."""
    names = (before.task.model, now.task.model)
    if names[0] == names[1] or not all(map(_NUMBERED.fullmatch, names)):
        return ""
    return (
        " Keras numbers unnamed models and layers anew in one process: call "
        "keras.utils.clear_session() before the model is built again, or name them."
    )


def _refuse_something_else(directory: Path) -> None:
    try:
        ours = {LOCK, *(path.name for path in find_temporaries(directory, CONFIGURATION))}
        found = sorted({path.name for path in directory.iterdir()} - ours)
    except OSError as error:
        raise StudyError(f"{directory}: cannot be used: {error.strerror or error}") from error
    if found:
        shown = f"{', '.join(found[:3])}{', ...' if len(found) > 3 else ''}"
        raise StudyError(
            f"{directory}: expected an empty or a new directory, or a study's; received one that "
            f"holds {shown}"
        )
