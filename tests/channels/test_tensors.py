import numpy as np
import pytest

from secateurs.channels.cost import Product
from secateurs.channels.tensors import Mixing, Tensor


@pytest.mark.parametrize(("name", "layer"), [("a.b.weight", "a.b"), ("bare", "bare")])
def test_the_layer_is_what_the_name_begins_with(name, layer):
    assert Tensor(name, (2,), 4, True).layer == layer


def test_a_size_is_a_constant_times_the_axes_that_can_change():
    units = np.arange(4)
    tensor = Tensor("a.weight", (4, 3, 5), 4, True, axes={0: units})
    assert tensor.size.constant == 15
    assert tensor.size.axes[0] is units
    assert Tensor("scalar", (), 8, False).size == Product(1)


def test_mixing_is_told_with_its_layer():
    assert str(Mixing("softmax", "attention", np.arange(2))) == "softmax over channels in attention"
    assert str(Mixing("softmax", "", np.arange(2))) == "softmax over channels in the model"
