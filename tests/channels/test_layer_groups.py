"""Groups by layer, from equations, members and sizes written out."""

import numpy as np
import pytest

from secateurs.channels.cost import Product
from secateurs.channels.equations import Equations
from secateurs.channels.groups import Group, Member
from secateurs.channels.layer_groups import group_of_layer, groups_by_layer
from secateurs.channels.tensors import Role, Size
from secateurs.errors import UnknownNameError


def group(name, channels, *layers, role=Role.FILTER):
    members = tuple(Member(f"{layer}.weight", 0, role, 1) for layer in layers)
    return Group(name, np.array(channels), members)


def attention():
    """Four heads of three positions, whose number is in ``attn.num_heads``."""
    equations = Equations()
    cells = equations.units(12)
    heads, inner = equations.factor(cells, (4, 3))
    plain = equations.units(5)
    solution = equations.solve()
    atoms = [solution.atoms[side][:, 0] for side in (heads, inner, plain)]
    groups = [
        group("q/4x3", atoms[0], "attn.q", "attn.v"),
        group("q/3x4", atoms[1], "attn.q"),
        group("up", atoms[2], "up"),
    ]
    size = Size("attn", "num_heads", None, Product(1, (heads,)))
    return groups, solution, size, plain


def test_layers_of_own_filters_layers_inside_and_heads():
    groups, solution, size, plain = attention()
    found = groups_by_layer(groups, solution, [size], {"twice": np.concatenate([plain, plain])})
    assert found == {
        "attn.q": ("q/4x3", "q/3x4"),
        "attn.v": ("q/4x3",),
        "up": ("up",),
        "attn": ("q/4x3",),
        "twice": ("up",),
    }


def test_without_a_number_of_heads_a_layer_has_all_groups_inside():
    groups, solution, size, _ = attention()
    assert groups_by_layer(groups, solution, [], {})["attn"] == ("q/4x3", "q/3x4")
    other = Size("attn", "head_dim", None, size.value)
    assert groups_by_layer(groups, solution, [other], {})["attn"] == ("q/4x3", "q/3x4")


def test_what_only_reads_channels_is_no_layer_of_theirs():
    groups, solution, _, _ = attention()
    reader = group("down", groups[2].channels, "down", role=Role.INPUT)
    assert "down" not in groups_by_layer([reader], solution, [], {})


def test_one_group_or_an_answer():
    of = {"a": ("x",), "b": ("x", "y"), "gone": ("z",)}
    assert group_of_layer("a", of, ["x", "y"]) == "x"
    with pytest.raises(UnknownNameError, match=r"b: .*are in 2: x, y\. Name one\."):
        group_of_layer("b", of, ["x", "y"])
    assert group_of_layer("b", of, ["y"]) == "y"
    for name in ("gone", "c"):
        with pytest.raises(UnknownNameError, match=f"no group named '{name}'"):
            group_of_layer(name, of, ["x", "y"])
