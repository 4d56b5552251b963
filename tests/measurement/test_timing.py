"""Interleaved timing, on a clock that the test controls."""

import platform
import subprocess
import sys

import numpy as np
import pytest

import secateurs as sec
from secateurs.measurement.timing import compare_times


class Clock:
    """Seconds that pass only where a run says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def run(self, milliseconds, noise=0.0, seed=0):
        lots = np.random.default_rng(seed)

        def run():
            self.now += milliseconds * (1 + noise * lots.standard_normal()) / 1000

        return run


def test_times_and_ratios_are_those_of_the_clock():
    clock = Clock()
    found = compare_times({"dense": clock.run(8), "cut": clock.run(2)}, "dense", clock=clock)
    assert found["cut"].median == pytest.approx(2)
    assert found["cut"].ratio == pytest.approx(0.25)
    assert found["dense"].ratio == 1
    assert found["cut"].error == pytest.approx(0, abs=1e-9)


def test_what_scatters_is_measured_longer_and_its_error_is_that_of_a_median():
    clock = Clock()
    runs = {"dense": clock.run(50), "cut": clock.run(50, noise=0.1)}
    found = compare_times(runs, "dense", clock=clock, repeats=15, trusted=0.02)["cut"]
    assert len(found.ratios) > 15
    medians = [np.median(1 + 0.1 * np.random.default_rng(s).standard_normal(60)) for s in range(99)]
    assert 0.5 < found.error / np.std(medians) * np.sqrt(len(found.ratios) / 60) < 2


def test_a_machine_that_is_too_noisy_is_reported():
    clock = Clock()
    runs = {"dense": clock.run(50), "cut": clock.run(50, noise=0.4)}
    with pytest.raises(sec.MeasurementError, match=r"cut: too noisy to time: after 40 passes .* 0"):
        compare_times(runs, "dense", clock=clock, repeats=5, trusted=0.001)


def test_a_sample_in_which_the_clock_stood_still_is_taken_again():
    """As a virtual machine's CPU clock does at times; 0 / 0 was an internal error."""
    clock = Clock()
    readings = iter([True, False, False] * 1000)

    def run_on_a_clock_that_halts():
        if next(readings):
            clock.now += 0.008

    runs = {"dense": run_on_a_clock_that_halts, "cut": clock.run(2)}
    found = compare_times(runs, "dense", clock=clock, seconds=0)
    assert found["dense"].median == pytest.approx(8)
    assert found["cut"].ratio == pytest.approx(0.25)


def test_a_clock_that_never_advances_is_reported():
    with pytest.raises(sec.MeasurementError, match="expected a clock that advances"):
        compare_times({"dense": lambda: None}, "dense", clock=lambda: 1.0)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's allocator")
def test_memory_that_a_pass_frees_is_not_taken_anew_page_by_page():
    """In a process of its own: pages that were asked for while 4 MB were made and freed."""
    script = """
import resource, sys
import numpy as np
from secateurs.measurement.timing import keep_freed_memory
if "keep" in sys.argv:
    keep_freed_memory()
def make_and_free():
    big, small = np.empty(400_000), np.empty(300_000)
    big[:], small[:] = 0, 0
for _ in range(3):
    make_and_free()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    make_and_free()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

    def pages(*words):
        command = [sys.executable, "-c", script, *words]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert pages("keep") < 100
