"""Records that a history accepts, and those that no study writes."""

import pytest

import secateurs as sec
from secateurs.report.summary import summarise
from secateurs.study.records import check_records

SIZES = {"channels": 9, "params": 90, "macs": 900, "bytes": 360}
DENSE = {"kind": "dense", "round": 0, "batch": 0, "widths": {"conv": 9}, **SIZES}
TRAIN = {"kind": "train", "round": 0, "batch": 4, "loss": 0.5, "accuracy": 0.8}
PRUNE = {"kind": "prune", "round": 1, "batch": 4, "removed": 3, "inexact": [], **SIZES}


def test_records_of_a_study_are_accepted():
    check_records(sec.History([DENSE, TRAIN, PRUNE, {"kind": "own", "round": "any"}]))
    assert summarise(sec.History([DENSE, TRAIN, PRUNE])).rounds[0].number == 1


@pytest.mark.parametrize(
    ("record", "change", "message"),
    [
        (DENSE, {"params": None}, "record 1 .*'dense': expected params to be a whole number"),
        (DENSE, {"params": 2**70}, "expected params to be a whole number"),
        (DENSE, {"macs": True}, "expected macs to be a whole number; received bool True"),
        (DENSE, {"widths": {"a": "9"}}, "widths to be a whole number for each layer"),
        (DENSE, {"metric": {"nome": "x"}}, "expected metric to be a metric"),
        (DENSE, {"metric": {"name": []}}, "expected metric to be a metric"),
        (TRAIN, {"round": [1]}, "record 2 .*'train': expected round .*received list"),
        (TRAIN, {"batch": -1}, "expected batch to be a whole number; received int -1"),
        (TRAIN, {"accuracy": "high"}, "expected accuracy to be a number; received str 'high'"),
        (PRUNE, {"inexact": 3}, "record 3 .*expected inexact to be a list of texts"),
        (PRUNE, {"bytes": {}}, "expected bytes to be a whole number; received dict"),
    ],
)
def test_foreign_records_are_refused_in_one_line(record, change, message):
    records = [one | change if one is record else one for one in (DENSE, TRAIN, PRUNE)]
    with pytest.raises(sec.StudyError, match=message) as caught:
        summarise(sec.History(records))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["round", "batch", "params"])
def test_what_is_missing_is_named(name):
    left = {key: value for key, value in DENSE.items() if key != name}
    with pytest.raises(
        sec.StudyError, match=f"expected {name} to be a whole number; received None"
    ):
        summarise(sec.History([left]))
