"""What may remain of a network: limits, each in a unit of its own."""

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
"""By the name that a budget calls them. A new unit is a class and a line here."""

FILE_NAMES = ("format", "precision")
"""What a budget says of the file that ``size_mb`` limits."""


@takes_known_names
@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What may remain. Several limits at once must all hold.

    Each is a fraction of the dense model (a number below 1, such as 0.5) or absolute.

    Attributes:
        channels: of the widths of layers that can be pruned. Half of the channels is half of each
            width, whether single channels go or whole heads, positions in them, or groups: a width
            of 8 heads of 4 is 32 channels, and 6 heads of 3 leave 18 of them.
        params: numbers in the parameters.
        macs: multiply-accumulates of a pass over the example inputs.
        size_mb: the saved file, in megabytes of 1,000,000 bytes; an absolute size below one
            megabyte is written with its unit, as in ``"0.4 MB"`` or ``"400 kB"``.
        format: of that file: "safetensors", or another target of ``sec.export``. What is not
            safetensors is written to measure it, and planned again by that.
        precision: of the weights in it: "float32" (as the model holds them), "float16" or "int8"
            (then an ONNX file, of ONNX Runtime's quantiser).
        latency: share of the time that the dense model takes a call.
        latency_ms: milliseconds a call; always absolute, as are the next three.
        throughput: examples a second, at least.
        speedup: times as fast as the dense model, at least.
        drop: the largest loss of the task's own metric: 0.01 is a point of accuracy. Where it is
            the only limit, the smallest model within it is looked for.
        peak_memory_mb: weights and activations that a pass holds at once, in megabytes.
        runtime: where the times are meant for: "eager", "channels-last", "compile",
            "onnxruntime" or "openvino". Beside limits that are none of time, it says where the
            model has to be fast: of the cuts within them, one that takes little time there.
        batch: examples a call; as many as the example inputs hold if left out.
        threads: of the processor; the runtime's own number if left out.
        dtype: of the arithmetic.
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
                f"{', '.join(self._options_of_file)}: says which file is meant; expected size_mb "
                f"beside it; received {', '.join(self.limits)}"
            )
        _ = self.file  # the same

    def _check_conditions(self) -> None:
        if not self.wants_speed:
            given = self._given_conditions
            raise BudgetError(
                f"{', '.join(given)}: says where a model has to be fast; expected runtime=, or one "
                "of latency, latency_ms, throughput and speedup, beside it; received "
                f"{', '.join(self.limits)}"
            )
        _ = self.conditions  # raises where there are no such

    @property
    def limits(self) -> dict[str, Limit]:
        """The limits that were given."""
        given = ((name, getattr(self, name)) for name in UNITS)
        return {name: value for name, value in given if value is not None}

    @property
    def is_timed(self) -> bool:
        """Whether a limit is one of time."""
        return any(isinstance(UNITS[name], TimedUnit) for name in self.limits)

    @property
    def wants_speed(self) -> bool:
        """Whether a latency model says where channels go: by a limit of time, or a runtime."""
        return self.is_timed or self.runtime is not None

    @property
    def conditions(self) -> Conditions:
        """What the times are meant for."""
        return Conditions(**self._given_conditions)

    @property
    def file(self) -> FileKind:
        """The file that ``size_mb`` means."""
        return FileKind.of(self.format, self.precision)

    def __str__(self) -> str:
        return ",".join(f"{name}={value}" for name, value in self.as_plain.items())

    @property
    def as_plain(self) -> dict[str, Limit | int]:
        """All that was given, as ``of`` takes it."""
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
        """The units of the limits; those of time with a latency model at work on the network."""
        predictor = None if model is None else Predictor(network, model)
        return {
            name: replace(unit, predictor=predictor) if isinstance(unit, TimedUnit) else unit
            for name, unit in self.plain_units.items()
        }

    @property
    def plain_units(self) -> dict[str, Unit]:
        """The units of the limits; those of time can only be read and shown."""
        return {
            name: replace(unit, kind=self.file) if isinstance(unit, SizeMb) else unit
            for name, unit in UNITS.items()
            if name in self.limits
        }

    @property
    def first_guess(self) -> Budget:
        """The limits that can be predicted; half of the MACs where there are none."""
        tried = [name for name in self.limits if UNITS[name].is_tried]
        return self.ablate(*tried) or self.with_macs(0.5)

    def with_macs(self, share: float) -> Budget:
        """A share of the MACs, where the same model has to be fast, and no other limit."""
        return Budget(macs=share, **(self._given_conditions if self.runtime else {}))

    def ablate(self, *names: str) -> Budget | None:
        """The same without these limits; None where none is left."""
        left = {name: limit for name, limit in self.limits.items() if name not in names}
        if not left:
            return None
        is_timed = any(isinstance(UNITS[name], TimedUnit) for name in left)
        conditions = self._given_conditions if is_timed or self.runtime else {}
        file = self._options_of_file if "size_mb" in left else {}
        return Budget(**left, **conditions, **file)  # type: ignore[arg-type]

    def absolute(self, dense: Mapping[str, float]) -> dict[str, float]:
        """The limits in absolute numbers (sizes in bytes), given what the dense model takes."""
        return {
            name: UNITS[name].absolute(limit, dense[name]) for name, limit in self.limits.items()
        }

    def absolute_for(
        self, network: Network, units: Mapping[str, Unit] | None = None
    ) -> dict[str, float]:
        """The limits in absolute numbers (sizes in bytes, times in ms), given the dense network."""
        units = units or self.plain_units
        return self.absolute({name: units[name].measure(network, Cut()) for name in self.limits})

    @classmethod
    def from_absolute(cls, limits: Mapping[str, float], like: Budget | None = None) -> Budget:
        """The budget whose limits are these numbers, as ``absolute`` gives them.

        Args:
            limits: unit -> number.
            like: of whose file a size is meant.
        """
        given = {name: UNITS[name].limit_from(number) for name, number in limits.items()}
        file = like._options_of_file if like is not None and "size_mb" in limits else {}
        return cls(**given, **file)  # type: ignore[arg-type]

    @classmethod
    def parse(cls, source: str) -> Budget:
        """Read ``"macs=0.5,size_mb=15"``.

        Raises:
            BudgetError: an unknown unit, or something that is no number.
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
        """A budget, as text such as ``"macs=0.5"`` or as a mapping such as ``{"macs": 0.5}``.

        Raises:
            BudgetError: it is none of these, or names an unknown unit.
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
