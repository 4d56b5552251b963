"""The masked twin of a small network, computed by hand: its consumers read zeros."""

import keras
import numpy as np
from keras import layers as L

import secateurs as sec
from secateurs.keras.proof.comparison import outputs_without
from secateurs.keras.proof.masked_twin import Kept, stand_ins_of
from secateurs.keras.trace_model import source_of

X = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def mark_kept(*stays):
    return Kept(np.array(stays, bool))


def test_kept_units_are_counted_indexed_and_broadcast():
    some = mark_kept(1, 0, 1, 1)
    units = np.arange(4)
    assert some.places(units).tolist() == [0, 2, 3]
    assert some.shape((2, 4), {1: units}) == (2, 3)
    assert some.along_axis(units, 3, 1).shape == (1, 4, 1)
    assert not some.all({0: units})
    assert some.all({0: units[2:]})


def test_a_tensor_is_compressed_and_expanded_again():
    some, units = mark_kept(1, 0, 1), np.arange(3)
    x = keras.ops.convert_to_tensor(X)
    small = some.compress(x, {1: units})
    assert np.array_equal(numpy(small), X[:, [0, 2]])
    assert np.array_equal(numpy(some.expand(small, {1: units}))[:, [0, 2]], X[:, [0, 2]])


def test_consumers_get_zeros_and_producers_are_left_alone():
    layers = [keras.Input((3,)), L.Dense(5, name="a"), L.Activation("sigmoid"), L.Dense(2)]
    model = keras.Sequential(layers)
    network = sec.trace(model)
    cut = network.cut({"a": [0, 3]})
    (found,) = outputs_without(network, cut, [X])
    (w, b), (v, c) = (layer.get_weights() for layer in (model.layers[0], model.layers[-1]))
    hidden = 1 / (1 + np.exp(-(X @ w + b)))
    hidden[:, [0, 3]] = 0  # a sigmoid of zero would be one half
    assert np.allclose(found, hidden @ v + c, atol=1e-5)


def test_layers_that_mix_channels_are_rebuilt_for_the_kept_ones():
    layers = [keras.Input((3,)), L.Dense(5, name="a"), L.LayerNormalization(name="n"), L.Dense(2)]
    model = keras.Sequential(layers)
    model.get_layer("n").gamma.assign(np.arange(1.0, 6.0))
    network = sec.trace(model)
    cut = network.cut({"a": [1]})
    some = Kept(network.solution.mark_kept(network.alive(network.removed_by(cut))))
    (layer,) = stand_ins_of(source_of(network), cut, some).values()
    assert numpy(layer.gamma).tolist() == [1.0, 3.0, 4.0, 5.0]
