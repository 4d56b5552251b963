"""The budget of a study at work: what each round's network takes of it, and when it is met.

What is predicted (times, files of other formats) is measured on the real model before it counts as
met; what was off is allowed for from then on. Memory is measured on models that are made for it.
The loss of accuracy is the study's tolerance, and no limit of a network.
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
"""What all limits of time become: they are one limit, and the least of them counts."""

MEMORY = "peak_memory_mb"


@dataclass
class Goals:
    """Limits of a study.

    Attributes:
        budget: as it was asked for; None asks for nothing.
        limits: unit -> the absolute number, as ``measure`` counts.
        latency_model: for limits of time.
        measured: unit -> (what the last real model took, what was predicted of it).
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
        """The limits in absolute numbers, given the dense network.

        Raises:
            SecateursError: the dense model cannot be timed, written or watched as that takes.
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
        """What the dense model takes; of what is written to be known, and from now on."""
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
        """The limit in milliseconds a call."""
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
        """What a network takes after ``cut``; where that is predicted, with what was off before.

        Args:
            name: of the unit.
            network: as it is now.
            cut: of it.
        """
        if name == MEMORY:
            return _memory_after(network, cut)
        unit = self._unit_for(name, network)
        predicted = unit.measure(network, cut)
        if name not in self.measured:
            return predicted
        real, foreseen = self.measured[name]
        # A file's text is beside its tensors; a time is off by a share.
        return predicted * real / foreseen if name == TIME else predicted + real - foreseen

    def fits(self, network: Network, cut: Cut | None = None) -> bool:
        """Whether a network, after ``cut``, is within the limits; never where there are none.

        Args:
            network: as it is now.
            cut: of ``network``; None looks at it as it is.
        """
        cut = cut or Cut()
        return bool(self.limits) and all(
            self.measure(name, network, cut) <= limit for name, limit in self.limits.items()
        )

    def are_met(self, network: Network) -> bool:
        """The same of the model as it is now, with what is predicted measured on it."""
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
        """Keywords of ``plan`` for limits that it can predict: the budget, the latency model."""
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
        """Of a network as it is now; None where nothing asks for speed.

        What the fit is off by is the dense network's, whatever network is looked at.
        """
        model = self.latency_model
        if model is None:
            return None
        return replace(model, dense_ms=self._scale * model.predictor(network)(network.alive()))

    def check_memory(self, network: Network, smallest: Cut) -> None:
        """Raise where even the smallest cut takes more memory than is allowed.

        Raises:
            BudgetError: it does; the message says how much it takes.
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
        """What the model as it is takes of each limit that it is not within; "" where all hold."""
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
        """The units that can be told without making a model."""
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
    """Megabytes at once in a pass of the model after ``cut``, which is made for that."""
    backend, source = backend_named(network.source.framework), network.source
    model = source.model
    if cut:
        model = backend.apply(model, cut, source.example_inputs, network=network, proof=False)
    return backend.peak_memory(model, source.example_inputs) / 1e6
