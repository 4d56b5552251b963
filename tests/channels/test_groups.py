import numpy as np

from secateurs.channels.equations import Equations
from secateurs.channels.groups import NOT_REACHED, Frozen, groups_of, list_frozen, members
from secateurs.channels.tensors import Mixing, Role, Tensor
from support.networks_by_hand import grid, two_layers


def test_channels_along_the_same_axes_are_a_group_named_after_its_filters():
    (group,) = two_layers().groups
    assert (group.name, len(group), group.inexact) == ("first", 4, ())
    assert [(m.tensor, m.axis, m.role, m.each) for m in group.members] == [
        ("first.weight", 0, Role.FILTER, 1),
        ("first.bias", 0, Role.SHIFT, 1),
        ("norm.weight", 0, Role.SCALE, 1),
        ("last.weight", 1, Role.INPUT, 1),
    ]
    assert [m.tensor for m in group.with_role(Role.SHIFT, Role.SCALE)] == [
        "first.bias",
        "norm.weight",
    ]


def test_what_mixes_them_is_named():
    (group,) = two_layers(mixes=True).groups
    assert group.inexact == ("layer_norm over channels in norm",)


def test_rows_and_columns_of_a_grid_are_two_groups_though_it_is_square():
    for rows, columns in ((2, 3), (3, 3)):
        names = {group.name: len(group) for group in grid(rows, columns).groups}
        second = f"in/{columns}x{rows}"
        assert names == {
            f"in/{rows}x{columns}": rows,
            second if rows != columns else f"{second}#2": columns,
        }


def test_part_of_an_axis_is_a_group_of_its_own():
    """Of five filters the first two are added to two others'."""
    equations = Equations()
    a, b = equations.units(5), equations.units(2)
    equations.equate(a[:2], b)
    tensors = [
        Tensor("a.weight", (5, 1), 4, True, axes={0: a}, roles={0: Role.FILTER}),
        Tensor("b.weight", (2, 1), 4, True, axes={0: b}, roles={0: Role.FILTER}),
    ]
    found = groups_of(tensors, equations.solve(), [])
    assert [(group.name, len(group), len(group.members)) for group in found] == [
        ("a", 2, 2),
        ("a#2", 3, 1),
    ]


def test_a_single_channel_along_an_axis_is_no_group():
    equations = Equations()
    a, b = equations.units(2), equations.units(1)
    equations.equate(a, np.repeat(b, 2))
    tensors = [Tensor("a.weight", (2,), 4, True, axes={0: a}, roles={0: Role.FILTER})]
    assert groups_of(tensors, equations.solve(), [Mixing("norm", "n", a)]) == []


def test_frozen_units_are_listed_once_with_their_members_and_reasons():
    network = two_layers()
    found = list_frozen(network.tensors.values(), network.solution)
    assert found == [
        Frozen("first (input)", 3, ("first (input)",), ("it is the network's input",)),
        Frozen("last", 2, ("last",), ("it is the network's output",)),
    ]
    idle = Tensor("idle.weight", (7, 2), 4, True)
    assert list_frozen([idle], network.solution) == [Frozen("idle", 7, ("idle",), (NOT_REACHED,))]
    read = Tensor("idle.weight", (7, 2), 4, True, is_read=True)
    assert list_frozen([read], network.solution) == []
    assert members([*found, *found]) == ["first (input)", "last"]
