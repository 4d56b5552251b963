"""Units that only a finished model can be judged by: loss of accuracy, peak memory."""

from __future__ import annotations

from secateurs.arguments import format_value, is_number
from secateurs.errors import BudgetError
from secateurs.planning.units import Candidate, Limit, Unit


class TriedUnit(Unit):
    """A unit that cannot be predicted: several models are made and measured."""

    @property
    def is_tried(self) -> bool:
        return True

    def predict(self, candidate: Candidate) -> float:
        raise BudgetError(
            f"{self.name}: it can only be measured on a cut model. Use sec.prune, which makes and "
            "measures several."
        )


class Drop(TriedUnit):
    """Largest decrease of the task's own metric, such as accuracy, in the metric's units.

    Always absolute: 0.01 is one point of accuracy, for a model of 90 % as for one of 60 %.
    """

    name = "drop"

    def check(self, limit: Limit) -> None:
        if not is_number(limit) or float(limit) < 0:
            raise BudgetError(
                "drop: expected a number of at least 0, such as 0.01; received "
                f"{format_value(limit)}"
            )

    def check_share(self, limit: Limit) -> None:
        """Check that the limit is a fraction, not percentage points, where the metric is one.

        Raises:
            BudgetError: the limit is above 1.
        """
        if float(limit) > 1:
            raise BudgetError(
                "drop: expected a share of 1, such as 0.01 for a point of accuracy; received "
                f"{format_value(limit)}. {float(limit):g} points are drop={float(limit) / 100:g}"
            )

    def absolute(self, limit: Limit, dense: float) -> float:
        del dense
        return float(limit)

    def show(self, number: float) -> str:
        return f"{number:.4g}"


class PeakMemoryMb(TriedUnit):
    """Peak size of weights and activations in a pass, in megabytes of 1,000,000 bytes."""

    name = "peak_memory_mb"

    def show(self, number: float) -> str:
        return f"{number:.3g} MB"
