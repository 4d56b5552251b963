"""A layer's own activations, where what is read of them was pooled, padded or resized before.

How often a neuron is zero is a matter of its activations. A maximum over a window is zero only
where the whole window is, and an average hardly ever. So values are followed back from where they
are read, through pools, through what moves them about, and through joints of several branches, to
the operands that were pooled first.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.equations import ALWAYS, Ids, Solution


class Effect(Enum):
    """What an operation does to the values that it is given."""

    MOVES = auto()
    """Its values are those of its first operand, or some of them."""
    POOLS = auto()
    """It makes one value of several, adds some by position, or shifts and scales each channel."""
    JOINS = auto()
    """It puts its operands side by side."""
    ADDS = auto()
    """Element by element; where all that is added was pooled, the sum was, too."""
    CHOOSES = auto()
    """The larger or smaller of two: likewise of two that were pooled, else an activation."""
    SCALES = auto()
    """It multiplies by a factor that is zero hardly ever: a gate, a number."""
    ACTS = auto()
    """Its values are its own."""


@dataclass(frozen=True, order=True, slots=True)
class Origin:
    """Values before they are pooled: what an operation is given.

    Attributes:
        step: the number of the operation.
        operand: which of the tensors it is given.
    """

    step: int
    operand: int


@dataclass(frozen=True, eq=False, slots=True)
class Activation:
    """Values before they are pooled, as far as they are read.

    Attributes:
        origin: where they are.
        axis: along which of its axes the channels lie.
        index: those that are read, along this axis.
        units: which they are.
    """

    origin: Origin
    axis: int
    index: NDArray[np.int64]
    units: Ids


@dataclass(eq=False, slots=True)
class Origins:
    """For every value of a run, what it was pooled from; filled in the order of the run.

    Values are known by any key that is theirs alone. Those that do not depend on the images are
    left out.
    """

    _of: dict[Hashable, tuple[Origin, ...]] = field(default_factory=dict)

    def follow(
        self, step: int, effect: Effect, operands: Sequence[Hashable], results: Iterable[Hashable]
    ) -> None:
        """One operation; an operand that does not depend on the images is given as None."""
        below = [() if key is None else self._of.get(key, ()) for key in operands]
        live = [number for number, key in enumerate(operands) if key is not None]
        found = _origins(step, effect, below, live)
        for key in results:
            if key not in operands:  # the very tensor that it was given
                self._of[key] = found

    def of(self, key: Hashable) -> tuple[Origin, ...]:
        """What a value was pooled from; nothing where it is read as it is."""
        return self._of.get(key, ())


def _origins(
    step: int, effect: Effect, below: Sequence[tuple[Origin, ...]], live: Sequence[int]
) -> tuple[Origin, ...]:
    pooled = [number for number in live if below[number]]
    match effect:
        case Effect.MOVES:
            return below[0] if below else ()
        case Effect.POOLS:
            return (below[0] or (Origin(step, 0),)) if below else ()
        case Effect.JOINS:
            parts = [below[number] or (Origin(step, number),) for number in live if pooled]
        case Effect.ADDS | Effect.CHOOSES:
            lone = effect is Effect.CHOOSES and len(live) < 2
            parts = [] if lone or pooled != list(live) else [below[number] for number in live]
        case Effect.SCALES:
            parts = [below[pooled[0]]] if len(pooled) == 1 else []
        case _:
            parts = []
    return tuple(dict.fromkeys(origin for part in parts for origin in part))


def activations_read(
    solution: Solution, read: Ids, origins: Sequence[tuple[Origin, Mapping[int, Ids]]]
) -> tuple[Activation, ...]:
    """The activations that values were pooled from; none where some channel's cannot be told.

    Args:
        solution: of the network's equations.
        read: the units along the axis that is read.
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
"""In the place of a unit that nothing removes."""


def _numbers(solution: Solution, sides: Sequence[Ids]) -> list[NDArray[np.int64]]:
    """For each side, one number a unit: the same for units that need the same atoms."""
    atoms = solution.atoms[np.concatenate(sides)]
    numbers = np.zeros(len(atoms), np.int64)
    for column in atoms.T:  # made small again after each, so that no product is too large
        numbers = np.unique(numbers * solution.count + column, return_inverse=True)[1]
    numbers = np.where((atoms != ALWAYS).any(1), numbers, NEVER)
    return np.split(numbers, np.cumsum([len(side) for side in sides])[:-1])
