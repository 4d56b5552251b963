import keras
import pytest
from keras import layers as L

import secateurs as sec


def small(name="net"):
    i = keras.Input((6,), name="x")
    return keras.Model(
        i, L.Dense(2, name="head")(L.ReLU(name="act")(L.Dense(4, name="d")(i))), name=name
    )


def test_a_layer_without_weights_says_which_layer_to_name():
    with pytest.raises(sec.CutError, match=r"act: expected a layer with weights.*'d': name that"):
        sec.delete_channels(small(), {"act": [0]})
