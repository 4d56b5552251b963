"""Sums that calibration passes add up, by channel."""

import numpy as np

from secateurs.calibration.statistics import ChannelIndex, Gates
from secateurs.channels.equations import Equations


def test_a_unit_of_two_channels_counts_for_both():
    equations = Equations()
    cells = equations.units(6)
    rows, columns = equations.factor(cells, (2, 3))
    solution = equations.solve()
    gates = Gates(solution)
    values = np.arange(12.0).reshape(2, 6)
    terms = gates.add([(cells, values), (columns, np.ones((2, 3)))])
    by_row = solution.atoms[rows, 0]
    np.testing.assert_allclose(terms[:, by_row], values.reshape(2, 2, 3).sum(2))
    by_column = solution.atoms[columns, 0]
    np.testing.assert_allclose(terms[:, by_column], values.reshape(2, 2, 3).sum(1) + 1)
    np.testing.assert_allclose(gates.squares[by_row], (values.reshape(2, 2, 3).sum(2) ** 2).sum(0))


def test_parts_that_differ_in_size_are_not_a_table():
    part = ChannelIndex(np.array([0, 1, 2]), np.array([0, 0, 1]), 2)
    assert part.rows is None
    np.testing.assert_allclose(part.total(np.array([1.0, 2.0, 4.0])), [3, 4])
