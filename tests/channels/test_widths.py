import numpy as np

from support.networks_by_hand import grid, sides, two_layers


def test_a_plain_channel_is_one_place():
    network = two_layers()
    (group,) = network.groups
    widths = network.widths
    assert (widths.sides(group), widths.places(group)) == (1, 1.0)
    assert sorted(widths.lone_channels) == sorted(group.channels)
    assert widths.count(network.alive(group.channels[:3])) == 1


def test_of_a_grid_every_cell_is_one_place():
    network = grid(2, 3)
    rows, columns = sides(network)
    widths = network.widths
    assert [widths.sides(group) for group in (rows, columns)] == [2, 2]
    assert [widths.places(group) for group in (rows, columns)] == [3.0, 2.0]
    assert widths.count(network.alive()) == 6
    one_of_each = network.alive([rows.channels[0], columns.channels[0]])
    assert widths.count(one_of_each) == 1 * 2  # not half of 5 sides: what is left is 1 x 2


def test_places_in_part_of_a_network_are_those_of_its_units():
    network = grid(2, 3)
    cells = network.tensors["in.weight"].axes[0]
    atoms = network.solution.atoms
    everything = network.alive()
    assert network.widths.count_in(atoms[cells[:4]], everything) == 4
    assert network.widths.count_in(atoms[np.repeat(cells[:1], 3)], everything) == 1
    rows, _ = sides(network)
    without_a_row = network.alive(rows.channels[:1])
    assert network.widths.count_in(atoms[cells], without_a_row) == 3  # of 2 x 3


def test_the_whole_network_is_the_part_that_all_units_lie_in():
    for network, group in ((two_layers(), 0), (grid(2, 3), 0), (grid(3, 4), 1)):
        units = [axis for tensor in network.tensors.values() for axis in tensor.axes.values()]
        rows = network.solution.atoms[np.concatenate(units)]
        for removed in ([], network.groups[group].channels[:1]):
            alive = network.alive(removed)
            assert network.widths.count_in(rows, alive) == network.widths.count(alive) > 0
            assert network.widths.count_in(rows[:0], alive) == 0
