"""Experiment trackers (TensorBoard, Weights & Biases, MLflow, ...), told through Accelerate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from secateurs.arguments import takes_as_annotated
from secateurs.errors import SecateursError, UnknownNameError, nearest
from secateurs.training.callbacks import Relay, Watcher


class TrackingWatcher(Relay):
    """Another watcher, and what it is told, logged: a number a record's field, as ``train/loss``.

    Steps are batches of training. Trackers are Accelerate's, registered ones of the user's among
    them.

    Args:
        watcher: told first.
        names: of trackers: tensorboard, wandb, mlflow, ...
        run: what the study is called there.
        directory: where trackers write that keep files here.
        settings: of the study, nested; logged once.

    Raises:
        UnknownNameError: there is no such tracker.
        SecateursError: its package is not installed, or it cannot be begun.
    """

    @takes_as_annotated(SecateursError)
    def __init__(
        self,
        watcher: Watcher,
        names: Sequence[str],
        run: str,
        directory: Path,
        settings: Mapping[str, Any],
    ) -> None:
        super().__init__(watcher)
        self._trackers = _begin(names, run, directory, dict(_flatten(settings)))
        self._batch = 0

    def recorded(self, record: dict[str, Any]) -> None:
        """The history has a new record: its numbers are logged."""
        super().recorded(record)
        self._batch = int(record.get("batch", self._batch))
        numbers = {
            f"{record['kind']}/{name}": value
            for name, value in record.items()
            if _is_number(value) and name not in ("batch", "seed")
        }
        for tracker in self._trackers:
            tracker.log(numbers, step=self._batch)

    def finish(self) -> None:
        """Nothing more comes."""
        for tracker in self._trackers:
            tracker.finish()


@takes_as_annotated(SecateursError)
def check_trackers(names: Sequence[str]) -> None:
    """Refuse names of trackers that are none, or that are not installed.

    Raises:
        UnknownNameError: there is no such tracker.
        SecateursError: its package is not installed.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, filter_trackers

    known = sorted(map(str, LOGGER_TYPE_TO_CLASS))
    for name in names:
        if name not in known:
            raise UnknownNameError(f"track: no tracker {name!r}{nearest(name, known)}")
        if not filter_trackers([name], "."):
            raise SecateursError(
                f"track: expected a tracker that is installed; received {name!r}. pip install "
                f"{name}"
            )


def _begin(
    names: Sequence[str], run: str, directory: Path, settings: Mapping[str, Any]
) -> list[Any]:
    """The trackers, begun, told the settings."""
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    check_trackers(names)
    PartialState()  # trackers ask it which process they are in
    begun = []
    for name in dict.fromkeys(names):
        kind = next(one for key, one in LOGGER_TYPE_TO_CLASS.items() if str(key) == name)
        places = (str(directory),) if kind.requires_logging_directory else ()
        try:
            tracker = kind(run, *places)
            if hasattr(tracker, "start"):  # older ones begin as they are made
                tracker.start()
            tracker.store_init_configuration(dict(settings))
        except Exception as error:
            raise SecateursError(
                f"track: expected {name} to begin; it raised {type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}"
            ) from error
        begun.append(tracker)
    return begun


def _flatten(values: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    """('training.batches', 500), ... of nested settings; what is no number is text."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{before}{name}.")
        elif isinstance(value, bool | int | float | str):
            yield f"{before}{name}", value
        elif value is not None:
            yield f"{before}{name}", str(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
