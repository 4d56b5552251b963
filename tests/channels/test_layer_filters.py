import pytest

from secateurs.channels.layer_filters import LayerFilters, check_indices
from secateurs.errors import CutError, UnknownNameError
from support.networks_by_hand import grid, sides, two_layers


def filters_of(network, **channels):
    return LayerFilters(network.tensors.values(), network.solution, channels)


def test_filters_are_the_atoms_of_their_axis():
    network = two_layers()
    (group,) = network.groups
    for layer in ("first", "norm", "first.bias"):  # of its filters, its scales, its shifts
        found = filters_of(network).find_atoms(layer, [3, 1])
        assert sorted(found) == sorted(group.channels[[1, 3]])


def test_a_frozen_filter_says_why():
    with pytest.raises(CutError, match="last: filter 1 cannot be removed: it is the network's out"):
        filters_of(two_layers()).find_atoms("last", [1])


def test_of_a_grid_whole_rows_and_columns_go():
    network = grid(2, 3)
    rows, columns = sides(network)
    filters = filters_of(network)
    assert filters.find_atoms("in", [3, 4, 5]).tolist() == rows.channels[[1]].tolist()
    assert filters.find_atoms("in", [0, 3]).tolist() == columns.channels[[0]].tolist()
    with pytest.raises(
        CutError,
        match=r"grid .* received 0-1\. .*sets: \[0, 3\]; \[0-2\]; \[1, 4\]; \[2, 5\]; \.\.\.",
    ):
        filters.find_atoms("in", [0, 1])


def test_a_layer_may_number_its_channels_itself():
    """An LSTM's units are not the columns of its kernel."""
    network = two_layers()
    (group,) = network.groups
    backwards = network.tensors["first.bias"].axes[0][::-1]
    assert filters_of(network, lstm=backwards).find_atoms("lstm", [0]) == [group.channels[3]]


def test_unknown_names_are_answered_with_the_nearest():
    network = two_layers()
    with pytest.raises(UnknownNameError, match=r"no layer .* 'frist'.*did you mean 'first'"):
        filters_of(network).find_atoms("frist", [0])
    with pytest.raises(CutError, match=r"norm\.count: expected a layer with channels of its own"):
        filters_of(network).find_atoms("norm.count", [0])


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([4], "expected indices of 0 to 3; received 4"),
        ([-1], "received -1"),
        ([2, 1, 2], "received 2 twice"),
        ([3, 2, 1, 0], "received all 4. Remove fewer"),
    ],
)
def test_indices_are_checked(indices, message):
    with pytest.raises(CutError, match=message):
        check_indices("a", indices, 4)
    assert check_indices("a", [2, 0], 4) == (0, 2)
