"""Speed and size of a model: throughput, latency, bytes.

Nothing here depends on a framework: what is measured is a callable that runs the model once on a
batch, and synchronises with the device where that is asynchronous (``torch.cuda.synchronize``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secateurs.errors import UnknownNameError

Clock = Callable[[], float]

_STUDY_PASSES, _STUDY_SECONDS = 7, 0.05


@dataclass(frozen=True, slots=True)
class Spread:
    """Samples of one quantity, one per pass, with their median and quartiles."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median of the samples."""
        return float(np.median(self.samples))

    @property
    def low(self) -> float:
        """Lower quartile of the samples."""
        return float(np.percentile(self.samples, 25))

    @property
    def high(self) -> float:
        """Upper quartile of the samples."""
        return float(np.percentile(self.samples, 75))


class Speed(Spread):
    """Images per second."""

    __slots__ = ()


class CallTime(Spread):
    """Milliseconds per call."""

    __slots__ = ()


class Ratio(Spread):
    """Speed of one model relative to another's."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class SpeedComparison:
    """Throughput of a model and of the one it was cut from, measured interleaved.

    Attributes:
        images_per_second: throughput of the cut model, median over passes.
        dense_images_per_second: throughput of the dense model.
        ratio: speed of the cut model relative to the dense one's, median over passes.
        low: lower quartile of the ratio.
        high: upper quartile of the ratio.
        batch_size: images per call.
        device: device of both models.
        threads: number of CPU threads; None if unknown.
    """

    images_per_second: float
    dense_images_per_second: float
    ratio: float
    low: float
    high: float
    batch_size: int
    device: str
    threads: int | None


def compare_speed(
    pruned: Callable[[], object],
    dense: Callable[[], object],
    images: int,
    device: str,
    threads: int | None = None,
) -> SpeedComparison:
    """Measure two models interleaved, briefly, since this happens after every round of a study.

    Args:
        pruned: callable that runs the cut model on one batch, and waits for the result.
        dense: the same for the dense model.
        images: number of images in that batch.
        device: device of both models.
        threads: number of CPU threads; None if unknown.
    """
    runs = {"dense": dense, "pruned": pruned}
    speeds = throughput(runs, images, repeats=_STUDY_PASSES, seconds=_STUDY_SECONDS)
    faster = ratio(speeds["pruned"], speeds["dense"])
    return SpeedComparison(
        images_per_second=speeds["pruned"].median,
        dense_images_per_second=speeds["dense"].median,
        ratio=faster.median,
        low=faster.low,
        high=faster.high,
        batch_size=images,
        device=device,
        threads=threads,
    )


def throughput(
    runs: Mapping[str, Callable[[], object]],
    images: int,
    *,
    repeats: int = 15,
    seconds: float = 0.1,
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> dict[str, Speed]:
    """Images per second of several models, interleaved so that noise affects all alike.

    Args:
        runs: name -> callable that runs one model on one batch, and waits for the result.
        images: number of images in that batch.
        repeats: number of passes over all runs, each in random order; one sample per pass.
        seconds: least duration of one sample; short calls are repeated to fill it.
        seed: seed of the random order.
        clock: function that returns seconds since some moment.

    Returns:
        The speed for each name; sample i of every speed comes from the same pass.
    """
    if images < 1:
        raise ValueError(f"expected at least one image per call; received images={images}")
    durations = _in_turns(runs, repeats, seconds, seed, clock)
    return {name: Speed(tuple((images / taken).tolist())) for name, taken in durations.items()}


def latency(
    runs: Mapping[str, Callable[[], object]],
    *,
    repeats: int = 15,
    seconds: float = 0.1,
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> dict[str, CallTime]:
    """Milliseconds per call, measured in the same way as ``throughput``."""
    durations = _in_turns(runs, repeats, seconds, seed, clock)
    return {name: CallTime(tuple((1000 * taken).tolist())) for name, taken in durations.items()}


def ratio(fast: Speed, slow: Speed) -> Ratio:
    """Speed of ``fast`` relative to ``slow``, pass by pass.

    A pass in which the machine was busy slows both, so its ratio still holds; a ratio of medians
    from different passes may not.

    Args:
        fast: speed from the same call of ``throughput`` as ``slow``.
        slow: speed that ``fast`` is compared with.
    """
    if len(fast.samples) != len(slow.samples):
        raise ValueError(
            f"expected speeds of the same passes; received {len(fast.samples)} and "
            f"{len(slow.samples)} samples. Measure both in one call of throughput()."
        )
    return Ratio(tuple(a / b for a, b in zip(fast.samples, slow.samples, strict=True)))


def file_bytes(path: str | os.PathLike[str]) -> int:
    """Size on disk of a file, or of all files in a folder."""
    place = Path(path)
    if place.is_dir():
        return sum(inner.stat().st_size for inner in place.rglob("*") if inner.is_file())
    if not place.exists():
        raise UnknownNameError(f"{place}: no such file or folder")
    return place.stat().st_size


def _in_turns(
    runs: Mapping[str, Callable[[], object]],
    repeats: int,
    seconds: float,
    seed: int,
    clock: Clock,
) -> dict[str, np.ndarray[tuple[int], np.dtype[Any]]]:
    """Seconds per call of each run, one sample per pass."""
    if repeats < 1 or seconds <= 0:
        raise ValueError(
            f"expected repeats >= 1 and seconds > 0; received repeats={repeats}, seconds={seconds}"
        )
    calls = {name: _warm_up(run, seconds, clock) for name, run in runs.items()}
    durations = {name: np.empty(repeats) for name in runs}
    order = np.random.default_rng(seed)
    names = list(runs)
    for number in range(repeats):
        for position in order.permutation(len(names)):
            name = names[position]
            durations[name][number] = _time(runs[name], calls[name], clock) / calls[name]
    return durations


def _warm_up(run: Callable[[], object], seconds: float, clock: Clock) -> int:
    """Run until caches are warm; returns the number of calls that fill ``seconds``."""
    run()  # compiles, allocates, selects algorithms: not representative
    start = clock()
    calls = 0
    while clock() - start < seconds:
        run()
        calls += 1
    return max(1, calls)


def _time(run: Callable[[], object], calls: int, clock: Clock) -> float:
    """Total seconds of ``calls`` calls."""
    start = clock()
    for _ in range(calls):
        run()
    return clock() - start
