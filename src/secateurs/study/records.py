"""Validation of a history's records before figures or decisions are based on them.

Each line of a history is JSON with a checksum, but a file may still come from anywhere: edited by
hand, from another release, or written by other software.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secateurs.arguments import format_value
from secateurs.errors import StudyError
from secateurs.study.history import History, Record
from secateurs.training.metric import Metric

_SIZES = ("channels", "params", "macs", "bytes")
_WHOLE: Mapping[str, tuple[str, ...]] = {
    "dense": ("round", "batch", *_SIZES),
    "prune": ("round", "batch", *_SIZES),
    "train": ("round", "batch"),
    "speed": ("round",),
}
"""Kind of record -> required fields that are non-negative integers."""

_NUMBERS: Mapping[str, tuple[str, ...]] = {
    "speed": ("ratio", "images_per_second", "dense_images_per_second", "low", "high"),
}
"""Kind of record -> further required fields that are numbers."""

_OPTIONAL = (
    *("loss", "validation_loss", "learning_rate", "seconds", "max_difference", "tolerance"),
    *("accuracy", "value", "dense_accuracy", "dense_value", "test_accuracy", "test_value"),
    *("dense_test_accuracy", "dense_test_value", "best_round", "removed", "threads", "batch_size"),
)
"""Optional fields that are numbers in any kind of record."""

MOST = 2**63
"""Upper bound of any number that a study writes."""


def check_records(history: History) -> None:
    """Check that all records have the fields of their kind.

    Raises:
        StudyError: one does not; the message says which, and what it should hold.
    """
    for number, record in enumerate(history, start=1):
        _check_record(record, f"record {number} of the history, of kind {record.get('kind')!r}")
    dense = history.last("dense")
    if dense is not None:
        _check_metric(dense.get("metric"))


def _check_record(record: Record, place: str) -> None:
    kind = str(record.get("kind"))
    for name in _WHOLE.get(kind, ()):
        value = record.get(name)
        _require(_is_count(value), place, name, "a whole number", value)
    for name in _NUMBERS.get(kind, ()):
        _require(_is_number(record.get(name)), place, name, "a number", record.get(name))
    for name in _OPTIONAL:
        value = record.get(name)
        _require(value is None or _is_number(value), place, name, "a number", value)
    widths = record.get("widths", {})
    fine = isinstance(widths, dict) and all(_is_whole(width) for width in widths.values())
    _require(fine, place, "widths", "a whole number for each layer", widths)
    notes = record.get("inexact") or []
    fine = isinstance(notes, list) and all(isinstance(note, str) for note in notes)
    _require(fine, place, "inexact", "a list of texts", notes)


def _check_metric(fields: Any) -> None:
    try:
        Metric.of({"metric": fields})
        fine = fields is None or (
            isinstance(fields, Mapping) and isinstance(fields.get("name", ""), str)
        )
    except TypeError:
        fine = False
    _require(fine, "the history's record of kind 'dense'", "metric", "a metric", fields)


def _require(fine: bool, place: str, name: str, wanted: str, value: object) -> None:
    if not fine:
        raise StudyError(
            f"{place}: expected {name} to be {wanted}; received {format_value(value)}. The line "
            "was changed, or written by something else: correct or delete it."
        )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < MOST


def _is_count(value: Any) -> bool:
    return _is_whole(value) and int(value) >= 0


def _is_number(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, float)
