"""What a model's own configuration can say of its widths, whoever keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from secateurs.channels.cut import Cut

Fields = Mapping[str, int | float]
"""Dotted path of a field, with a place in a list as its last part -> its value."""


class NumberedConfiguration(Protocol):
    """Numbers that a model can be built from anew, and what they build."""

    @property
    def numbers(self) -> Fields:
        """Those that may be widths, as they are now."""
        ...

    @property
    def unsaid(self) -> Fields:
        """Those of them that it leaves out, and that are as they are as long as others stay."""
        ...

    def shapes(self, fields: Fields) -> Mapping[str, tuple[int, ...]] | None:
        """Of each tensor of the model that is built with these values; None where none can be."""
        ...

    def rebuilds(self, cut: Cut, fields: Fields) -> bool:
        """Whether a model built with these values, of a cut model's weights, answers as it does."""
        ...
