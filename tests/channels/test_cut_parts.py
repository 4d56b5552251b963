import numpy as np
import pytest

from secateurs.channels.cut import Rescaling, SizeChange, TensorCut
from secateurs.channels.cut_parts import change_sizes, cut_tensors, rescale
from secateurs.errors import CutError
from support.networks_by_hand import two_layers


@pytest.fixture
def network():
    return two_layers(scales=True)


def without(network, channels):
    (group,) = network.groups
    return network.alive(group.channels[channels])


def test_each_axis_loses_what_lies_along_it(network):
    cuts = cut_tensors(network.tensors.values(), network.solution, without(network, [1, 3]))
    assert cuts == {
        "first.weight": TensorCut((4, 3), {0: (1, 3)}),
        "first.bias": TensorCut((4,), {0: (1, 3)}),
        "norm.weight": TensorCut((4,), {0: (1, 3)}),
        "last.weight": TensorCut((2, 4), {1: (1, 3)}),
    }


def test_a_tensor_of_which_nothing_is_left_is_refused(network):
    with pytest.raises(CutError, match=r"first\.weight: .*removes all 4\. Leave at least one"):
        cut_tensors(network.tensors.values(), network.solution, without(network, [0, 1, 2, 3]))


def test_sizes_are_told_before_and_after(network):
    alive = without(network, [2])
    assert change_sizes(network.sizes, network.solution, alive) == (
        SizeChange("first", "out_features", None, 4, 3),
    )
    assert change_sizes(network.sizes, network.solution, network.alive()) == ()


def test_a_factor_follows_the_size_to_its_power(network):
    alive = without(network, [0, 1, 2])
    (found,) = rescale(network.scalings, network.solution, alive)
    assert found == Rescaling("last.weight", 0, (0, 1), 2.0)  # (1 / 4) to the power of -1/2
    assert rescale(network.scalings, network.solution, np.ones_like(alive)) == ()
