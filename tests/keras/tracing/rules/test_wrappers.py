"""The channels of a wrapper are those of the layer inside."""

import keras
import numpy as np
from keras import layers as L

import secateurs as sec


def test_a_time_distributed_layer_is_cut_inside():
    model = keras.Sequential(
        [keras.Input((4, 3)), L.TimeDistributed(L.Dense(6), name="td"), L.Flatten(), L.Dense(2)]
    )
    small = sec.delete_channels(model, {"td": [0, 2]})
    before, after = (one.get_layer("td").layer.get_weights() for one in (model, small))
    assert all(np.array_equal(b, a[..., [1, 3, 4, 5]]) for a, b in zip(before, after, strict=True))
    assert small.layers[-1].kernel.shape[0] == 4 * 4


def test_the_vector_of_spectral_normalisation_is_cut_along():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            L.SpectralNormalization(L.Conv2D(5, 3), name="s"),
            L.Flatten(),
            L.Dense(2),
        ]
    )
    small = sec.delete_channels(model, {"s": [3]})
    vector = small.get_layer("s").vector_u
    before = keras.ops.convert_to_numpy(model.get_layer("s").vector_u)
    assert np.array_equal(keras.ops.convert_to_numpy(vector), before[:, [0, 1, 2, 4]])
