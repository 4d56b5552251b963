"""What a criterion is, and the one list of all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import Flag, auto
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.criteria.facts import Facts
from secateurs.errors import UnknownNameError, nearest

Score = NDArray[np.floating[Any]]
Function = Callable[[Facts], Score]


class Need(Flag):
    """What has to be gathered before a criterion can score."""

    NOTHING = 0
    WEIGHTS = auto()


@dataclass(frozen=True, slots=True)
class Criterion:
    """A way to rank the channels of a group. The lowest score is pruned first.

    Attributes:
        name: as users write it.
        function: facts about a group -> one score for each of its channels.
        needs: what has to be gathered first.
    """

    name: str
    function: Function
    needs: Need

    @property
    def card(self) -> str:
        """What it is, its formula, its cost, when it hurts, and where it is from."""
        return inspect.getdoc(self.function) or ""

    @property
    def summary(self) -> str:
        """The card's first line."""
        return self.card.partition("\n")[0]


CRITERIA: dict[str, Criterion] = {}


def criterion(needs: Need, name: str | None = None) -> Callable[[Function], Function]:
    """Register a function as a criterion under its own name, or another."""

    def register(function: Function) -> Function:
        known_as = name or function.__name__
        CRITERIA[known_as] = Criterion(known_as, function, needs)
        return function

    return register


def find(wanted: str | Function) -> Criterion:
    """The criterion of this name, or a user's own function as one.

    Raises:
        UnknownNameError: no criterion has this name.
    """
    if callable(wanted):
        return Criterion(getattr(wanted, "__name__", "own"), wanted, Need.WEIGHTS)
    try:
        return CRITERIA[wanted]
    except KeyError:
        raise UnknownNameError(
            f"no criterion named {wanted!r}{nearest(wanted, list(CRITERIA))}"
        ) from None
