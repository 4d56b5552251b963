"""Side-by-side timing of models, over batch sizes, threads and runtimes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from secateurs import formatting
from secateurs.arguments import (
    MODEL,
    ONE_OR_MORE_NAMES,
    SEED,
    TEXT,
    Kind,
    are_whole,
    is_whole,
    takes,
    whole_number,
)
from secateurs.backends import backend_of
from secateurs.errors import DataError, MeasurementError, SecateursError
from secateurs.files import write_atomically
from secateurs.measurement.conditions import Conditions, Runtime, machine
from secateurs.measurement.timing import Timing, clock_for, compare_times


@dataclass(frozen=True, slots=True)
class Measured:
    """Timing of one model under one set of conditions.

    Attributes:
        model: name of the model.
        conditions: conditions of the measurement.
        images: examples per call.
        timing: milliseconds per call, and the ratio to the first model's in the same passes.
        macs_ratio: multiply-accumulates of the first model divided by this one's.
        peak_memory_mb: peak memory of a pass over the example inputs, weights included; None if it
            is not available.
    """

    model: str
    conditions: Conditions
    images: int
    timing: Timing
    macs_ratio: float
    peak_memory_mb: float | None

    @property
    def throughput(self) -> float:
        """Examples per second, from the median time."""
        return 1000 * self.images / self.timing.median

    @property
    def speedup(self) -> float:
        """Speed relative to the first model's."""
        return 1 / self.timing.ratio

    @property
    def speedup_range(self) -> tuple[float, float]:
        """Quartiles of ``speedup`` over the passes."""
        import numpy as np

        low, high = np.percentile(self.timing.ratios, [25, 75])
        return float(1 / high), float(1 / low)

    def to_plain(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "model": self.model,
            **self.conditions.to_plain(),
            "images": self.images,
            "milliseconds": {f"p{p}": self.timing.percentile(p) for p in (5, 25, 50, 75, 95)},
            "throughput": self.throughput,
            "speedup": self.speedup,
            "speedup_range": self.speedup_range,
            "macs_ratio": self.macs_ratio,
            "peak_memory_mb": self.peak_memory_mb,
            "passes": len(self.timing.ratios),
        }


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Result of ``bench``; ``print`` shows a table.

    Attributes:
        rows: one for each model and set of conditions.
        machine: description of the machine and versions.
        refused: conditions -> why nothing could be measured under them.
    """

    rows: tuple[Measured, ...]
    machine: Mapping[str, str]
    refused: Mapping[str, str]

    def __str__(self) -> str:
        columns = (
            "model",
            "conditions",
            "a second",
            "ms (median)",
            "5 %",
            "95 %",
            "times as fast",
            "quartiles",
            "fewer MACs",
            "peak memory",
        )
        rows = [
            (
                row.model,
                str(row.conditions),
                f"{row.throughput:.4g}",
                f"{row.timing.median:.3g}",
                f"{row.timing.percentile(5):.3g}",
                f"{row.timing.percentile(95):.3g}",
                f"{row.speedup:.2f}",
                "{:.2f} to {:.2f}".format(*row.speedup_range),
                f"{row.macs_ratio:.2f}",
                "-" if row.peak_memory_mb is None else f"{row.peak_memory_mb:.1f} MB",
            )
            for row in self.rows
        ]
        parts = [formatting.table(columns, rows, tuple(range(2, len(columns))))]
        parts += [
            f"{row.model} is not faster under {row.conditions}: {row.speedup:.2f} times, for "
            f"{row.macs_ratio:.2f} times fewer MACs"
            for row in self.rows
            if row.macs_ratio > 1.05 and row.speedup <= 1
        ]
        parts += [f"{conditions}: {why}" for conditions, why in self.refused.items()]
        return "\n".join(parts)

    def to_json(self) -> str:
        """All measurements as JSON text."""
        plain = {
            "format": "secateurs-bench",
            "version": 1,
            "machine": dict(self.machine),
            "rows": [row.to_plain() for row in self.rows],
            "refused": dict(self.refused),
        }
        return json.dumps(plain, indent=1) + "\n"

    def save(self, path: str | Path) -> None:
        """Write ``to_json`` to a file."""
        write_atomically(Path(path), self.to_json().encode())


_MODELS = Kind(
    "models, in a list or by name",
    lambda value: (
        isinstance(value, Sequence | Mapping)
        and not isinstance(value, str | bytes)
        and len(value) > 0
        and all(map(MODEL.accepts, value.values() if isinstance(value, Mapping) else value))
    ),
    DataError,
    "Such as {'dense': model, 'pruned': small}.",
).or_one_of(lambda value: MODEL.accepts(value) and not isinstance(value, Sequence | Mapping))
_COUNTS = Kind(
    "whole numbers of at least 1", lambda value: are_whole(value, 1), fix="Such as (1, 8)."
).or_one_of(lambda value: is_whole(value, 1))
_THREADS = Kind(
    "whole numbers of at least 1, or None among them",
    lambda value: are_whole(value, 1, or_none=True),
    fix="Such as (1, None).",
).or_one_of(lambda value: value is None or is_whole(value, 1))


@takes(
    models=_MODELS,
    runtimes=ONE_OR_MORE_NAMES,
    batches=_COUNTS,
    threads=_THREADS,
    device=TEXT,
    repeats=whole_number(1, 10**6),
    seed=SEED,
)
def bench(
    models: Sequence[Any] | Mapping[str, Any],
    example_inputs: Any = None,
    *,
    runtimes: Sequence[str] = ("eager",),
    batches: Sequence[int] = (1,),
    threads: Sequence[int | None] = (1,),
    device: str = "cpu",
    repeats: int = 15,
    seed: int = 0,
) -> Benchmark:
    """Time models side by side, interleaved in random order, after a warm-up.

    Args:
        models: models, by name or in a list; the others are compared with the first.
        example_inputs: inputs that they all take.
        runtimes: "eager", "channels-last", "compile", "onnxruntime", "openvino"; one or several.
        batches: examples per call; one number or several.
        threads: number of CPU threads; one or several. None is the runtime's own default.
        device: "cpu" or "cuda".
        repeats: initial number of passes over all models; more are made if times scatter.
        seed: seed of the random order.

    Returns:
        The measurements. A runtime that rejects a model is listed in ``refused``.

    Raises:
        MeasurementError: nothing could be measured under any of the conditions.

    Example:
        >>> import torch, secateurs as sec
        >>> wide, narrow = (torch.nn.Sequential(
        ...     torch.nn.Linear(512, n), torch.nn.Linear(n, 512)) for n in (4096, 64))
        >>> found = sec.bench({"wide": wide, "narrow": narrow}, torch.randn(1, 512))
        >>> [row.model for row in found.rows]
        ['wide', 'narrow']
    """
    _check_not_empty(runtimes=runtimes, threads=threads, batches=batches)
    named = _name_models(models)
    macs = {name: _macs(model, example_inputs) for name, model in named.items()}
    memory = {name: _memory(model, example_inputs) for name, model in named.items()}
    first = macs[next(iter(named))]
    rows: list[Measured] = []
    refused: dict[str, str] = {}
    for runtime, count, batch in itertools.product(runtimes, threads, batches):
        conditions = Conditions(
            runtime=cast(Runtime, runtime), batch=batch, threads=count, device=device
        )
        try:
            timings = _timings(named, example_inputs, conditions, repeats, seed)
        except MeasurementError as error:
            refused[str(conditions)] = str(error)
            continue
        rows += [
            Measured(name, conditions, batch, timing, first / max(1, macs[name]), memory[name])
            for name, timing in timings.items()
        ]
    if not rows:
        raise MeasurementError("; ".join(f"{c}: {why}" for c, why in refused.items()))
    return Benchmark(tuple(rows), machine(), refused)


def _check_not_empty(**chosen: Sequence[object]) -> None:
    for name, values in chosen.items():
        if not values:
            raise MeasurementError(f"bench: {name}: expected at least one; received none")


def _name_models(models: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(models, Mapping):
        named = dict(models)
    elif isinstance(models, (list, tuple)):
        names = ["dense", "small"] if len(models) == 2 else [f"model {n}" for n in range(1, 99)]
        named = dict(zip(names, models, strict=False))
    else:
        named = {"model": models}
    if not named:
        raise DataError("bench: expected one model at least; received none")
    return named


def _timings(
    models: Mapping[str, Any], example_inputs: Any, conditions: Conditions, repeats: int, seed: int
) -> dict[str, Timing]:
    runs = {
        name: backend_of(model).runner(model, _inputs(model, example_inputs), conditions)
        for name, model in models.items()
    }
    return compare_times(
        runs, next(iter(runs)), clock=clock_for(conditions), repeats=repeats, seed=seed
    )


def _inputs(model: Any, example_inputs: Any) -> Any:
    """Inputs of a model; without example inputs, those made up by tracing (Keras)."""
    if example_inputs is not None:
        return example_inputs
    return backend_of(model).trace(model, None).source.example_inputs


def _macs(model: Any, example_inputs: Any) -> int:
    return backend_of(model).trace(model, example_inputs).macs()


def _memory(model: Any, example_inputs: Any) -> float | None:
    try:
        return backend_of(model).peak_memory(model, _inputs(model, example_inputs)) / 1e6
    except SecateursError:
        return None
