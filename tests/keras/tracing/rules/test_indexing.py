"""Rows of a table are looked up by the data and frozen; its columns are channels."""

import keras
import numpy as np
from keras import layers as L

import secateurs as sec


def test_columns_of_an_embedding_are_cut_and_rows_are_frozen():
    model = keras.Sequential(
        [keras.Input((5,), dtype="int32"), L.Embedding(11, 6, name="e"), L.Flatten(), L.Dense(2)]
    )
    small = sec.delete_channels(model, {"e": [1, 5]})
    before, after = (one.get_layer("e").get_weights()[0] for one in (model, small))
    assert np.array_equal(after, before[:, [0, 2, 3, 4]])
    assert small.layers[-1].kernel.shape[0] == 5 * 4
    assert small.get_layer("e").get_config()["output_dim"] == 4


def test_a_mask_by_value_reads_every_feature():
    i = keras.Input((5, 3))
    x = L.Masking()(L.Dense(4, name="a")(i))
    network = sec.trace(keras.Model(i, L.LSTM(2)(x)))
    (reasons,) = [one.reasons for one in network.frozen if one.name == "a"]
    assert "reads all features" in reasons[0]
