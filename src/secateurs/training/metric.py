"""What a metric is to whoever shows it: its name, its direction and how it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from secateurs.formatting import percent, points

_ACCURACY = "accuracy"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's name, direction and format.

    A study compares by scores, of which higher is always better: the metric itself, or where lower
    is better its negative. Whatever is shown or written down is the metric, in its own units.

    Attributes:
        name: as a person calls it: "accuracy", "perplexity", "mean IoU".
        higher_is_better: its direction.
        is_share: whether it lies between 0 and 1 and is written in percent.

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
        """The metric that a study's first record names; accuracy where it names none."""
        fields = (record or {}).get("metric")
        return cls(**fields) if isinstance(fields, Mapping) else cls()

    @property
    def key(self) -> str:
        """What it is called in records: accuracy by its name, any other "value"."""
        return _ACCURACY if self.name == _ACCURACY else "value"

    @property
    def record_fields(self) -> dict[str, Any]:
        """The fields by which a study's first record names it; none for accuracy."""
        return {} if self == Metric() else {"metric": asdict(self)}

    def value(self, score: float) -> float:
        """The metric, of the number that is compared by."""
        return score if self.higher_is_better else -score

    def score(self, value: float) -> float:
        """The number that is compared by, higher being better."""
        return value if self.higher_is_better else -value

    def field(self, score: float | None, before: str = "") -> dict[str, float | None]:
        """What a record holds for a score: the metric itself, under its key.

        Args:
            score: that is compared by; None where it is not known.
            before: put before the key, such as "dense_".
        """
        return {f"{before}{self.key}": None if score is None else self.value(score)}

    def text(self, value: float) -> str:
        """The metric as people read it: '93.3 %', '12.35'."""
        return percent(value) if self.is_share else f"{value:.4g}"

    def change(self, value: float, before: float) -> str:
        """What it has changed by: '+0.3 points', '+0.5'."""
        change = value - before
        return points(change) if self.is_share else f"{change:+.3g}"
