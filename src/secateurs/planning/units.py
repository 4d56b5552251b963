"""The units in which a budget can be given, one small class each.

A unit defines how a limit is read from text, checked and made absolute; a network's cost in it,
predicted before a cut is made and measured once the cut is known; and how a cost is shown. A new
unit is a class here (or in a file of its own) and a line in ``UNITS``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from secateurs import formatting
from secateurs.arguments import format_value, is_number
from secateurs.channels.blocks import BlockCut
from secateurs.channels.cost import Cost
from secateurs.channels.cut import Cut
from secateurs.channels.file_size import (
    USUAL,
    FileKind,
    count_bytes_without,
    count_stored_bytes,
    predict_file_size,
)
from secateurs.channels.network import Network
from secateurs.channels.proof import report_of
from secateurs.errors import BudgetError

Limit = float | str
"""A limit as users give it: a fraction of the dense model, a number, or a size as text."""


@dataclass(frozen=True)
class Candidate:
    """A network of which only some atoms would be kept.

    Attributes:
        network: as traced.
        alive: mask of the kept atoms, shape (atoms,).
        blocks: residual blocks that would be removed whole.
    """

    network: Network
    alive: NDArray[np.bool_]
    blocks: tuple[BlockCut, ...] = ()

    @classmethod
    def after(cls, network: Network, cut: Cut) -> Candidate:
        """The candidate that a cut of this network would leave."""
        return cls(network, network.alive(network.removed_by(cut)), cut.blocks)

    @cached_property
    def cost(self) -> Cost:
        """Its cost."""
        if self.blocks:
            return self.network.cost_without(self.blocks, self.alive)
        return self.network.cost_of(self.alive)

    def channels(self) -> int:
        """Positions along widths. Searches call the single costs hundreds of times."""
        one = self.network.costs.channels
        return self.cost.channels if self.blocks else one(self.alive)

    def params(self) -> int:
        """Number of parameters."""
        one = self.network.costs.params
        return self.cost.params if self.blocks else one(self.alive)

    def macs(self) -> int:
        """Multiply-accumulates of a forward pass."""
        one = self.network.costs.macs
        return self.cost.macs if self.blocks else one(self.alive)


class Unit(ABC):
    """A quantity that a budget can limit.

    Attributes:
        name: keyword in a budget, and name on the command line.
        aim: share of a limit that plans aim at if the result is measured.
        slack: share by which a measured result may exceed a limit.
    """

    name: ClassVar[str]
    aim: ClassVar[float] = 1.0
    slack: ClassVar[float] = 1e-9

    def read(self, text: str) -> Limit:
        """Read a limit from text such as ``"0.5"``.

        Raises:
            BudgetError: the text is not a number.
        """
        try:
            return float(text)
        except ValueError:
            raise BudgetError(f"{self.name}: expected a number; received {text!r}") from None

    def check(self, limit: Limit) -> None:
        """Check that a limit is valid for this unit.

        Raises:
            BudgetError: it is not.
        """
        if not is_number(limit) or float(limit) <= 0:
            shown = format_value(limit)
            raise BudgetError(f"{self.name}: expected a number above 0; received {shown}")

    def absolute(self, limit: Limit, dense: float) -> float:
        """The limit in the unit of ``measure``, given the dense model's cost.

        A number below 1 is a fraction of the dense model, and so is the float 1.0; the integer 1
        is absolute.
        """
        return float(limit) * dense if is_fraction(limit) else float(limit)

    def limit_from(self, absolute: float) -> Limit:
        """The limit that ``absolute`` reads as this number, never as a fraction."""
        return max(absolute, 2.0)

    def scale(self, limit: Limit, factor: float, absolute: float) -> Limit:
        """A limit that allows ``factor`` times as much.

        Args:
            limit: the limit as it was given.
            factor: positive factor.
            absolute: the same limit in the unit of ``measure``.
        """
        del absolute
        return float(limit) * factor

    @abstractmethod
    def predict(self, candidate: Candidate) -> float:
        """Predicted cost of a network before it is cut; cheap, as searches call it often."""

    def measure(self, network: Network, cut: Cut) -> float:
        """Cost of the network after a cut.

        Args:
            network: as traced.
            cut: cut of this network.
        """
        return self.predict(Candidate.after(network, cut))

    def show(self, number: float) -> str:
        """Format a cost in this unit, for messages."""
        return formatting.count(number)

    @property
    def is_tried(self) -> bool:
        """Whether only a finished model can be judged: a search makes and measures several."""
        return False

    @property
    def is_corrected(self) -> bool:
        """Whether predictions are checked on the result, and the plan corrected by the error."""
        return False


def is_fraction(limit: Limit) -> bool:
    """Whether a limit is a fraction of the dense model's cost."""
    if isinstance(limit, str):
        return False
    return limit < 1 or (limit == 1 and isinstance(limit, float))


class Channels(Unit):
    """Total width of the groups that can be pruned."""

    name = "channels"

    def predict(self, candidate: Candidate) -> float:
        return candidate.channels()


class Params(Unit):
    """Number of parameters."""

    name = "params"

    def predict(self, candidate: Candidate) -> float:
        return candidate.params()


class Macs(Unit):
    """Multiply-accumulates of a forward pass over the example inputs."""

    name = "macs"

    def predict(self, candidate: Candidate) -> float:
        return candidate.macs()


@dataclass(frozen=True)
class SizeMb(Unit):
    """Size of the saved file: megabytes to the user, bytes internally.

    It is predicted from the tensors; the header is known once the cut is, and grows with it. Files
    in other formats than safetensors are written to learn the rest of their size.

    Attributes:
        kind: format and precision of the file.
    """

    name = "size_mb"
    aim = 0.995
    slack = -5e-4  # text in a file (zero points) differs by some bytes from run to run
    kind: FileKind = USUAL

    @property
    def is_corrected(self) -> bool:
        return not self.kind.is_foreseen

    def read(self, text: str) -> Limit:
        try:
            return float(text)
        except ValueError:
            return text

    def check(self, limit: Limit) -> None:
        if isinstance(limit, str):
            bytes_from(limit)
        else:
            super().check(limit)

    def absolute(self, limit: Limit, dense: float) -> float:
        if isinstance(limit, str):
            return bytes_from(limit)
        return limit * (dense if is_fraction(limit) else 1e6)

    def limit_from(self, absolute: float) -> Limit:
        return f"{absolute / 1e3:.3f} kB"

    def scale(self, limit: Limit, factor: float, absolute: float) -> Limit:
        del limit
        return self.limit_from(factor * absolute)

    def predict(self, candidate: Candidate) -> float:
        if candidate.blocks:
            return count_bytes_without(
                candidate.network, candidate.blocks, candidate.alive, self.kind
            )
        return count_stored_bytes(candidate.network, candidate.alive, self.kind)

    def measure(self, network: Network, cut: Cut) -> float:
        # The file's header describes all cuts so far, but only this network's cut has shapes.
        earlier = _cut_before(network)
        whole = earlier.then(cut) if earlier else cut
        if self.kind.is_foreseen:
            return predict_file_size(network, whole, self.kind)
        tensors = self.predict(Candidate.after(network, cut))
        return tensors + len(whole.to_json().encode()) + self.kind.overhead(network)

    def show(self, number: float) -> str:
        return f"{number / 1e6:.3g} MB"


def _cut_before(network: Network) -> Cut:
    """The cut made before the model was traced, which its file describes as well."""
    model = getattr(network.source, "model", None)
    return Cut() if model is None else report_of(model).cut


def bytes_from(size: str) -> float:
    """``"400 kB"`` -> 400000.0.

    Raises:
        BudgetError: the text is not a size.
    """
    number, unit = size.strip(), "mb"
    for known in ("kb", "mb", "gb"):
        if size.strip().lower().endswith(known):
            number, unit = size.strip()[:-2], known
    try:
        value = float(number) * {"kb": 1e3, "mb": 1e6, "gb": 1e9}[unit]
    except ValueError:
        value = -1.0
    if value <= 0:
        raise BudgetError(f"size_mb: expected a size such as 15 or '400 kB'; received {size!r}")
    return value
