"""Comparisons: their results, resuming, and how work is distributed."""

import importlib.util
import os
import signal
import subprocess
import sys
import time

import pytest

from comparison.conftest import compare, settings_of
from secateurs.comparison import (
    ComparisonCallback,
    ProcessExecutor,
    RayExecutor,
    run_comparison,
)
from secateurs.errors import StudyError
from secateurs.settings.training import Training

TIMES = ("seconds_to_choose", "seconds_to_train")


def numbers(outcomes):
    """What outcomes say, but for how long they took."""
    plain = [{k: getattr(one, k) for k in one.__slots__ if k not in TIMES} for one in outcomes]
    return sorted(plain, key=lambda one: (one["strategy"], one["amount"], one["seed"]))


class Stopping(ComparisonCallback):
    """Breaks off after so many jobs."""

    def __init__(self, after):
        self.left = after
        self.done = []

    def finished(self, outcome):
        self.done.append(outcome.job)
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_a_comparison_resumes_where_it_was_interrupted(comparison_run, tmp_path):
    first, second = Stopping(3), Stopping(99)
    with pytest.raises(KeyboardInterrupt):
        compare(tmp_path / "a", callback=first)
    results = compare(tmp_path / "a", callback=second)
    assert len(first.done) == 3
    assert len(second.done) == 5
    assert not set(first.done) & set(second.done)
    assert numbers(results.outcomes) == numbers(comparison_run[0].outcomes)


def test_it_survives_a_kill(comparison_run, tmp_path):
    place = tmp_path / "killed"
    code = "import sys; from comparison.conftest import compare; compare(sys.argv[1])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    running = subprocess.Popen([sys.executable, "-c", code, str(place)], env=environment)
    deadline = time.monotonic() + 120
    while len(list(place.glob("jobs/*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    done = len(list(place.glob("jobs/*.json")))
    assert done >= 2
    results = compare(place)
    # Another process may compute with another number of threads, which round differently.
    pairs = zip(numbers(results.outcomes), numbers(comparison_run[0].outcomes), strict=True)
    for present, expected in pairs:
        for name, value in expected.items():
            near = pytest.approx(value, rel=1e-4, abs=1e-6) if isinstance(value, float) else value
            assert present[name] == near


def test_strategies_may_be_added_and_nothing_else_may_change(tmp_path):
    small = {"seeds": 1, "amounts": (0.3,)}
    compare(tmp_path, settings_of(**small, strategies=("l1",)))
    seen = Stopping(99)
    more = compare(tmp_path, settings_of(**small, strategies=("l1", "random")), callback=seen)
    assert [job.strategy for job in seen.done] == ["random"]
    assert len(more.outcomes) == 2
    other = settings_of(**small, strategies=("l1",), training=Training(batches=7, batch_size=32))
    with pytest.raises(StudyError, match=r"another comparison \(training.batches: 6, not 7"):
        compare(tmp_path, other)
    compare(tmp_path, settings_of(**small, strategies=("l2",)), fresh=True)
    assert [path.stem for path in (tmp_path / "jobs").glob("*")] == ["l2-30-seed0"]


def test_parallel_processes_give_the_same_results(comparison_run, tmp_path):
    comparison = settings_of(seeds=1, amounts=(0.3,))
    results = run_comparison(comparison, tmp_path, ProcessExecutor(2))
    expected = [o for o in comparison_run[0].outcomes if o.seed == 0 and o.amount == 0.3]
    assert numbers(results.outcomes) == numbers(expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_a_ray_cluster_gives_the_same_results(comparison_run, tmp_path):
    comparison = settings_of(seeds=1, amounts=(0.3,))
    results = run_comparison(comparison, tmp_path, RayExecutor("local"))
    expected = [o for o in comparison_run[0].outcomes if o.seed == 0 and o.amount == 0.3]
    assert len(expected) == 2
    assert numbers(results.outcomes) == numbers(expected)
