"""Results on disk are complete or absent, and belong to one comparison."""

import pytest

from comparison.conftest import compare, settings_of
from secateurs.comparison import (
    ResultStore,
)
from secateurs.errors import StudyError

TIMES = ("seconds_to_choose", "seconds_to_train")


def numbers(outcomes):
    """What outcomes say, but for how long they took."""
    plain = [{k: getattr(one, k) for k in one.__slots__ if k not in TIMES} for one in outcomes]
    return sorted(plain, key=lambda one: (one["strategy"], one["amount"], one["seed"]))


def test_a_partly_written_result_is_ignored(tmp_path):
    results = compare(tmp_path, settings_of(seeds=1, amounts=(0.3,), strategies=("l1",)))
    path = next((tmp_path / "jobs").glob("*.json"))
    path.write_text(path.read_text()[:40])
    with pytest.raises(StudyError, match=r"cannot be read as a comparison's result.*Delete it"):
        compare(tmp_path, settings_of(seeds=1, amounts=(0.3,), strategies=("l1",)))
    path.unlink()
    again = compare(tmp_path, settings_of(seeds=1, amounts=(0.3,), strategies=("l1",)))
    assert numbers(again.outcomes) == numbers(results.outcomes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scope", "network"),
        ("floor", 0.2),
        ("multiple", 4),
        ("skip", ("head",)),
        ("calibration_batches", 2),
        ("judge_on", "test"),
    ],
)
def test_a_ledger_takes_more_jobs_of_the_same_conditions_alone(tmp_path, name, value):
    ResultStore.begin(tmp_path, settings_of())
    more = settings_of(strategies=("l2",), amounts=(0.5,), seeds=5, command=("again",))
    assert (
        ResultStore.begin(tmp_path, more).comparison
        == ResultStore.open(tmp_path).comparison
        == more
    )
    with pytest.raises(StudyError, match=f"another comparison .{name}"):
        ResultStore.begin(tmp_path, settings_of(**{name: value}))
    assert ResultStore.open(tmp_path).comparison == more


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(StudyError, match="holds something else"):
        compare(tmp_path)
    with pytest.raises(StudyError, match=r"there is no comparison.json"):
        ResultStore.open(tmp_path)
