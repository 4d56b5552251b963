"""Time of one model relative to another's, measured interleaved, with its uncertainty."""

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
_TRIES = 20

TRUSTED = 0.03
"""Largest relative standard error of a median on which a decision may be based."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of one run, relative to a reference measured in the same passes.

    Attributes:
        milliseconds: one value per pass.
        ratios: time relative to the reference's in the same pass.
    """

    milliseconds: tuple[float, ...]
    ratios: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median time in milliseconds."""
        return float(np.median(self.milliseconds))

    @property
    def ratio(self) -> float:
        """Median of the ratios."""
        return float(np.median(self.ratios))

    @property
    def error(self) -> float:
        """Relative standard error of ``ratio``."""
        return _relative_error(np.asarray(self.ratios))

    def percentile(self, share: float) -> float:
        """Percentile of the milliseconds; ``share`` is in percent."""
        return float(np.percentile(self.milliseconds, share))

    def percentile_of_ratio(self, share: float) -> float:
        """Percentile of the ratios; ``share`` is in percent."""
        return float(np.percentile(self.ratios, share))


def clock_for(conditions: Conditions) -> Callable[[], float]:
    """Choose a clock in seconds: CPU time if one thread does all the work, else wall time.

    On one thread, CPU time equals the wall time of an otherwise idle machine, so other load
    disturbs it least.
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
    """Time several runs, interleaved in random order, until their ratios are precise enough.

    Args:
        runs: name -> callable that runs one model once, and waits for the result.
        reference: name of the run that the others are compared with.
        clock: function that returns seconds since some moment.
        repeats: initial number of passes over all runs; doubled up to three times.
        seconds: least duration of a sample; short calls are repeated to fill it.
        trusted: largest relative standard error of a ratio.
        seed: seed of the random order.

    Raises:
        MeasurementError: after all passes the times still scatter too much, or the clock stands
            still.
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
            f"{reference}'s is known only to within {errors[worst]:.1%}; {trusted:.1%} are "
            "needed. Stop other programs on this machine, or ask for one thread (threads=1)."
        )
    base = np.array(taken[reference])
    return {
        name: Timing(
            tuple((1000 * np.array(times)).tolist()), tuple((np.array(times) / base).tolist())
        )
        for name, times in taken.items()
    }


def keep_freed_memory() -> None:
    """Make the C library's allocator keep freed memory, as it does once 32 MB have been freed.

    glibc returns a block to the system if it is larger than any freed before, and faults it in
    again page by page in the next pass. That can take a third of the time of a MobileNetV2 in
    PyTorch or none of it, depending on what else the process has freed and on a few channels of one
    layer. Freeing a block just below the largest size that glibc adapts to, once, ends that; on
    other systems this is memory that is never touched. Any large tensor would have the same effect.

    Source: M_MMAP_THRESHOLD and M_TRIM_THRESHOLD, dynamic adjustment, in mallopt(3).
    """
    np.empty(_LARGEST_LEARNED_FROM, np.uint8)


def _relative_error(samples: NDArray[np.float64]) -> float:
    """Relative standard error of a median, 1.253 sigma / sqrt(n), with sigma from quartiles."""
    low, middle, high = np.percentile(samples, [25, 50, 75])
    return float(1.253 * (high - low) / 1.349 / np.sqrt(len(samples)) / middle)


def _warm(run: Run, seconds: float, clock: Callable[[], float]) -> int:
    run()  # compiles, allocates, selects algorithms
    run()
    start, calls = clock(), 0
    while clock() - start < seconds and calls < 1000:
        run()
        calls += 1
    return max(1, calls)


def _time(run: Run, calls: int, clock: Callable[[], float]) -> float:
    """Seconds of a call, more than 0.

    A virtual machine that had to wait is charged for it later, and its CPU clock can stand still
    for a whole sample meanwhile: that is no measurement, and it is taken again.
    """
    for _ in range(_TRIES):
        start = clock()
        for _ in range(calls):
            run()
        if (seconds := clock() - start) > 0:
            return seconds / calls
    raise MeasurementError(
        f"expected a clock that advances; received the same reading before and after {calls} "
        f"calls, {_TRIES} times. On a virtual machine, the CPU clock can stand still: measure wall "
        "time (threads=2)."
    )
