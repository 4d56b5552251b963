"""How long one model takes beside another: measured in turns, with how far it can be trusted."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateurs.errors import MeasurementError
from secateurs.measurement.conditions import Conditions

Run = Callable[[], object]

_LARGEST_LEARNED_FROM = 2**25 - 2**16

TRUSTED = 0.03
"""Largest standard error of a median, relative to it, that anything is decided by."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of one run, and of a reference measured in the same passes.

    Attributes:
        milliseconds: one a pass.
        ratios: of this run's time to the reference's in the same pass.
    """

    milliseconds: tuple[float, ...]
    ratios: tuple[float, ...]

    @property
    def median(self) -> float:
        """Milliseconds: half of the passes took less."""
        return float(np.median(self.milliseconds))

    @property
    def ratio(self) -> float:
        """The median of the ratios: times the reference takes."""
        return float(np.median(self.ratios))

    @property
    def error(self) -> float:
        """The standard error of ``ratio``, relative to it."""
        return _relative_error(np.asarray(self.ratios))

    def percentile(self, share: float) -> float:
        """Milliseconds that ``share`` percent of the passes took less than."""
        return float(np.percentile(self.milliseconds, share))

    def percentile_of_ratio(self, share: float) -> float:
        """The ratio that ``share`` percent of the passes lie below."""
        return float(np.percentile(self.ratios, share))


def clock_for(conditions: Conditions) -> Callable[[], float]:
    """Seconds: of the processor where one thread does all the work, else of the clock on the wall.

    On one thread the processor's time is what the wall's would be on a machine with nothing else
    to do, so a busy one disturbs it least.
    """
    return time.process_time if conditions.on_one_thread else time.perf_counter


def compare_times(
    runs: Mapping[str, Run],
    reference: str,
    *,
    clock: Callable[[], float] = time.perf_counter,
    repeats: int = 15,
    seconds: float = 0.02,
    trusted: float = TRUSTED,
    seed: int = 0,
) -> dict[str, Timing]:
    """Time several runs in turns, in random order, until their ratios can be trusted.

    Args:
        runs: name -> callable that runs one model once and waits for the result.
        reference: the name of the run that the others are compared with.
        clock: seconds since some moment.
        repeats: passes over all runs to begin with; doubled up to three times.
        seconds: how long a sample lasts at least; short calls are repeated to fill it.
        trusted: the largest standard error of a ratio, relative to it.
        seed: of the order.

    Raises:
        MeasurementError: after all passes the times still scatter too much to say.
    """
    keep_freed_memory()
    calls = {name: _warm(run, seconds, clock) for name, run in runs.items()}
    taken: dict[str, list[float]] = {name: [] for name in runs}
    order, names = np.random.default_rng(seed), list(runs)
    for extension in range(4):
        passes = repeats if extension == 0 else len(taken[reference])
        for _ in range(passes):
            for place in order.permutation(len(names)):
                name = names[place]
                taken[name].append(_time(runs[name], calls[name], clock))
        errors = {
            name: _relative_error(np.array(times) / np.array(taken[reference]))
            for name, times in taken.items()
        }
        if max(errors.values()) <= trusted:
            break
    else:
        worst = max(errors, key=lambda name: errors[name])
        raise MeasurementError(
            f"{worst}: too noisy to time: after {len(taken[worst])} passes its time relative to "
            f"{reference}'s is known to {errors[worst]:.1%} only; {trusted:.1%} are needed. "
            "Stop what else runs on this machine, or ask for one thread (threads=1)."
        )
    base = np.array(taken[reference])
    return {
        name: Timing(
            tuple((1000 * np.array(times)).tolist()), tuple((np.array(times) / base).tolist())
        )
        for name, times in taken.items()
    }


def keep_freed_memory() -> None:
    """Have the C library's allocator keep what is freed, as it does once 32 MB have been.

    glibc hands memory back to the system where it is larger than anything that was freed before,
    and takes it again, page by page, in the next pass: a third of the time of a MobileNetV2 in
    PyTorch, or none of it, by what else the process has freed, and by a few channels of one layer.
    A block just below the largest size that it learns from, freed once, ends that (elsewhere it is
    memory that is never touched). It changes nothing that any large tensor would not.

    Source: M_MMAP_THRESHOLD and M_TRIM_THRESHOLD, dynamic adjustment, in mallopt(3).
    """
    np.empty(_LARGEST_LEARNED_FROM, np.uint8)


def _relative_error(samples: NDArray[np.float64]) -> float:
    """Of a median: 1.253 standard deviations over the root of their number, by the quartiles."""
    low, middle, high = np.percentile(samples, [25, 50, 75])
    return float(1.253 * (high - low) / 1.349 / np.sqrt(len(samples)) / middle)


def _warm(run: Run, seconds: float, clock: Callable[[], float]) -> int:
    run()  # compiles, allocates, picks algorithms
    run()
    start, calls = clock(), 0
    while clock() - start < seconds and calls < 1000:
        run()
        calls += 1
    return max(1, calls)


def _time(run: Run, calls: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(calls):
        run()
    return (clock() - start) / calls
