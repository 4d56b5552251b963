"""The units that a budget can be given in, one small class each.

A unit says how a limit is read from text, checked and made absolute; what a network takes of it,
predicted before a cut is made and measured once it is known; and how a number of it is shown. A
new unit is a class here (or a file of its own) and a line in ``UNITS``.
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
"""As users give it: a fraction of the dense model, an absolute number, or a size as text."""


@dataclass(frozen=True)
class Candidate:
    """A network of which only some atoms would stay.

    Attributes:
        network: as traced.
        alive: whether each atom stays; shape (atoms,).
        blocks: residual blocks that would go whole.
    """

    network: Network
    alive: NDArray[np.bool_]
    blocks: tuple[BlockCut, ...] = ()

    @classmethod
    def after(cls, network: Network, cut: Cut) -> Candidate:
        """What a cut of this network would leave."""
        return cls(network, network.alive(network.removed_by(cut)), cut.blocks)

    @cached_property
    def cost(self) -> Cost:
        """What it would cost."""
        if self.blocks:
            return self.network.cost_without(self.blocks, self.alive)
        return self.network.cost_of(self.alive)

    def channels(self) -> int:
        """Places along widths; a search asks for the one cost that it limits, hundreds of times."""
        one = self.network.costs.channels
        return self.cost.channels if self.blocks else one(self.alive)

    def params(self) -> int:
        """Numbers in the parameters."""
        one = self.network.costs.params
        return self.cost.params if self.blocks else one(self.alive)

    def macs(self) -> int:
        """Multiply-accumulates of a pass."""
        one = self.network.costs.macs
        return self.cost.macs if self.blocks else one(self.alive)


class Unit(ABC):
    """What a budget can limit.

    Attributes:
        name: as a budget's keyword, and on the command line.
        aim: the share of a limit that a plan aims at where the result is measured.
        slack: the share of a limit that a measured result may be above it.
    """

    name: ClassVar[str]
    aim: ClassVar[float] = 1.0
    slack: ClassVar[float] = 1e-9

    def read(self, text: str) -> Limit:
        """The limit that a text such as ``"0.5"`` gives.

        Raises:
            BudgetError: it is no number.
        """
        try:
            return float(text)
        except ValueError:
            raise BudgetError(f"{self.name}: expected a number; received {text!r}") from None

    def check(self, limit: Limit) -> None:
        """Raise unless the limit can be one of this unit.

        Raises:
            BudgetError: it cannot.
        """
        if not is_number(limit) or float(limit) <= 0:
            shown = format_value(limit)
            raise BudgetError(f"{self.name}: expected a number above 0; received {shown}")

    def absolute(self, limit: Limit, dense: float) -> float:
        """The limit as ``measure`` counts, given what the dense model takes.

        A number below 1 is a fraction of the dense model, and so is 1.0; 1 is one.
        """
        return float(limit) * dense if is_fraction(limit) else float(limit)

    def limit_from(self, absolute: float) -> Limit:
        """The limit that ``absolute`` reads as this number: never as a fraction."""
        return max(absolute, 2.0)

    def scale(self, limit: Limit, factor: float, absolute: float) -> Limit:
        """The limit that allows ``factor`` times what this one does.

        Args:
            limit: as it was given.
            factor: above 0.
            absolute: the same limit as ``measure`` counts.
        """
        del absolute
        return float(limit) * factor

    @abstractmethod
    def predict(self, candidate: Candidate) -> float:
        """What a network takes, before it is cut: cheap, since a search asks hundreds of times."""

    def measure(self, network: Network, cut: Cut) -> float:
        """What the network takes after a cut.

        Args:
            network: as traced.
            cut: of this network.
        """
        return self.predict(Candidate.after(network, cut))

    def show(self, number: float) -> str:
        """A number of this unit, as a message says it."""
        return formatting.count(number)

    @property
    def is_tried(self) -> bool:
        """Whether only a cut model can tell: then a search makes and measures several."""
        return False

    @property
    def is_corrected(self) -> bool:
        """Whether what is predicted is measured on the result, and the plan made again by that."""
        return False


def is_fraction(limit: Limit) -> bool:
    """Whether a limit is meant as a share of what the dense model takes."""
    if isinstance(limit, str):
        return False
    return limit < 1 or (limit == 1 and isinstance(limit, float))


class Channels(Unit):
    """Channels of the groups that can be pruned."""

    name = "channels"

    def predict(self, candidate: Candidate) -> float:
        return candidate.channels()


class Params(Unit):
    """Numbers in the parameters."""

    name = "params"

    def predict(self, candidate: Candidate) -> float:
        return candidate.params()


class Macs(Unit):
    """Multiply-accumulates of a pass over the example inputs."""

    name = "macs"

    def predict(self, candidate: Candidate) -> float:
        return candidate.macs()


@dataclass(frozen=True)
class SizeMb(Unit):
    """The saved file: megabytes to the user, bytes in here.

    It is predicted by its tensors; its header is known once the cut is, and grows with it. A file
    of another format than safetensors is written to know the rest of it.

    Attributes:
        kind: the file's format and precision.
    """

    name = "size_mb"
    aim = 0.995
    slack = -5e-4  # numbers in a file's text (zero points) differ by some bytes from run to run
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
        # The file's header tells of all that has gone, and only a cut of this network has shapes.
        earlier = _cut_before(network)
        whole = earlier.then(cut) if earlier else cut
        if self.kind.is_foreseen:
            return predict_file_size(network, whole, self.kind)
        tensors = self.predict(Candidate.after(network, cut))
        return tensors + len(whole.to_json().encode()) + self.kind.overhead(network)

    def show(self, number: float) -> str:
        return f"{number / 1e6:.3g} MB"


def _cut_before(network: Network) -> Cut:
    """What had gone from the model before it was traced, of which its file tells as well."""
    model = getattr(network.source, "model", None)
    return Cut() if model is None else report_of(model).cut


def bytes_from(size: str) -> float:
    """``"400 kB"`` -> 400000.0.

    Raises:
        BudgetError: it is no size.
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
