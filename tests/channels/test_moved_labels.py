"""Labels after a movement, checked by hand."""

import numpy as np

from secateurs.channels.equations import Equations
from secateurs.channels.moved_labels import axes_of


def test_a_repeated_row_is_the_same_row():
    # Two examples, each with heads of three: (2 * 2, 3), as attention lays them out.
    equations = Equations()
    units = equations.units(6)
    moved = np.tile(units.reshape(2, 3), (2, 1))
    axes = axes_of(equations, moved, units, "picked")
    rows, columns = axes[0], axes[1]
    assert rows[:2].tolist() == rows[2:].tolist()
    assert len(set(rows.tolist())) == 2
    assert len(set(columns.tolist())) == 3
    again = axes_of(equations, units.reshape(2, 3), units, "picked")
    assert again[0].tolist() == rows[:2].tolist()
    assert again[1].tolist() == columns.tolist()


def test_repeats_between_others_stay_where_they_are():
    equations = Equations()
    units = equations.units(6)
    moved = units.reshape(2, 3)[[1, 1, 0, 1]]
    axes = axes_of(equations, moved, units, "picked")
    first, second = axes[0][0], axes[0][2]
    assert axes[0].tolist() == [first, first, second, first]
    assert first != second
