"""The budget of a study in progress: what each round's network costs, and when it is met.

Predicted quantities (times, files of other formats) are measured on the real model before the
budget counts as met, and later predictions are corrected by the error. Memory is measured on models
made for that purpose. The accuracy loss is the study's tolerance, not a limit here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from secateurs.backends import backend_named
from secateurs.channels.cut import Cut
from secateurs.channels.file_size import FileKind
from secateurs.channels.network import Network
from secateurs.deployment.exporter import weigh_written
from secateurs.errors import BudgetError
from secateurs.measurement.latency_model import LatencyModel
from secateurs.planning.budget import Budget
from secateurs.planning.meeting import Timer
from secateurs.planning.profiling import profile_network
from secateurs.planning.timed_units import LatencyMs, Predictor, TimedUnit
from secateurs.planning.units import Unit

TIME = "latency_ms"
"""Unit of all limits of time: they are converted to it, and the lowest counts."""

MEMORY = "peak_memory_mb"


@dataclass
class Goals:
    """The limits of a study.

    Attributes:
        budget: the budget as given; None if there is none.
        limits: unit -> absolute limit, in the unit of ``measure``.
        latency_model: for limits of time.
        measured: unit -> (measurement of the last real model, its prediction).
    """

    budget: Budget | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    latency_model: LatencyModel | None = None
    measured: dict[str, tuple[float, float]] = field(default_factory=dict)
    _units: Mapping[str, Unit] = field(default_factory=dict)
    _scale: float = 1.0
    _real: dict[str, Callable[[Any], float]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.limits)

    @classmethod
    def of(cls, dense: Network, budget: Budget | None) -> Goals:
        """The limits as absolute numbers, given the dense network.

        Raises:
            SecateursError: the dense model cannot be timed, written or profiled as needed.
        """
        wanted = None if budget is None else budget.ablate("drop")
        if wanted is None:
            return cls(budget)
        units = dict(wanted.plain_units)
        plain = {name: units[name] for name in wanted.limits if not _is_timed(units[name])}
        goals = cls(budget, {}, None, {}, plain)
        sizes = {name: goals._dense(name, dense, wanted.file) for name in plain}
        limits = {n: plain[n].absolute(wanted.limits[n], sizes[n]) for n in plain}
        if wanted.wants_speed:
            goals._measure_latency(dense, wanted)
        if wanted.is_timed:
            limits[TIME] = goals._begin_timing(dense, wanted)
        goals.limits = limits
        return goals

    def _dense(self, name: str, dense: Network, kind: FileKind) -> float:
        """The dense model's cost; sets up the measurement of files that have to be written."""
        unit, model = self._units[name], dense.source.model
        if not unit.is_corrected:
            return self.measure(name, dense)
        write = partial(weigh_written, kind=kind, example_inputs=dense.source.example_inputs)
        self._real[name] = write
        size = float(write(model))
        self.measured[name] = (size, unit.measure(dense, Cut()))
        return size

    def _measure_latency(self, dense: Network, budget: Budget) -> None:
        self.latency_model = model = profile_network(dense, budget.conditions)
        self._scale = model.dense_ms / model.predictor(dense)(dense.alive())

    def _begin_timing(self, dense: Network, budget: Budget) -> float:
        """The limit in milliseconds per call."""
        model, units = self.latency_model, budget.plain_units
        assert model is not None  # noqa: S101 - measured before
        self._units = {**self._units, TIME: LatencyMs()}
        self._real[TIME] = Timer(dense, model).measure_in("latency")
        found = [
            unit.milliseconds(unit.absolute(budget.limits[name], model.dense_ms), model.images)
            for name, unit in units.items()
            if isinstance(unit, TimedUnit)
        ]
        return min(found)

    def measure(self, name: str, network: Network, cut: Cut = Cut()) -> float:  # noqa: B008
        """Cost of a network after ``cut``; predictions are corrected by the last known error.

        Args:
            name: name of the unit.
            network: the present network.
            cut: cut of it.
        """
        if name == MEMORY:
            return _memory_after(network, cut)
        unit = self._unit_for(name, network)
        predicted = unit.measure(network, cut)
        if name not in self.measured:
            return predicted
        real, foreseen = self.measured[name]
        # A file differs by text beside its tensors (an offset), a time by a factor.
        return predicted * real / foreseen if name == TIME else predicted + real - foreseen

    def fits(self, network: Network, cut: Cut | None = None) -> bool:
        """Whether a network after ``cut`` is within the limits; False if there are none.

        Args:
            network: the present network.
            cut: cut of it; None for none.
        """
        cut = cut or Cut()
        return bool(self.limits) and all(
            self.measure(name, network, cut) <= limit for name, limit in self.limits.items()
        )

    def are_met(self, network: Network) -> bool:
        """Whether the present model is within the limits, with predictions checked by measuring."""
        if not self.fits(network):
            return False
        for name, real in self._real.items():
            unit = self._unit_for(name, network)
            foreseen = unit.measure(network, Cut())
            taken = float(real(network.source.model))
            self.measured[name] = (taken, foreseen)
            if taken > self.limits[name] * (1 + unit.slack):
                return False
        return True

    def planning_options(self, network: Network, limits: Mapping[str, float]) -> Mapping[str, Any]:
        """Arguments of ``plan`` for limits that it can predict: the budget, the latency model."""
        corrected = dict(limits)
        if TIME in corrected:
            real, foreseen = self.measured.get(TIME, (1.0, 1.0))
            corrected[TIME] *= foreseen / real
        if "size_mb" in corrected and "size_mb" in self.measured:
            real, foreseen = self.measured["size_mb"]
            corrected["size_mb"] -= real - foreseen
        budget = Budget.from_absolute(corrected, self.budget)
        return {"budget": budget, "latency_model": self.latency_model_of(network)}

    def latency_model_of(self, network: Network) -> LatencyModel | None:
        """The latency model for the present network; None if nothing asks for speed.

        The correction factor is the dense network's, for any network.
        """
        model = self.latency_model
        if model is None:
            return None
        return replace(model, dense_ms=self._scale * model.predictor(network)(network.alive()))

    def check_memory(self, network: Network, smallest: Cut) -> None:
        """Check that some cut meets the limit on memory.

        Raises:
            BudgetError: even the smallest cut does not; the message says how much it takes.
        """
        if MEMORY not in self.limits or self.budget is None:
            return
        least = self.measure(MEMORY, network, smallest)
        if least > self.limits[MEMORY]:
            raise BudgetError(
                f"{network.name}: no cut within the floors meets "
                f"{MEMORY}={self.budget.peak_memory_mb}; the nearest that can be met is "
                f"{MEMORY}={least:.3g}. Ask for that, or lower the floor."
            )

    def describe_missed(self, network: Network) -> str:
        """Cost of the present model in each exceeded limit, as text; "" if all hold."""
        taken = {name: self.measure(name, network) for name in self.limits}
        over = [
            f"{name} {self._unit_for(name, network).show(taken[name])}, asked for "
            f"{self._unit_for(name, network).show(limit)}"
            for name, limit in self.limits.items()
            if taken[name] > limit
        ]
        return "; ".join(over)

    @property
    def foreseen(self) -> Sequence[str]:
        """Units that can be predicted without making a model."""
        return [name for name in self.limits if name != MEMORY]

    def _unit_for(self, name: str, network: Network) -> Unit:
        unit = self._units[name]
        model = self.latency_model_of(network)
        if not isinstance(unit, TimedUnit) or model is None:
            return unit
        return replace(unit, predictor=Predictor(network, model))


def _is_timed(unit: Unit) -> bool:
    return isinstance(unit, TimedUnit)


def _memory_after(network: Network, cut: Cut) -> float:
    """Peak megabytes of a pass of the model after ``cut``, which is made for this."""
    backend, source = backend_named(network.source.framework), network.source
    model = source.model
    if cut:
        model = backend.apply(model, cut, source.example_inputs, network=network, proof=False)
    return backend.peak_memory(model, source.example_inputs) / 1e6
