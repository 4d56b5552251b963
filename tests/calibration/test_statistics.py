"""Per-channel sums of calibration passes."""

import numpy as np
import pytest

from secateurs.calibration import statistics
from secateurs.calibration.statistics import (
    ActivationStatistics,
    ChannelIndex,
    Gates,
    Gram,
    ZeroCounts,
    channel_index,
)
from secateurs.channels.equations import Equations
from support.networks_by_hand import grid


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


def test_sums_over_batches_are_those_of_all_values():
    values = np.random.default_rng(0).normal(size=(30, 4))
    values[values < -0.5] = 0
    units = np.arange(4)
    found = ActivationStatistics("a", units, np.ones(4))
    gram = Gram.empty(4)
    for part in (values[:7], values[7:]):
        sums = ((part == 0).sum(0), np.abs(part).sum(0), part.sum(0), (part**2).sum(0))
        found.add(len(part), *sums)
        gram.add(len(part), part.sum(0), part.T @ part)
    np.testing.assert_allclose(found.variance, values.var(0))
    np.testing.assert_allclose(gram.centred / 30, np.cov(values.T, bias=True))
    np.testing.assert_allclose(gram.products, values.T @ values)
    (zeros,) = found.own_zeros
    assert zeros.share == (values == 0).mean()
    assert ZeroCounts(units).share == 0.0


@pytest.mark.parametrize("sizes", [(5, 6), (5, 30), (30, 5), (5, 6, 30)])
def test_values_are_held_while_they_are_fewer_than_the_products(sizes, monkeypatch):
    monkeypatch.setattr(statistics, "GRAM_ROWS", 4)
    values = np.random.default_rng(0).normal(size=(sum(sizes), 13))
    gram, rows = Gram.empty(13), np.array([2, 11])
    for part in np.split(values, np.cumsum(sizes)[:-1]):
        room = gram.has_room_for(len(part))
        gram.add_values(part)
        assert gram.has_room_for(0) == room == (gram.count < 13)
    expected = len(values) * np.cov(values.T, bias=True)
    np.testing.assert_allclose(gram.centred_rows(rows), expected[rows])
    np.testing.assert_allclose(gram.centred_squares, np.diag(expected))
    np.testing.assert_allclose(gram.centred, expected)
    np.testing.assert_allclose(gram.products, values.T @ values)
    gram.add(3, values[:3].sum(0), values[:3].T @ values[:3])
    assert gram.count == len(values) + 3
    np.testing.assert_allclose(
        np.diag(gram.products), (values**2).sum(0) + (values[:3] ** 2).sum(0)
    )


def test_zeros_before_a_pool_take_the_place_of_those_behind_it():
    before = ZeroCounts(np.arange(2))
    before.add(10, np.array([3, 4]))
    found = ActivationStatistics("a", np.arange(4), np.ones(4), activations=(before,))
    assert found.own_zeros == (before,)
    assert before.share == 7 / 20


def test_where_channels_lie_along_an_axis():
    network = grid(2, 3)
    rows = min(network.groups, key=len)
    cells = network.tensors["in.weight"].axes[0]
    found = channel_index(network, rows, cells[[5, 0, 1]])
    assert found.rows is None  # of one row two cells are there, of the other one
    assert found.total(np.array([10.0, 1.0, 2.0])).tolist() == [3.0, 10.0]
    assert len(channel_index(network, rows, network.tensors["out.weight"].axes[0])) == 0
