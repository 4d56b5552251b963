"""A layer's own activations, where the values read by its consumers were pooled first.

How often a neuron is zero is a property of its activations. A maximum over a window is zero only
if the whole window is, and an average almost never is. So values are traced back from where they
are read, through pools, data movements and joins of several branches, to the operands that were
pooled first.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.equations import ALWAYS, Ids, Solution


class Effect(Enum):
    """What an operation does to the values of its operands."""

    MOVES = auto()
    """Passes on values of its first operand, or some of them."""
    POOLS = auto()
    """Combines several values, adds a term by position, or shifts and scales each channel."""
    JOINS = auto()
    """Concatenates its operands."""
    ADDS = auto()
    """Adds elementwise; if all operands were pooled, so was the sum."""
    CHOOSES = auto()
    """Takes an elementwise maximum or minimum: pooled if both operands were, else an activation."""
    SCALES = auto()
    """Multiplies by a factor that is hardly ever zero: a gate, a number."""
    ACTS = auto()
    """Produces values of its own."""


@dataclass(frozen=True, order=True, slots=True)
class Origin:
    """Values before they are pooled: an operand of an operation.

    Attributes:
        step: index of the operation.
        operand: index of the tensor among its operands.
    """

    step: int
    operand: int


@dataclass(frozen=True, eq=False, slots=True)
class Activation:
    """Values before they are pooled, as far as they are read.

    Attributes:
        origin: the values.
        axis: axis along which the channels lie.
        index: indices along this axis that are read.
        units: units at these indices.
    """

    origin: Origin
    axis: int
    index: NDArray[np.int64]
    units: Ids


@dataclass(eq=False, slots=True)
class Origins:
    """For every value of a run, what it was pooled from; filled in the order of the run.

    Values are identified by any key that is unique to them. Those that do not depend on the images
    are left out.
    """

    _of: dict[Hashable, tuple[Origin, ...]] = field(default_factory=dict)

    def follow(
        self, step: int, effect: Effect, operands: Sequence[Hashable], results: Iterable[Hashable]
    ) -> None:
        """Add one operation; operands that do not depend on the images are passed as None."""
        below = [() if key is None else self._of.get(key, ()) for key in operands]
        live = [number for number, key in enumerate(operands) if key is not None]
        found = _origins(step, effect, below, live)
        for key in results:
            if key not in operands:  # unless the operation returned its very operand
                self._of[key] = found

    def of(self, key: Hashable) -> tuple[Origin, ...]:
        """What a value was pooled from; () if it is read as it is."""
        return self._of.get(key, ())


def _origins(
    step: int, effect: Effect, below: Sequence[tuple[Origin, ...]], live: Sequence[int]
) -> tuple[Origin, ...]:
    match effect:
        case Effect.MOVES:
            return below[0] if below else ()
        case Effect.POOLS:
            return (below[0] or (Origin(step, 0),)) if below else ()
        case Effect.JOINS | Effect.ADDS | Effect.CHOOSES | Effect.SCALES:
            parts = _of_several(step, effect, below, live)
        case _:
            parts = []
    return tuple(dict.fromkeys(origin for part in parts for origin in part))


def _of_several(
    step: int, effect: Effect, below: Sequence[tuple[Origin, ...]], live: Sequence[int]
) -> list[tuple[Origin, ...]]:
    """Origins of a result of several operands, for each operand that it takes them from."""
    pooled = [number for number in live if below[number]]
    if effect is Effect.JOINS:  # operands side by side: those that are read as they are, too
        return [below[number] or (Origin(step, number),) for number in live if pooled]
    if effect is Effect.SCALES:
        return [below[pooled[0]]] if len(pooled) == 1 else []
    is_lone = effect is Effect.CHOOSES and len(live) < 2
    if is_lone or pooled != list(live):
        return []
    return [below[number] for number in live]


def activations_read(
    solution: Solution, read: Ids, origins: Sequence[tuple[Origin, Mapping[int, Ids]]]
) -> tuple[Activation, ...]:
    """The activations that values were pooled from; () if some channel's cannot be determined.

    Args:
        solution: solution of the network's equations.
        read: units along the axis that is read.
        origins: what the values were pooled from, each with the units along its axes.
    """
    sides = [(origin, axis, units) for origin, axes in origins for axis, units in axes.items()]
    wanted, *numbers = _numbers(solution, [read, *(units for *_, units in sides)])
    found: dict[Origin, Activation] = {}
    covered: dict[Origin, NDArray[np.int64]] = {}
    for (origin, axis, units), known in zip(sides, numbers, strict=True):
        index = np.flatnonzero((known != NEVER) & np.isin(known, wanted))
        if len(index) > (len(found[origin].index) if origin in found else 0):
            found[origin] = Activation(origin, axis, index, units[index])
            covered[origin] = known[index]
    missing = np.setdiff1d(wanted, np.concatenate([[NEVER], *covered.values()]))
    return () if len(missing) else tuple(found.values())


NEVER = -1
"""Number of units that nothing removes."""


def _numbers(solution: Solution, sides: Sequence[Ids]) -> list[NDArray[np.int64]]:
    """For each side, numbers of its units: equal for units that need the same atoms."""
    atoms = solution.atoms[np.concatenate(sides)]
    numbers = np.zeros(len(atoms), np.int64)
    for column in atoms.T:  # renumbered after each column, so that no product overflows
        numbers = np.unique(numbers * solution.count + column, return_inverse=True)[1]
    numbers = np.where((atoms != ALWAYS).any(1), numbers, NEVER)
    return np.split(numbers, np.cumsum([len(side) for side in sides])[:-1])
