import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from secateurs.calibration.needs import Need
from secateurs.errors import DataError
from secateurs.keras.collecting import collect_statistics

X = np.random.default_rng(0).normal(size=(12, 5)).astype("float32")


def test_means_and_zeros_are_those_of_all_batches_together():
    layers = [keras.Input((5,)), L.Dense(4, "relu", name="a"), L.Dense(2, name="head")]
    model = keras.Sequential(layers)
    network = sec.trace(model)
    batches = [X[:7], X[7:]]
    found = collect_statistics(network, Need.ACTIVATIONS, batches, loss=None)
    made = keras.ops.convert_to_numpy(keras.Model(model.inputs[0], model.get_layer("a").output)(X))
    (reading,) = [one for one in found.readings if len(one.units) == 4]
    assert reading.count == 12
    assert np.allclose(reading.zeros, (made == 0).sum(0))
    assert np.allclose(reading.total, made.sum(0), rtol=1e-5)


def test_an_error_about_missing_labels_names_the_caller():
    model = keras.Sequential([keras.Input((5,)), L.Dense(4, name="a"), L.Dense(2)])
    with pytest.raises(DataError, match="taylor"):
        collect_statistics(sec.trace(model), Need.GATES, X, loss=None, caller="taylor")
