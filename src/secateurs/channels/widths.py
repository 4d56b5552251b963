"""What a budget of channels counts: positions along the widths of layers that can be pruned.

A layer of ``heads x positions`` is as wide as its number of cells, but what can be removed is a
whole row or a whole column. Counting removed rows and columns would make such a layer look far
narrower than a plain one of the same width; and removing half of its rows and half of its columns
removes three quarters of it. So widths are counted in cells: a plain channel is one position, and a
cell of a grid is one, kept while all the atoms that it needs are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.equations import ALWAYS, Ids, Solution
from secateurs.channels.groups import Group, is_one_by_one, naming_member
from secateurs.channels.tensors import Tensor


class Widths:
    """Positions along the widths of a network's groups."""

    def __init__(
        self, groups: Sequence[Group], tensors: Mapping[str, Tensor], solution: Solution
    ) -> None:
        """Prepare the widths of these groups.

        Args:
            groups: groups of the network.
            tensors: its tensors by name.
            solution: solution of the equations between their units.
        """
        self._groups = groups
        self._solution = solution
        self._needs = {group.name: _needs_of(group, tensors, solution) for group in groups}
        self._sides = {
            name: int((needs != ALWAYS).sum(axis=1).max(initial=1))
            for name, needs in self._needs.items()
        }

    def sides(self, group: Group) -> int:
        """Number of groups that make up the group's width: 2 for heads by positions, else 1."""
        return self._sides[group.name]

    def places(self, group: Group) -> float:
        """Mean number of width positions that one of its channels removes: 1 for most groups."""
        if self.sides(group) == 1:
            return 1.0
        return float(np.isin(self.grid_cells, group.channels).any(axis=1).sum() / len(group))

    @cached_property
    def lone_channels(self) -> Ids:
        """Channels that are one width position each, shape (channels,)."""
        alone = [group.channels for group in self._groups if self.sides(group) == 1]
        return np.concatenate([*alone, np.zeros(0, np.int64)])

    @cached_property
    def grid_cells(self) -> Ids:
        """Atoms that each grid cell among the width positions needs, shape (cells, atoms)."""
        rows = [self._needs[group.name] for group in self._groups if self.sides(group) > 1]
        none = np.zeros((0, self._solution.atoms.shape[1]), np.int64)
        return np.unique(np.concatenate([*rows, none]), axis=0)

    def count(self, alive: NDArray[np.bool_]) -> int:
        """Number of kept positions, given a mask of the kept atoms."""
        return int(alive[self.lone_channels].sum() + alive[self.grid_cells].all(axis=1).sum())

    def count_in(self, rows: Ids, alive: NDArray[np.bool_]) -> int:
        """Number of kept positions that lie in some part of the network.

        Args:
            rows: atoms that the part's units need, one row for each unit.
            alive: mask of the kept atoms, shape (atoms,).
        """
        rows = rows[alive[rows].all(axis=1)]
        present = np.zeros(len(alive), bool)
        present[rows] = True
        lone = int(present[self.lone_channels].sum())
        if not len(self.grid_cells):
            return lone
        # Only these can be cells; there are many more units that need one atom.
        rows = rows[(rows != ALWAYS).sum(axis=1) > 1]
        cells, present_rows = _numbers(self.grid_cells, rows)
        return lone + int(np.isin(cells, present_rows).sum())


def _numbers(*tables: Ids) -> list[Ids]:
    """Return a number for each row of each table, the same for the same rows."""
    numbers = np.zeros(sum(map(len, tables)), np.int64)
    for column in np.concatenate(tables).T:
        pairs = numbers * (int(column.max(initial=0)) + 1) + column
        numbers = np.unique(pairs, return_inverse=True)[1]
    return np.split(numbers, np.cumsum([len(table) for table in tables])[:-1])


def _needs_of(group: Group, tensors: Mapping[str, Tensor], solution: Solution) -> Ids:
    """Atoms that the positions along a group's width need, one row for each position."""
    member = naming_member(group.members)
    rows = solution.atoms[tensors[member.tensor].axes[member.axis]]
    if is_one_by_one(group.channels, rows):
        return rows
    return rows[np.isin(rows, group.channels).any(axis=1)]
