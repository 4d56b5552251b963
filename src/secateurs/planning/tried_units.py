"""Units that only a cut model can tell: the loss of accuracy, the memory that a pass takes."""

from __future__ import annotations

from secateurs.arguments import format_value, is_number
from secateurs.errors import BudgetError
from secateurs.planning.units import Candidate, Limit, Unit


class TriedUnit(Unit):
    """A unit of which nothing is known before a model is made: several are made and measured."""

    @property
    def is_tried(self) -> bool:
        return True

    def predict(self, candidate: Candidate) -> float:
        raise BudgetError(
            f"{self.name}: only a cut model can tell. Ask sec.prune for it, which makes and "
            "measures several."
        )


class Drop(TriedUnit):
    """The largest loss of the task's own metric, such as accuracy, in its own units.

    Absolute always: 0.01 is a point of accuracy, for a model of 90 % as for one of 60 %.
    """

    name = "drop"

    def check(self, limit: Limit) -> None:
        if not is_number(limit) or float(limit) < 0:
            raise BudgetError(
                "drop: expected a number of at least 0, such as 0.01; received "
                f"{format_value(limit)}"
            )

    def check_share(self, limit: Limit) -> None:
        """Refuse points, where the metric is a share.

        Raises:
            BudgetError: it is above 1.
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
    """Megabytes of 1,000,000 bytes that weights and activations take at once in a pass."""

    name = "peak_memory_mb"

    def show(self, number: float) -> str:
        return f"{number:.3g} MB"
