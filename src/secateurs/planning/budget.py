"""Budgets: limits on what remains of a network, each in its own unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from secateurs.arguments import takes_known_names
from secateurs.channels.cut import Cut
from secateurs.channels.file_size import FileKind
from secateurs.channels.network import Network
from secateurs.errors import BudgetError, nearest
from secateurs.measurement.conditions import CONDITION_NAMES, Conditions
from secateurs.measurement.latency_model import LatencyModel
from secateurs.planning.timed_units import (
    Latency,
    LatencyMs,
    Predictor,
    Speedup,
    Throughput,
    TimedUnit,
)
from secateurs.planning.tried_units import Drop, PeakMemoryMb
from secateurs.planning.units import Channels, Limit, Macs, Params, SizeMb, Unit

UNITS: Mapping[str, Unit] = {
    unit.name: unit
    for unit in (
        Channels(),
        Params(),
        Macs(),
        SizeMb(),
        Latency(),
        LatencyMs(),
        Throughput(),
        Speedup(),
        Drop(),
        PeakMemoryMb(),
    )
}
"""Units by the names that a budget uses. A new unit takes a class and a line here."""

FILE_NAMES = ("format", "precision")
"""Options that describe the file which ``size_mb`` limits."""


@takes_known_names
@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits on what remains of a network. Several limits must all hold.

    A limit below 1, such as 0.5, is a fraction of the dense model; others are absolute.

    Attributes:
        channels: total width of the layers that can be pruned. Half of the channels is half of
            each width, whether single channels are removed or whole heads, positions in them, or
            groups: 8 heads of 4 are 32 channels, and 6 heads of 3 leave 18 of them.
        params: number of parameters.
        macs: multiply-accumulates of a forward pass over the example inputs.
        size_mb: size of the saved file, in megabytes of 1,000,000 bytes; an absolute size below
            one megabyte is given with its unit, as in ``"0.4 MB"`` or ``"400 kB"``.
        format: format of that file: "safetensors", or another target of ``sec.export``. Formats
            other than safetensors are written to measure the size, and planned again from it.
        precision: precision of the weights in the file: "float32" (as the model holds them),
            "float16" or "int8" (an ONNX file from ONNX Runtime's quantiser).
        latency: time per call as a fraction of the dense model's.
        latency_ms: milliseconds per call; always absolute, as are the next three.
        throughput: least number of examples per second.
        speedup: least speed relative to the dense model's.
        drop: largest decrease of the task's own metric: 0.01 is one point of accuracy. If it is
            the only limit, the smallest model within it is searched for.
        peak_memory_mb: weights and activations that a pass holds at once, in megabytes.
        runtime: where times are measured: "eager", "channels-last", "compile", "onnxruntime" or
            "openvino". Without a limit of time it chooses, among the cuts within the other
            limits, one that is fast there.
        batch: examples per call; None for as many as the example inputs hold.
        threads: number of CPU threads; None for the runtime's own default.
        dtype: data type in which the model computes.
        device: "cpu" or "cuda".

    Example:
        >>> import secateurs as sec
        >>> sec.Budget(macs=0.5).limits
        {'macs': 0.5}
        >>> sec.Budget.parse("latency=0.5,runtime=onnxruntime,threads=1").conditions.runtime
        'onnxruntime'
        >>> sec.Budget(size_mb=15, precision="int8").file
        FileKind(format='onnx', precision='int8')
    """

    channels: float | None = None
    params: float | None = None
    macs: float | None = None
    size_mb: float | str | None = None
    format: str | None = None
    precision: str | None = None
    latency: float | None = None
    latency_ms: float | None = None
    throughput: float | None = None
    speedup: float | None = None
    drop: float | None = None
    peak_memory_mb: float | None = None
    runtime: str | None = None
    batch: int | None = None
    threads: int | None = None
    dtype: str | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        if not self.limits:
            names = ", ".join(UNITS)
            raise BudgetError(f"expected a budget of at least one of {names}; received none")
        for name, limit in self.limits.items():
            UNITS[name].check(limit)
        if self._given_conditions:
            self._check_conditions()
        if self._options_of_file and "size_mb" not in self.limits:
            raise BudgetError(
                f"{', '.join(self._options_of_file)}: describes a file; expected size_mb beside "
                f"it; received {', '.join(self.limits)}"
            )
        _ = self.file  # raises if there is no such format or precision

    def _check_conditions(self) -> None:
        if not self.wants_speed:
            given = self._given_conditions
            raise BudgetError(
                f"{', '.join(given)}: describes how a model is timed; expected runtime=, or one "
                "of latency, latency_ms, throughput and speedup, beside it; received "
                f"{', '.join(self.limits)}"
            )
        _ = self.conditions  # raises if there are no such conditions

    @property
    def limits(self) -> dict[str, Limit]:
        """The limits that are set."""
        given = ((name, getattr(self, name)) for name in UNITS)
        return {name: value for name, value in given if value is not None}

    @property
    def is_timed(self) -> bool:
        """Whether any limit is one of time."""
        return any(isinstance(UNITS[name], TimedUnit) for name in self.limits)

    @property
    def wants_speed(self) -> bool:
        """Whether a latency model guides the plan: for a limit of time, or a given runtime."""
        return self.is_timed or self.runtime is not None

    @property
    def conditions(self) -> Conditions:
        """The conditions under which times are measured."""
        return Conditions(**self._given_conditions)

    @property
    def file(self) -> FileKind:
        """The kind of file that ``size_mb`` limits."""
        return FileKind.of(self.format, self.precision)

    def __str__(self) -> str:
        return ",".join(f"{name}={value}" for name, value in self.as_plain.items())

    @property
    def as_plain(self) -> dict[str, Limit | int]:
        """Everything that is set, in the form that ``of`` accepts."""
        return {**self.limits, **self._given_conditions, **self._options_of_file}

    @property
    def _options_of_file(self) -> dict[str, str]:
        given = ((name, getattr(self, name)) for name in FILE_NAMES)
        return {name: value for name, value in given if value is not None}

    @property
    def _given_conditions(self) -> dict[str, Any]:
        given = ((name, getattr(self, name)) for name in CONDITION_NAMES)
        return {name: value for name, value in given if value is not None}

    def units(self, network: Network, model: LatencyModel | None = None) -> dict[str, Unit]:
        """Units of the limits; those of time get a predictor if a latency model is given."""
        predictor = None if model is None else Predictor(network, model)
        return {
            name: replace(unit, predictor=predictor) if isinstance(unit, TimedUnit) else unit
            for name, unit in self.plain_units.items()
        }

    @property
    def plain_units(self) -> dict[str, Unit]:
        """Units of the limits; those of time can only be read and shown, not predicted."""
        return {
            name: replace(unit, kind=self.file) if isinstance(unit, SizeMb) else unit
            for name, unit in UNITS.items()
            if name in self.limits
        }

    @property
    def first_guess(self) -> Budget:
        """The limits that can be predicted; half of the MACs if there are none."""
        tried = [name for name in self.limits if UNITS[name].is_tried]
        return self.ablate(*tried) or self.with_macs(0.5)

    def with_macs(self, share: float) -> Budget:
        """A budget of a share of the MACs only, with the same runtime if one is set."""
        return Budget(macs=share, **(self._given_conditions if self.runtime else {}))

    def ablate(self, *names: str) -> Budget | None:
        """The budget without these limits; None if no limit remains."""
        left = {name: limit for name, limit in self.limits.items() if name not in names}
        if not left:
            return None
        is_timed = any(isinstance(UNITS[name], TimedUnit) for name in left)
        conditions = self._given_conditions if is_timed or self.runtime else {}
        file = self._options_of_file if "size_mb" in left else {}
        return Budget(**left, **conditions, **file)  # type: ignore[arg-type]

    def absolute(self, dense: Mapping[str, float]) -> dict[str, float]:
        """The limits as absolute numbers (sizes in bytes), given the dense model's costs."""
        return {
            name: UNITS[name].absolute(limit, dense[name]) for name, limit in self.limits.items()
        }

    def absolute_for(
        self, network: Network, units: Mapping[str, Unit] | None = None
    ) -> dict[str, float]:
        """The limits as absolute numbers (sizes in bytes, times in ms) for a dense network."""
        units = units or self.plain_units
        return self.absolute({name: units[name].measure(network, Cut()) for name in self.limits})

    @classmethod
    def from_absolute(cls, limits: Mapping[str, float], like: Budget | None = None) -> Budget:
        """Make a budget of absolute numbers, as ``absolute`` returns them.

        Args:
            limits: unit -> number.
            like: budget whose kind of file a size refers to.
        """
        given = {name: UNITS[name].limit_from(number) for name, number in limits.items()}
        file = like._options_of_file if like is not None and "size_mb" in limits else {}
        return cls(**given, **file)  # type: ignore[arg-type]

    @classmethod
    def parse(cls, source: str) -> Budget:
        """Read ``"macs=0.5,size_mb=15"``.

        Raises:
            BudgetError: an unknown unit, or a value that is not a number.
        """
        given: dict[str, Limit] = {}
        stated: dict[str, str] = {}
        names = [*UNITS, *CONDITION_NAMES, *FILE_NAMES]
        file: dict[str, str] = {}
        for part in source.split(","):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or name not in names:
                raise BudgetError(
                    f"expected a budget such as 'macs=0.5' or 'size_mb=15,params=0.4'; received "
                    f"{part!r}{nearest(name, names)}"
                )
            if name in {*given, *stated, *file}:
                raise BudgetError(f"{name}: expected once; received {source!r}")
            if name in UNITS:
                given[name] = UNITS[name].read(value)
            elif name in FILE_NAMES:
                file[name] = value
            else:
                stated[name] = value
        numbers = {n: v for n, v in Conditions.from_text(stated).to_plain().items() if n in stated}
        return cls(**given, **numbers, **file)  # type: ignore[arg-type]

    @classmethod
    def of(cls, given: Budget | str | Mapping[str, Limit]) -> Budget:
        """Make a budget from one, from text (``"macs=0.5"``) or a mapping (``{"macs": 0.5}``).

        Raises:
            BudgetError: it is something else, or names an unknown unit.
        """
        if isinstance(given, Budget):
            return given
        if isinstance(given, str):
            return cls.parse(given)
        if isinstance(given, Mapping):
            names = [*UNITS, *CONDITION_NAMES, *FILE_NAMES]
            for name in given:
                if name not in names:
                    raise BudgetError(f"no budget is called {name!r}{nearest(str(name), names)}")
            return cls(**given)  # type: ignore[arg-type]
        raise BudgetError(
            "expected a budget: sec.Budget(macs=0.5), 'macs=0.5' or {'macs': 0.5}; received "
            f"{given!r}"
        )
