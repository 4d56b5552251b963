"""What repair and planning need of a model's own configuration, whichever library defines it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from secateurs.channels.cut import Cut

Fields = Mapping[str, int | float]
"""Dotted path of a field -> its value; for lists, the last part of the path is the index."""


class NumberedConfiguration(Protocol):
    """Numbers in a configuration from which a model can be built anew."""

    @property
    def numbers(self) -> Fields:
        """The fields that may be widths, with their present values."""
        ...

    @property
    def unsaid(self) -> Fields:
        """Fields that the configuration omits, with the values that follow from other fields."""
        ...

    def shapes(self, fields: Fields) -> Mapping[str, tuple[int, ...]] | None:
        """Shapes of the tensors of a model built with these values; None if it cannot be built."""
        ...

    def rebuilds(self, cut: Cut, fields: Fields) -> bool:
        """Whether a model built with these values and a cut model's weights gives its outputs."""
        ...
