"""Description of a metric: its name, direction and format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from secateurs.formatting import percent, points

_ACCURACY = "accuracy"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's name, direction and format.

    A study compares scores, of which higher is always better: the metric itself, or its negative
    where lower is better. What is shown or recorded is the metric, in its own units.

    Attributes:
        name: display name: "accuracy", "perplexity", "mean IoU".
        higher_is_better: direction of the metric.
        is_share: whether it lies between 0 and 1 and is shown in percent.

    Example:
        >>> perplexity = Metric("perplexity", higher_is_better=False, is_share=False)
        >>> perplexity.text(12.3456), perplexity.change(12.5, 12.0), perplexity.value(-12.5)
        ('12.35', '+0.5', 12.5)
    """

    name: str = _ACCURACY
    higher_is_better: bool = True
    is_share: bool = True

    @classmethod
    def of(cls, record: Mapping[str, Any] | None) -> Self:
        """The metric named in a study's first record; accuracy if it names none."""
        fields = (record or {}).get("metric")
        return cls(**fields) if isinstance(fields, Mapping) else cls()

    @property
    def key(self) -> str:
        """Key of its values in records: "accuracy", or "value" for any other metric."""
        return _ACCURACY if self.name == _ACCURACY else "value"

    @property
    def record_fields(self) -> dict[str, Any]:
        """Fields that describe it in a study's first record; none for accuracy."""
        return {} if self == Metric() else {"metric": asdict(self)}

    def value(self, score: float) -> float:
        """Convert a score to the metric."""
        return score if self.higher_is_better else -score

    def score(self, value: float) -> float:
        """Convert the metric to a score, higher being better."""
        return value if self.higher_is_better else -value

    def field(self, score: float | None, before: str = "") -> dict[str, float | None]:
        """Fields of a record for a score: the metric itself, under its key.

        Args:
            score: the score; None if it is not known.
            before: prefix of the key, such as "dense_".
        """
        return {f"{before}{self.key}": None if score is None else self.value(score)}

    def text(self, value: float) -> str:
        """Format the metric: '93.3 %', '12.35'."""
        return percent(value) if self.is_share else f"{value:.4g}"

    def change(self, value: float, before: float) -> str:
        """Format a change of the metric: '+0.3 points', '+0.5'."""
        change = value - before
        return points(change) if self.is_share else f"{change:+.3g}"
