"""Log to experiment trackers (TensorBoard, Weights & Biases, MLflow, ...) through Accelerate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from secateurs.arguments import takes_as_annotated
from secateurs.errors import SecateursError, UnknownNameError, nearest
from secateurs.training.callbacks import Relay, Watcher


class TrackingWatcher(Relay):
    """Wraps another watcher and logs every number of a record, under names like ``train/loss``.

    Steps are training batches. Trackers are Accelerate's, including ones that the user has
    registered.

    Args:
        watcher: wrapped watcher, called first.
        names: names of trackers: tensorboard, wandb, mlflow, ...
        run: name of the study in the trackers.
        directory: directory for trackers that write files.
        settings: nested settings of the study, logged once.

    Raises:
        UnknownNameError: there is no such tracker.
        SecateursError: its package is not installed, or it cannot be started.
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
        """Log the numbers of a new record of the history."""
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
        """Close the trackers."""
        for tracker in self._trackers:
            tracker.finish()


@takes_as_annotated(SecateursError)
def check_trackers(names: Sequence[str]) -> None:
    """Refuse unknown trackers, and those that are not installed.

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
    """Start the trackers and log the settings."""
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    check_trackers(names)
    PartialState()  # trackers read the process index from it
    begun = []
    for name in dict.fromkeys(names):
        kind = next(one for key, one in LOGGER_TYPE_TO_CLASS.items() if str(key) == name)
        places = (str(directory),) if kind.requires_logging_directory else ()
        try:
            tracker = kind(run, *places)
            if hasattr(tracker, "start"):  # trackers of older versions start on creation
                tracker.start()
            tracker.store_init_configuration(dict(settings))
        except Exception as error:
            raise SecateursError(
                f"track: expected {name} to start; it raised {type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}"
            ) from error
        begun.append(tracker)
    return begun


def _flatten(values: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    """Flatten nested settings to ('training.batches', 500), ...; other types become text."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{before}{name}.")
        elif isinstance(value, bool | int | float | str):
            yield f"{before}{name}", value
        elif value is not None:
            yield f"{before}{name}", str(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
