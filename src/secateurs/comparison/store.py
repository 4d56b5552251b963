"""A comparison on disk, which can be killed at any time and resumes from what is there.

Its directory holds::

    comparison.json           its settings
    dense/seed-0.safetensors  a seed's dense model; ``secateurs.load`` reads it
    dense/seed-0.json         facts about it
    jobs/NAME.json            result of a job
    results.csv, results.json every job, one per row
    summary.csv, summary.tex  mean and spread over seeds
    paired.csv                differences between strategies within seeds, with their intervals
    *.png, *.svg, compare.html

Each file is written atomically, so exactly the jobs that have a file are done.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from secateurs.channels.file_size import METADATA_KEY
from secateurs.comparison.job_runner import DenseResult, Outcome
from secateurs.comparison.settings import Comparison, Job
from secateurs.errors import StudyError
from secateurs.files import open_json, remove_temporaries, seal_json, write_atomically
from secateurs.study.lock import LOCK, occupy
from secateurs.study.ownership import (
    Recognize,
    is_json_of,
    is_json_with,
    is_safetensors_with,
    remove_files,
)

COMPARISON = "comparison.json"
DENSE = "dense"
JOBS = "jobs"
_WRITTEN: dict[str, Recognize] = {
    f"{JOBS}/*.json": is_json_with("strategy", "amount", "seed"),
    f"{DENSE}/seed-*.json": is_json_with("seed", "norms"),
    f"{DENSE}/seed-*.safetensors": is_safetensors_with(METADATA_KEY),
    COMPARISON: is_json_of("secateurs-comparison"),
}

Stored = TypeVar("Stored", DenseResult, Outcome)


@dataclass(frozen=True, slots=True)
class ResultStore:
    """The files of one comparison.

    Attributes:
        directory: directory of the comparison.
        comparison: its settings.
    """

    directory: Path
    comparison: Comparison

    @classmethod
    def open(cls, directory: str | Path) -> Self:
        """Open an existing comparison.

        Raises:
            StudyError: there is none.
        """
        place = Path(directory)
        if not (place / COMPARISON).exists():
            raise StudyError(
                f"{place}: expected a comparison's directory; there is no {COMPARISON} in it. "
                f"Begin one with: secateurs compare --directory {place} ..."
            )
        return cls(place, Comparison.load(place / COMPARISON))

    @classmethod
    def begin(cls, directory: str | Path, comparison: Comparison, *, fresh: bool = False) -> Self:
        """Create a comparison, or resume one; strategies, amounts and seeds may be added.

        Args:
            directory: created if it does not exist.
            comparison: settings of the comparison.
            fresh: whether to start over if the directory holds one.

        Raises:
            StudyError: the directory holds a comparison with other settings, or something else.
        """
        place = Path(directory)
        _refuse(place, comparison, fresh=fresh)
        if fresh and (place / COMPARISON).exists():
            remove_files(place, _WRITTEN)
        for folder in (place, place / DENSE, place / JOBS):
            remove_temporaries(folder)
        comparison.save(place / COMPARISON)
        return cls(place, comparison)

    @classmethod
    @contextmanager
    def hold(
        cls, directory: str | Path, comparison: Comparison, *, fresh: bool = False
    ) -> Iterator[Self]:
        """``begin`` with an exclusive lock for the duration of the context.

        If it fails before anything is done, it is removed again.
        """
        place = Path(directory)

        def begin() -> bool:
            is_new = fresh or not (place / COMPARISON).exists()
            cls.begin(place, comparison, fresh=fresh)
            return is_new

        def give_up() -> None:
            if not any((place / DENSE).glob("*.json")):
                remove_files(place, _WRITTEN)

        with occupy(
            place,
            refuse=lambda: _refuse(place, comparison, fresh=fresh),
            begin=begin,
            give_up=give_up,
        ):
            yield cls(place, comparison)

    def keep_dense(self, dense: DenseResult, content: bytes) -> None:
        """Store a seed's dense model."""
        place = self._dense(dense.seed)
        write_atomically(place.with_suffix(".safetensors"), content)
        write_atomically(place.with_suffix(".json"), _json(dense))

    def dense(self, seed: int) -> DenseResult | None:
        """Facts about a seed's dense model, if it has been trained."""
        return _read(DenseResult, self._dense(seed).with_suffix(".json"))

    def dense_content(self, seed: int) -> bytes:
        """The weights of a seed's dense model, as a safetensors file."""
        return self._dense(seed).with_suffix(".safetensors").read_bytes()

    def keep(self, outcome: Outcome) -> None:
        """Store the result of a job."""
        write_atomically(self._job(outcome.job), _json(outcome))

    def outcome(self, job: Job) -> Outcome | None:
        """The result of a job, if it is done."""
        return _read(Outcome, self._job(job))

    @property
    def outcomes(self) -> list[Outcome]:
        """Results of all completed jobs."""
        found = (self.outcome(job) for job in self.comparison.jobs)
        return [outcome for outcome in found if outcome is not None]

    @property
    def denses(self) -> list[DenseResult]:
        """The dense models that have been trained."""
        seeds = dict.fromkeys(job.seed for job in self.comparison.jobs)
        return [dense for dense in map(self.dense, seeds) if dense is not None]

    def _dense(self, seed: int) -> Path:
        return self.directory / DENSE / f"seed-{seed}"

    def _job(self, job: Job) -> Path:
        return self.directory / JOBS / f"{job.name}.json"


def _json(result: DenseResult | Outcome) -> bytes:
    return seal_json(asdict(result)).encode()


def _read(kind: type[Stored], path: Path) -> Stored | None:
    if not path.exists():
        return None
    try:
        values: dict[str, Any] = open_json(path.read_bytes())
        return kind(**values)
    except (OSError, ValueError, TypeError) as error:
        raise StudyError(
            f"{path}: cannot be read as a comparison's result: {error}. Delete it to repeat the "
            "job."
        ) from error


def _refuse(place: Path, comparison: Comparison, *, fresh: bool) -> None:
    """Check, before anything is written, whether this comparison may use the directory."""
    try:
        is_one, is_there = (place / COMPARISON).exists(), place.is_dir()
    except (OSError, ValueError):
        return  # not a valid name of a directory; creating it raises
    if is_one and not fresh:
        _refuse_another(ResultStore.open(place), comparison)
    elif is_there and not is_one and any(path.name != LOCK for path in place.iterdir()):
        raise StudyError(
            f"{place}: expected an empty or a new directory, or a comparison's; received one "
            "that holds something else"
        )


def _refuse_another(ledger: ResultStore, comparison: Comparison) -> None:
    free = ("strategies", "amounts", "seeds")
    same = comparison.model_copy(update={name: getattr(ledger.comparison, name) for name in free})
    differences = ledger.comparison.differences(same)
    if differences:
        raise StudyError(
            f"{ledger.directory}: holds another comparison ({'; '.join(differences)}). Start over "
            "in its place: --fresh; or choose another directory."
        )
