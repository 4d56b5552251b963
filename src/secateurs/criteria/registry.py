"""The registry of criteria."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.arguments import takes_as_annotated
from secateurs.calibration.needs import Need
from secateurs.calibration.statistics import CalibrationStatistics
from secateurs.channels.network import Network
from secateurs.criteria.group_data import GroupData
from secateurs.errors import UnknownNameError, nearest
from secateurs.models.factories import function_named, names_a_function

Score = NDArray[np.floating[Any]]
Function = Callable[[GroupData], Score]
Caution = Callable[[Network, CalibrationStatistics], str]


@dataclass(frozen=True, slots=True)
class Criterion:
    """A way to rank the channels of a group. The lowest score is pruned first.

    Attributes:
        name: name of the criterion.
        function: function from ``GroupData`` to one score for each channel.
        needs: statistics that must be collected first.
        with_data: further statistics that are collected if calibration data are given.
        caution: function (network, statistics) -> why the scores may mean little, or ''.
    """

    name: str
    function: Function
    needs: Need
    with_data: Need = Need.NOTHING
    caution: Caution | None = None

    @property
    def card(self) -> str:
        """Its method card: definition, formula, cost, limits and source."""
        return inspect.getdoc(self.function) or ""

    @property
    def summary(self) -> str:
        """The card's first line."""
        return self.card.partition("\n")[0]


CRITERIA: dict[str, Criterion] = {}

AUTO = "auto"
"""Name that requests a tournament of criteria; see ``secateurs.planning.auto_criterion``."""


@takes_as_annotated(UnknownNameError)
def criterion(
    needs: Need,
    name: str | None = None,
    *,
    with_data: Need = Need.NOTHING,
    caution: Caution | None = None,
) -> Callable[[Function], Function]:
    """Register a function as a criterion, under its own name or ``name``."""

    def register(function: Function) -> Function:
        known_as = name or function.__name__
        CRITERIA[known_as] = Criterion(known_as, function, needs, with_data, caution)
        return function

    return register


@takes_as_annotated(UnknownNameError)
def find(wanted: str | Function) -> Criterion:
    """Find a criterion by name, or wrap a user's own function as one.

    A registered function keeps its needs; any other is given the weights only. A function that is
    not registered can be named ``package.module:function`` or ``path/to/file.py:function``.

    Raises:
        UnknownNameError: no criterion has this name.
    """
    if callable(wanted):
        registered = (known for known in CRITERIA.values() if known.function is wanted)
        unregistered = Criterion(getattr(wanted, "__name__", "own"), wanted, Need.WEIGHTS)
        return next(registered, unregistered)
    if names_a_function(wanted):
        return replace(find(function_named(wanted)), name=wanted)
    try:
        return CRITERIA[wanted]
    except KeyError:
        raise UnknownNameError(
            f"no criterion named {wanted!r}{nearest(wanted, [*CRITERIA, AUTO])}. One of your own: "
            "package.module:function, or FILE.py:FUNCTION"
        ) from None


def is_own(wanted: str | Function) -> bool:
    """Whether this is a user's function, registered or not."""
    return not str(find(wanted).function.__module__).startswith("secateurs.")


@takes_as_annotated(UnknownNameError)
def check_known(wanted: str | Function) -> None:
    """Raise ``UnknownNameError`` unless this is a criterion or "auto"."""
    if wanted != AUTO:
        find(wanted)
