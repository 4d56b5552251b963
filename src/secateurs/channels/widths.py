"""What a budget of channels counts: the places along the widths of the layers that can be pruned.

A layer of ``heads x positions`` is as wide as its cells, but what can be removed is a whole row or
a whole column. Counting removed rows and columns would make such a layer look far narrower than a
plain one of the same width, and half of its rows plus half of its columns is three quarters of it.
So widths are counted in cells: a plain channel is one place, and a cell of a grid is one that stays
while all the atoms it needs do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.equations import ALWAYS, Ids, Solution
from secateurs.channels.groups import Group, naming_member
from secateurs.channels.tensors import Tensor


class Widths:
    """The places along the widths of a network's groups."""

    def __init__(
        self, groups: Sequence[Group], tensors: Mapping[str, Tensor], solution: Solution
    ) -> None:
        """The widths of these groups.

        Args:
            groups: of the network.
            tensors: by name.
            solution: of the equations between their units.
        """
        self._groups = groups
        self._solution = solution
        self._needs = {group.name: _needs_of(group, tensors, solution) for group in groups}
        self._sides = {
            name: int((needs != ALWAYS).sum(axis=1).max(initial=1))
            for name, needs in self._needs.items()
        }

    def sides(self, group: Group) -> int:
        """How many groups make up the group's width: 2 for heads by positions, 1 for most."""
        return self._sides[group.name]

    def places(self, group: Group) -> float:
        """How many places along widths each of its channels takes with it: 1 for most."""
        if self.sides(group) == 1:
            return 1.0
        return float(np.isin(self.grid_cells, group.channels).any(axis=1).sum() / len(group))

    @cached_property
    def lone_channels(self) -> Ids:
        """The channels that are a place of a width each."""
        alone = [group.channels for group in self._groups if self.sides(group) == 1]
        return np.concatenate([*alone, np.zeros(0, np.int64)])

    @cached_property
    def grid_cells(self) -> Ids:
        """The atoms that each place of a width needs, where it is a cell of a grid."""
        rows = [self._needs[group.name] for group in self._groups if self.sides(group) > 1]
        none = np.zeros((0, self._solution.atoms.shape[1]), np.int64)
        return np.unique(np.concatenate([*rows, none]), axis=0)

    def count(self, alive: NDArray[np.bool_]) -> int:
        """The places that stay, given which atoms do."""
        return int(alive[self.lone_channels].sum() + alive[self.grid_cells].all(axis=1).sum())

    def count_in(self, rows: Ids, alive: NDArray[np.bool_]) -> int:
        """The places that lie in something and stay.

        Args:
            rows: the atoms that its units need, one row each.
            alive: which atoms stay.
        """
        rows = rows[alive[rows].all(axis=1)]
        cells = np.concatenate([self.grid_cells, np.unique(rows, axis=0)])
        # A cell that lies in it is there twice.
        grids = (np.unique(cells, axis=0, return_counts=True)[1] > 1).sum()
        return int(np.isin(self.lone_channels, rows).sum() + grids)


def _needs_of(group: Group, tensors: Mapping[str, Tensor], solution: Solution) -> Ids:
    """The atoms that the places along a group's width need, one row each."""
    member = naming_member(group.members)
    rows = solution.atoms[tensors[member.tensor].axes[member.axis]]
    return rows[np.isin(rows, group.channels).any(axis=1)]
