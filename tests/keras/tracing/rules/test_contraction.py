"""Costs of each contraction and the shape of its kernel after a cut, counted by hand."""

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from secateurs.keras.tracing.rules.contraction import channel_axis, spell_out


def test_an_ellipsis_gets_unused_letters():
    read, weight, result = spell_out("...ab,bc->...ac", 4)
    assert (weight, len(read), len(result)) == ("bc", 4, 4)
    assert read[2:] == "ab"
    assert result == read[:3] + "c"
    assert len(set(read)) == 4
    assert spell_out("ab, bc -> ac", 2) == ("ab", "bc", "ac")


def test_channels_are_where_the_data_format_says():
    assert channel_axis(L.Conv2D(2, 1), 4) == 3
    assert channel_axis(L.Conv2D(2, 1, data_format="channels_first"), 4) == 1


READERS = {
    # reader of 6 channels on 5 x 5: (layer, its kernel without 2 of them, MACs of the whole layer)
    "plain": (lambda: L.Conv2D(4, 3, name="r"), (3, 3, 4, 4), 9 * 9 * 6 * 4),
    "transposed": (lambda: L.Conv2DTranspose(4, 2, name="r"), (2, 2, 4, 4), 25 * 4 * 6 * 4),
    "depthwise": (lambda: L.DepthwiseConv2D(3, name="r"), (3, 3, 4, 1), 9 * 9 * 6),
    "dense": (lambda: L.Dense(7, name="r"), (4, 7), 25 * 6 * 7),
}


@pytest.mark.parametrize("name", READERS)
def test_a_reader_loses_the_removed_inputs(name):
    make, kernel, macs = READERS[name]
    first = L.Conv2D(6, 1, use_bias=False, name="first")
    model = keras.Sequential([keras.Input((5, 5, 3)), first, make(), L.Flatten(), L.Dense(2)])
    network = sec.trace(model)
    head = int(np.prod(model.get_layer("r").output.shape[1:])) * 2
    assert network.cost().macs == 25 * 3 * 6 + macs + head
    small = sec.apply(model, network.cut({"first": [1, 4]}), network=network)
    assert tuple(small.get_layer("r").kernel.shape) == kernel
    before, after = (
        keras.ops.convert_to_numpy(one.get_layer("r").kernel) for one in (model, small)
    )
    axis = next(at for at, n in enumerate(before.shape) if n == 6)
    assert np.array_equal(after, before.take([0, 2, 3, 5], axis=axis))


def test_a_grouped_convolution_loses_whole_groups_or_the_same_channels_of_each():
    i = keras.Input((4, 4, 3))
    x = L.Conv2D(6, 1, name="a")(i)
    x = L.Conv2D(4, 1, groups=2, name="g")(x)
    model = keras.Model(i, L.Dense(2)(L.Flatten()(x)))
    network = sec.trace(model)
    assert sorted(len(group) for group in network.groups) == [2, 2, 3]
    rows = next(group for group in network.groups if group.name.endswith("2x3") or len(group) == 3)
    small = sec.apply(model, network.cut({rows.name: [0]}), network=network)
    assert tuple(small.get_layer("a").kernel.shape) == (1, 1, 3, 4)
    assert tuple(small.get_layer("g").kernel.shape) == (1, 1, 2, 4)
