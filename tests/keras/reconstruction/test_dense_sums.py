"""Sums at each contraction, against products of the inputs captured by hand."""

import keras
import numpy as np
from keras import layers as L

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.keras.reconstruction.dense_sums import contractions_of

X = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")


def test_moments_are_those_of_the_inputs_and_outputs():
    layers = [keras.Input((5,)), L.Dense(6, "relu", name="a"), L.Dense(3, name="head")]
    model = keras.Sequential(layers)
    network = sec.trace(model)
    before = model.get_weights()
    every = contractions_of(network, CalibrationBatch(X, None), "relative", 0)
    (found,) = [one for one in every if one.weight == "head.kernel"]
    hidden = keras.ops.convert_to_numpy(
        keras.Model(model.inputs[0], model.get_layer("a").output)(X)
    ).astype(np.float64)
    assert found.taps == 1
    assert np.allclose(found.matrix[0], model.get_layer("head").get_weights()[0])
    apart = hidden - hidden.mean(axis=0)
    assert found.moments.rows == len(X)
    assert np.allclose(found.moments.mean_u[0], hidden.mean(axis=0), atol=1e-5)
    assert np.allclose(found.moments.uu[0], apart.T @ apart, atol=1e-3)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
