"""What follows a contraction: normalisation, sum and ReLU are recognised."""

import keras
import numpy as np
from keras import layers as L

from secateurs.keras.reconstruction.program import Program
from secateurs.keras.reconstruction.sites import Sites, scale_of


def norm(channels=4):
    layer = L.BatchNormalization(epsilon=0.0)
    layer.build((None, channels))
    layer.set_weights(
        [
            np.arange(1.0, channels + 1),
            np.ones(channels),
            np.full(channels, 2.0),
            np.full(channels, 4.0),
        ]
    )
    return layer


def sites_of(*layers):
    model = keras.Sequential([keras.Input((3,)), *layers])
    return Sites(Program.of(model, [(2, 3)]), norms=False).at, model


def test_batch_norm_scales_and_shifts_by_its_moments():
    layer = norm()
    assert np.allclose(scale_of(layer), np.arange(1.0, 5.0) / 2)
    sites, _ = sites_of(L.Dense(4, use_bias=False), layer, L.ReLU(), L.Dense(2))
    site = sites[0]
    assert np.allclose(site.scale, np.arange(1.0, 5.0) / 2)
    assert np.allclose(site.shift, 1 - 2 * np.arange(1.0, 5.0) / 2)
    assert (site.normalised, site.rectified, site.has_intercept) == (True, True, True)
    assert np.allclose(site.importance, [np.square(np.arange(1.0, 5.0) / 2)])


def test_an_intercept_goes_into_the_moving_mean_where_there_is_no_bias():
    layer = norm()
    sites, model = sites_of(L.Dense(4, use_bias=False), layer, L.Dense(2))
    matrix = np.ones((1, 3, 4))
    sites[0].write_(matrix, np.full((1, 4), 0.5))
    assert np.allclose(model.layers[0].get_weights()[0], 1)
    assert np.allclose(keras.ops.convert_to_numpy(layer.moving_mean), 2.0 - 0.5)


def test_a_following_sum_is_found_with_its_other_operand():
    i = keras.Input((3,))
    one, two = L.Dense(4, name="one")(i), L.Dense(4, name="two")(i)
    model = keras.Model(i, L.Dense(2)(L.Add()([one, two])))
    sites = Sites(Program.of(model, [(2, 3)])).at
    joints = [site.joint for site in sites.values() if site.joint is not None]
    assert [len(joint.others) for joint in joints] == [1, 1]
    assert {joint.others[0].step for joint in joints} == {0, 1}


def test_a_weight_read_by_two_calls_is_not_a_site():
    shared = L.Dense(3)
    sites, _ = sites_of(shared, L.ReLU(), shared)
    assert sites == {}
