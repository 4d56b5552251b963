"""Units of time: latency and quantities derived from it, predicted by a latency model.

Internally all are milliseconds, so that less is better: per call, or per example for throughput.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
from secateurs.errors import BudgetError
from secateurs.measurement.latency_model import LatencyModel
from secateurs.planning.units import Candidate, Limit, Unit

TOLERANCE = 0.05
"""A limit of time counts as met if the result is within this share below or above it."""


@dataclass(frozen=True)
class Predictor:
    """A latency model applied to one network.

    Attributes:
        network: as traced.
        model: latency model fitted for it.
    """

    network: Network
    model: LatencyModel

    @cached_property
    def _milliseconds(self) -> Callable[..., float]:
        return self.model.predictor(self.network)

    @cached_property
    def _scale(self) -> float:
        """Correction that makes the prediction exact for the dense network."""
        return self.model.dense_ms / self._milliseconds(self.network.alive())

    def milliseconds(self, candidate: Candidate) -> float:
        """Predicted milliseconds per call after a cut."""
        return self._scale * self._milliseconds(candidate.alive, candidate.blocks)


@dataclass(frozen=True)
class TimedUnit(Unit):
    """A unit that a latency model predicts; without one it can only be read and shown.

    Attributes:
        predictor: the latency model applied to a network, or None.
    """

    aim = 0.98
    slack = TOLERANCE
    predictor: Predictor | None = field(default=None)

    @property
    def is_corrected(self) -> bool:
        return True

    def limit_from(self, absolute: float) -> Limit:
        return absolute

    def predict(self, candidate: Candidate) -> float:
        return self._predictor.milliseconds(candidate)

    def measure(self, network: Network, cut: Cut) -> float:
        return self.predict(Candidate.after(network, cut))

    def convert(self, milliseconds: float, images: int) -> float:
        """Convert the milliseconds of a call with this many images to this unit."""
        del images
        return milliseconds

    def milliseconds(self, taken: float, images: int) -> float:
        """Inverse of ``convert``, so that limits in different units of time can be compared."""
        return taken / self.convert(1.0, images)

    @property
    def _predictor(self) -> Predictor:
        if self.predictor is None:
            raise BudgetError(
                f"{self.name}: expected a latency model; received none. Use sec.prune, sec.plan "
                "or sec.iterate, which make one."
            )
        return self.predictor

    def show(self, number: float) -> str:
        return f"{number:.3g} ms"


class Latency(TimedUnit):
    """A fraction of the dense model's time."""

    name = "latency"

    def check(self, limit: Limit) -> None:
        super().check(limit)
        if float(limit) > 1:
            raise BudgetError(
                f"latency: expected a fraction of the dense model's, such as 0.5; received "
                f"{limit}. For milliseconds: latency_ms={limit}"
            )

    def absolute(self, limit: Limit, dense: float) -> float:
        return float(limit) * dense

    def scale(self, limit: Limit, factor: float, absolute: float) -> Limit:
        return min(1.0, float(super().scale(limit, factor, absolute)))

    def show(self, number: float) -> str:
        if self.predictor is None:
            return super().show(number)
        return f"{number / self.predictor.model.dense_ms:.3g} ({number:.3g} ms)"


class LatencyMs(TimedUnit):
    """Milliseconds per call."""

    name = "latency_ms"

    def absolute(self, limit: Limit, dense: float) -> float:
        del dense
        return float(limit)


class Throughput(TimedUnit):
    """Least number of examples per second."""

    name = "throughput"

    def absolute(self, limit: Limit, dense: float) -> float:
        del dense
        return 1000 / float(limit)

    def scale(self, limit: Limit, factor: float, absolute: float) -> Limit:
        del absolute  # a rate grows as the time shrinks
        return float(limit) / factor

    def predict(self, candidate: Candidate) -> float:
        return self.convert(super().predict(candidate), self._predictor.model.images)

    def convert(self, milliseconds: float, images: int) -> float:
        return milliseconds / images

    def show(self, number: float) -> str:
        return f"{1000 / number:.4g} a second"


class Speedup(TimedUnit):
    """Least speed relative to the dense model's."""

    name = "speedup"

    def check(self, limit: Limit) -> None:
        super().check(limit)
        if float(limit) < 1:
            raise BudgetError(
                f"speedup: expected a number of at least 1, such as 2; received {limit}. For a "
                f"fraction of the time: latency={limit}"
            )

    def absolute(self, limit: Limit, dense: float) -> float:
        return dense / float(limit)

    def scale(self, limit: Limit, factor: float, absolute: float) -> Limit:
        del absolute
        return max(1.0, float(limit) / factor)

    def show(self, number: float) -> str:
        if self.predictor is None:
            return super().show(number)
        return f"{self.predictor.model.dense_ms / number:.3g}"
