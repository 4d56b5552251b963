"""A network written by hand: its names, cuts and costs."""

import numpy as np
import pytest

from secateurs.channels.cost import Cost
from secateurs.channels.cut import Cut, Rescaling
from secateurs.errors import CutError, UnknownNameError
from support.networks_by_hand import grid, sides, two_layers


def test_a_cut_is_all_that_changes():
    network = two_layers(scales=True)
    cut = network.cut({"first": [2, 0]})
    assert cut.channels["first"].removed == (0, 2)
    assert {name: one.shape_after for name, one in cut.tensors.items()} == {
        "first.weight": (2, 3),
        "first.bias": (2,),
        "norm.weight": (2,),
        "last.weight": (2, 2),
    }
    (rescaling,) = cut.rescalings
    assert rescaling == Rescaling("last.weight", 0, (0, 1), pytest.approx(2**0.5))
    assert cut.before == Cost(4 * 3 + 4 + 4 + 2 * 4, 5 * (12 + 8), 4 * 28 + 8, 4)
    assert cut.after == Cost(2 * 3 + 2 + 2 + 2 * 2, 5 * (6 + 4), 4 * 14 + 8, 2)
    assert network.cost(cut) == cut.after
    assert (network.params(cut), network.macs(cut), network.bytes(cut)) == (14, 50, 64)
    (group,) = network.groups
    assert sorted(network.removed_by(cut)) == sorted(group.channels[[0, 2]])


def test_a_cut_by_filters_takes_what_is_coupled():
    network = two_layers()
    assert network.cut_of_layers({"norm": [1]}) == network.cut({"first": [1]})
    rows = grid(2, 3)
    assert rows.cut_of_layers({"in": [0, 1, 2]}) == rows.cut({sides(rows)[0].name: [0]})


def test_a_cut_of_another_network_is_found_by_where_it_cuts():
    cut = two_layers().cut({"first": [3]})
    assert two_layers().cut_like(cut).channels == cut.channels
    with pytest.raises(CutError, match="planned for another"):
        two_layers(5).cut_like(cut)


def test_positions_of_a_grid_are_rows_and_columns():
    network = grid(2, 3)
    rows, columns = sides(network)
    assert network.positions(rows, rows.members[0]).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert network.positions(columns, columns.members[0]).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_multiples_are_those_of_the_groups_units():
    network = two_layers(multiple=4)
    assert [network.multiple_of(group) for group in network.groups] == [4]
    assert [two_layers().multiple_of(group) for group in network.groups] == [1]


def test_names_are_looked_up_and_answered():
    network = two_layers()
    assert network.group("first") is network.groups[0]
    with pytest.raises(UnknownNameError, match=r"no group named 'frist'.*did you mean 'first'"):
        network.group("frist")
    with pytest.raises(UnknownNameError, match="no block named 'first'"):
        network.cut_of_blocks(["first"])
    assert network.blocks == ()
    assert repr(network) == "<Network by hand: 1 groups, 2 frozen>"
    assert sorted(network.frozen_for) == [
        "it is the network's input",
        "it is the network's output",
    ]


def test_nothing_removed_is_everything_alive():
    network = two_layers()
    assert network.alive().all()
    assert network.cost() == network.cost(Cut())
    gone = network.alive([network.groups[0].channels[1]])
    assert np.flatnonzero(~gone).tolist() == [network.groups[0].channels[1]]
