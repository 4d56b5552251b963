"""Units and the equations between them.

Every index along every tracked axis of every tensor is a *unit*, identified by a number. A network
is a set of statements about units:

- ``equate``: two units are the same channel, so both are removed or neither;
- ``factor``: the units of one axis form a grid (heads by positions, groups by channels), and what
  is removed must leave a grid: a cell is kept exactly while its row and its column both are;
- ``freeze``: a unit may never be removed, for a given reason.

``solve`` turns the statements into *atoms*, the smallest sets of units that can be removed, and
says for each unit which atoms it needs. Most units need one atom (their own class); a cell of a
grid needs several; a frozen unit needs none, so nothing can remove it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Ids = NDArray[np.int64]
"""Unit numbers, one for each index along an axis."""

ALWAYS = 0
"""The atom that is never removed; also the padding in a row of atoms."""

DISAGREEING_GRIDS = "two reshapes divide these channels in ways that no cut satisfies"

COPIES = "all copies of the same channels are needed"


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The cells of an axis viewed as a grid, and the units that stand for its rows, columns, ..."""

    cells: Ids
    """Flat, in row-major order; ``prod(len(side) for side in sides)`` of them."""
    sides: tuple[Ids, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(side) for side in self.sides)

    def sides_of(self, positions: Ids) -> list[Ids]:
        """The side units, one array for each side, of the cells at these flat positions."""
        coordinates = np.unravel_index(positions, self.shape)
        return [side[at] for side, at in zip(self.sides, coordinates, strict=True)]


@dataclass(frozen=True, slots=True)
class Solution:
    """The atoms that each unit needs in order to be kept.

    Attributes:
        atoms: shape (units, most atoms that one unit needs); rows are padded with ``ALWAYS``.
            A unit is kept while none of its atoms is removed.
        count: number of atoms, ``ALWAYS`` included; atoms are 1 .. count - 1.
        reasons: unit that nothing can remove -> why.
    """

    atoms: Ids
    count: int
    reasons: dict[int, tuple[str, ...]]

    def mark_kept(self, alive: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Mask of the kept units for a mask of kept atoms (shape (count,), ``ALWAYS`` true)."""
        kept = alive[self.atoms[:, 0]]
        for further in self.atoms.T[1:]:  # few long columns: faster than reducing along rows
            kept &= alive[further]
        return kept


@dataclass
class Equations:
    """The statements collected while a network is traced."""

    _count: int = 0
    _left: list[Ids] = field(default_factory=list)
    _right: list[Ids] = field(default_factory=list)
    _grids: list[Grid] = field(default_factory=list)
    _grid_by_key: dict[tuple[object, ...], tuple[Ids, ...]] = field(default_factory=dict)
    _sides_by_cells: dict[bytes, tuple[Ids, ...]] = field(default_factory=dict)
    _frozen: list[tuple[Ids, str]] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Number of units so far."""
        return self._count

    def units(self, number: int) -> Ids:
        """Create units that are different from all others."""
        first = self._count
        self._count += number
        return np.arange(first, self._count)

    def equate(self, left: Ids, right: Ids) -> None:
        """State that the units at the same index of both arrays are removed together."""
        if left is right:
            return
        if left.shape != right.shape:
            raise ValueError(
                f"expected as many units on both sides of an equation; "
                f"received {len(left)} and {len(right)}"
            )
        self._left.append(left)
        self._right.append(right)

    def freeze(self, units: Ids, reason: str) -> None:
        """State that these units may never be removed, because of ``reason``."""
        self._frozen.append((np.unique(units), reason))

    def factor(self, cells: Ids, shape: Sequence[int]) -> tuple[Ids, ...]:
        """View an axis as a grid of ``shape``; returns the units that stand for each side.

        Viewing the same axis as the same grid again returns the same sides.
        """
        key = (tuple(shape), cells.tobytes())
        sides = self._grid_by_key.get(key)
        if sides is None:
            sides = tuple(self.units(size) for size in shape)
            self._add_grid(cells, sides)
            self._grid_by_key[key] = sides
        return sides

    def compose(self, sides: Sequence[Ids]) -> Ids:
        """The reverse of ``factor``: the axis whose grid has these sides, in row-major order."""
        key = ("compose", *(side.tobytes() for side in sides))
        known = self._grid_by_key.get(key)
        if known is None:
            cells = self.units(math.prod(len(side) for side in sides))
            self._add_grid(cells, tuple(sides))
            known = self._grid_by_key[key] = (cells,)
        return known[0]

    def sides(self, cells: Ids) -> tuple[Ids, ...] | None:
        """The sides of the grid that has exactly these cells, if there is one."""
        return self._sides_by_cells.get(cells.tobytes())

    def _add_grid(self, cells: Ids, sides: tuple[Ids, ...]) -> None:
        if len(cells) != math.prod(len(side) for side in sides):
            raise ValueError(
                f"expected {math.prod(len(side) for side in sides)} cells for a grid of "
                f"{'x'.join(str(len(side)) for side in sides)}; received {len(cells)}"
            )
        self._grids.append(Grid(cells, sides))
        self._sides_by_cells.setdefault(cells.tobytes(), sides)

    def solve(self, guesses: Sequence[tuple[Ids, Ids]] = ()) -> Solution:
        """Solve all statements made so far.

        Args:
            guesses: further equations for this solution only; they are not kept.
        """
        work = _Solver(
            self._count,
            [*zip(self._left, self._right, strict=True), *guesses],
            list(self._grids),
            list(self._frozen),
        )
        return work.solve()


@dataclass
class _Solver:
    """One run of ``Equations.solve``: adds implied statements until a fixed point is reached.

    Why not union-find alone? Plain equations are connected components, found once. A grid implies
    more: where two grids share a cell, their rows and columns must agree as well, and equating
    those makes further cells equal. No single pass finds all of this, so statements are added and
    the components recomputed until a round adds none. This terminates: each round either merges
    classes, of which there are finitely many, or settles a pair of grids of different shapes, and
    each pair is settled once (``settled``).

    Every statement added is *sufficient* for the network to stay correct, never just likely: equal
    coordinates make equal cells, and the finer of two shapes can express both. Where two shapes
    have no common refinement and neither divides a line of the other, both grids are frozen. That
    gives up channels that might have been removable, but cannot make a wrong cut.

    The remaining steps each need the one before: the grids are sorted so that a grid whose sides
    are cells of another comes after it (a cycle of such grids is frozen too); reasons spread from
    cells to rows and columns; and each class gets the atoms it needs, sides before cells.
    """

    count: int
    equal: list[tuple[Ids, Ids]]
    grids: list[Grid]
    frozen: list[tuple[Ids, str]]
    settled: set[tuple[int, int]] = field(default_factory=set)
    is_frozen: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    """For each class, whether it is frozen."""

    def solve(self) -> Solution:
        classes = self._classes()
        while self._reconcile_grids(classes):
            classes = self._classes()
        ordered = self._sides_first(classes)
        reasons = self._reasons(classes)
        atoms = self._atoms(ordered, classes, reasons)
        return _compact(atoms[classes], classes, reasons)

    def _classes(self) -> Ids:
        """For each unit, the number of its class under the equations."""
        if not self.equal:
            return np.arange(self.count)
        left = np.concatenate([pair[0] for pair in self.equal])
        right = np.concatenate([pair[1] for pair in self.equal])
        edges = coo_array((np.ones(len(left), np.int8), (left, right)), (self.count, self.count))
        return connected_components(edges, directed=False)[1].astype(np.int64)

    def _reconcile_grids(self, classes: Ids) -> bool:
        """Where two cells are in one class, make their sides agree. True if anything was added."""
        known = len(self.equal), len(self.grids), len(self.frozen)
        for first, second, at_first, at_second in _pair_shared_cells(tuple(self.grids), classes):
            self._reconcile(classes, first, second, at_first, at_second)
        return known != (len(self.equal), len(self.grids), len(self.frozen))

    def _reconcile(
        self, classes: Ids, first: int, second: int, at_first: Ids, at_second: Ids
    ) -> None:
        one, other = self.grids[first], self.grids[second]
        if len(one.shape) == len(other.shape) and (first == second or one.shape == other.shape):
            self._equate_sides(classes, one, other, at_first, at_second)
            return
        if (first, second) in self.settled:
            return
        self.settled.add((first, second))
        whole = len(at_first) == len(one.cells) == len(other.cells)
        whole = whole and np.array_equal(at_first, at_second)
        finer = _common_refinement(one.shape, other.shape) if whole else None
        if finer is not None:
            self._refine(one, other, finer)
            return
        if self._divide_line(classes, one, other, at_first, at_second):
            return
        if self._divide_line(classes, other, one, at_second, at_first):
            return
        if len(one.shape) == len(other.shape):
            self._equate_sides(classes, one, other, at_first, at_second)
        else:
            self.frozen.append((one.cells, DISAGREEING_GRIDS))
            self.frozen.append((other.cells, DISAGREEING_GRIDS))

    def _equate_sides(
        self, classes: Ids, one: Grid, other: Grid, at_one: Ids, at_other: Ids
    ) -> None:
        """Equate the sides of shared cells. Sufficient (equal coordinates make equal cells)."""
        sides = zip(one.sides_of(at_one), other.sides_of(at_other), strict=True)
        for left, right in sides:
            new = classes[left] != classes[right]
            if new.any():
                self.equal.append((left[new], right[new]))

    def _divide_line(
        self, classes: Ids, one: Grid, other: Grid, at_one: Ids, at_other: Ids
    ) -> bool:
        """Where one grid divides a line of another, divide that side too. False if it does not.

        An example is fused attention: queries, keys and values are rows of one grid, and each row
        is itself a grid of heads by positions. As long as the rows are frozen, cells are removed
        with their columns, so the columns themselves form the grid of heads by positions.
        """
        places = np.unravel_index(at_one[np.argsort(at_other)], one.shape)
        along = [axis for axis, at in enumerate(places) if (at != at[0]).any()]
        if len(along) != 1 or len(at_other) != len(other.cells):
            return False
        line = one.sides[along[0]][places[along[0]]]
        fixed = [side[at[0]] for side, at in zip(one.sides, places, strict=True)]
        del fixed[along[0]]
        frozen = [classes[units] for units, _ in self.frozen]
        if (
            len(np.unique(line)) != len(line)
            or not np.isin(classes[fixed], np.concatenate([*frozen, np.zeros(0, np.int64)])).all()
        ):
            return False
        self.grids.append(Grid(line, other.sides))
        return True

    def _refine(self, one: Grid, other: Grid, finer: tuple[int, ...]) -> None:
        """Express the sides of two grids over the same cells by the sides of a finer one."""
        fresh = tuple(self._new_units(size) for size in finer)
        for grid in (one, other):
            rest = list(fresh)
            for side in grid.sides:
                parts = [rest.pop(0)]
                while math.prod(len(part) for part in parts) < len(side):
                    parts.append(rest.pop(0))
                if len(parts) == 1:
                    self.equal.append((side, parts[0]))
                else:
                    self.grids.append(Grid(side, tuple(parts)))

    def _new_units(self, number: int) -> Ids:
        self.count += number
        return np.arange(self.count - number, self.count)

    def _reasons(self, classes: Ids) -> dict[int, tuple[str, ...]]:
        """Class -> why it is frozen. A frozen cell freezes its row and its column."""
        reasons: dict[int, tuple[str, ...]] = {}
        self.is_frozen = np.zeros(int(classes.max(initial=-1)) + 1, bool)
        for units, reason in self.frozen:
            numbers = np.unique(classes[units])
            is_known = self.is_frozen[numbers]
            reasons.update(dict.fromkeys(numbers[~is_known].tolist(), (reason,)))
            for number in numbers[is_known].tolist():
                if reason not in reasons[number]:
                    reasons[number] = (*reasons[number], reason)
            self.is_frozen[numbers] = True
        while sum(self._spread_frozen(grid, classes, reasons) for grid in self.grids):
            pass
        return reasons

    def _spread_frozen(self, grid: Grid, classes: Ids, reasons: dict[int, tuple[str, ...]]) -> bool:
        """Freeze the row and the column of each frozen cell. True if anything was added."""
        cells = classes[grid.cells]
        at = np.flatnonzero(self.is_frozen[cells])
        known = len(reasons)
        for side in grid.sides_of(at) if len(at) else ():
            numbers, first = np.unique(classes[side], return_index=True)
            self.is_frozen[numbers] = True
            for number, cell in zip(numbers.tolist(), cells[at[first]].tolist(), strict=True):
                reasons.setdefault(number, reasons[cell])
        return len(reasons) > known

    def _sides_first(self, classes: Ids) -> list[Grid]:
        """Sort the grids so that each follows those that have its sides as cells; freeze cycles."""
        is_open = np.zeros(int(classes.max(initial=-1)) + 1, bool)
        for grid in self.grids:
            is_open[classes[grid.cells]] = True
        ordered: list[Grid] = []
        waiting = list(self.grids)
        while waiting:
            ready = [g for g in waiting if not any(is_open[classes[s]].any() for s in g.sides)]
            if not ready:
                rest = self._without_copies(waiting, classes, is_open)
                if len(rest) < len(waiting):
                    waiting = rest
                    continue
                self.frozen += [(grid.cells, DISAGREEING_GRIDS) for grid in waiting]
                break
            for grid in ready:
                is_open[classes[grid.cells]] = False
            ordered += ready
            waiting = [grid for grid in waiting if not any(grid is done for done in ready)]
        return ordered

    def _without_copies(
        self, waiting: Sequence[Grid], classes: Ids, is_open: NDArray[np.bool_]
    ) -> list[Grid]:
        """Drop grids each of whose cells is what it is along one side, a copy of that.

        All copies are kept: then a cell goes with that side alone, as the equations say.
        """
        sides = [_find_copied_side(grid, classes) for grid in waiting]
        rest = [grid for grid, copied in zip(waiting, sides, strict=True) if copied is None]
        cells = np.zeros_like(is_open)
        for grid in rest:
            cells[classes[grid.cells]] = True
        for grid, copied in zip(waiting, sides, strict=True):
            if copied is not None:
                others = grid.sides[:copied] + grid.sides[copied + 1 :]
                self.frozen += [(side, COPIES) for side in others]
                is_open[classes[grid.cells]] = cells[classes[grid.cells]]
        return rest

    def _atoms(self, ordered: list[Grid], classes: Ids, reasons: dict[int, tuple[str, ...]]) -> Ids:
        """For each class, the atoms it needs (class number + 1), padded with ALWAYS.

        A class that is not a cell needs itself; a cell needs what its row and its column need.
        """
        table = np.arange(1, int(classes.max(initial=-1)) + 2)[:, None]
        for grid in ordered:
            table = self._with_needs_of(grid, classes, table, reasons)
        table[self.is_frozen] = ALWAYS
        return table

    def _with_needs_of(
        self, grid: Grid, classes: Ids, table: Ids, reasons: dict[int, tuple[str, ...]]
    ) -> Ids:
        cells = classes[grid.cells]
        sides = grid.sides_of(np.arange(len(cells)))
        needs = [
            np.where(self.is_frozen[classes[side], None], ALWAYS, table[classes[side]])
            for side in sides
        ]
        rows = _distinct_first(np.concatenate(needs, axis=1))
        for at in np.flatnonzero(~rows.any(axis=1)).tolist():
            stuck = [reasons[k] for side in sides if (k := int(classes[side[at]])) in reasons]
            reasons.setdefault(int(cells[at]), tuple(dict.fromkeys(itertools.chain(*stuck))))
            self.is_frozen[cells[at]] = True
        if rows.shape[1] > table.shape[1]:
            table = np.pad(table, ((0, 0), (0, rows.shape[1] - table.shape[1])))
        table[cells] = ALWAYS
        table[cells, : rows.shape[1]] = rows
        return table


def _find_copied_side(grid: Grid, classes: Ids) -> int | None:
    """The side that each cell is a copy of; None where there is none."""
    cells = classes[grid.cells]
    sides = grid.sides_of(np.arange(len(cells)))
    same = (number for number, side in enumerate(sides) if np.array_equal(classes[side], cells))
    return next(same, None)


def _pair_shared_cells(grids: Sequence[Grid], classes: Ids) -> Iterator[tuple[int, int, Ids, Ids]]:
    """Yield the cells that two grids share: (grid, grid, positions in the first, in the second)."""
    if not grids:
        return
    number = np.concatenate([classes[grid.cells] for grid in grids])
    grid_of = np.repeat(np.arange(len(grids)), [len(grid.cells) for grid in grids])
    position = np.concatenate([np.arange(len(grid.cells)) for grid in grids])
    order = np.lexsort((position, grid_of, number))
    number, grid_of, position = number[order], grid_of[order], position[order]
    same = np.flatnonzero(number[1:] == number[:-1])
    if not len(same):
        return
    pairs = grid_of[same] * len(grids) + grid_of[same + 1]
    for pair in np.unique(pairs).tolist():
        at = same[pairs == pair]
        yield *divmod(pair, len(grids)), position[at], position[at + 1]


def _common_refinement(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...] | None:
    """The coarsest shape from which both shapes follow by merging neighbours; None if none."""
    steps = sorted({*_strides(one), *_strides(other)}, reverse=True)
    if any(large % small for large, small in pairwise(steps)):
        return None
    return tuple(large // small for large, small in pairwise(steps))


def _strides(shape: Sequence[int]) -> list[int]:
    strides = [1]
    for size in reversed(shape):
        strides.append(strides[-1] * size)
    return strides


def _distinct_first(rows: Ids) -> Ids:
    """Sort each row's distinct atoms in descending order, ``ALWAYS`` last; drop empty columns."""
    rows = -np.sort(-rows, axis=1)
    rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = ALWAYS
    rows = -np.sort(-rows, axis=1)
    return rows[:, : max(1, int((rows != ALWAYS).sum(axis=1).max(initial=1)))]


def _compact(atoms: Ids, classes: Ids, reasons: dict[int, tuple[str, ...]]) -> Solution:
    """Renumber the atoms without gaps, in the order of the units that first need them."""
    used, first = np.unique(atoms, return_index=True)
    by_appearance = used[np.argsort(first)]
    by_appearance = by_appearance[by_appearance != ALWAYS]
    renumbered = np.zeros(int(atoms.max(initial=0)) + 1, np.int64)
    renumbered[by_appearance] = np.arange(1, len(by_appearance) + 1)
    compact = renumbered[atoms]
    stuck = np.flatnonzero(~compact.any(axis=1))
    classes_of = classes[stuck].tolist()
    why = {u: reasons.get(c, ()) for u, c in zip(stuck.tolist(), classes_of, strict=True)}
    return Solution(compact, len(by_appearance) + 1, why)
