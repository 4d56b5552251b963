import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from secateurs.keras.model import tensors


def small(name="net"):
    i = keras.Input((6,), name="x")
    return keras.Model(
        i, L.Dense(2, name="head")(L.ReLU(name="act")(L.Dense(4, name="d")(i))), name=name
    )


def test_a_layer_without_weights_says_which_layer_to_name():
    with pytest.raises(sec.CutError, match=r"act: expected a layer with weights.*'d': name that"):
        sec.delete_channels(small(), {"act": [0]})


@pytest.mark.parametrize("is_compiled", [False, True])
def test_the_variables_of_a_model_are_listed_once_in_a_cut(is_compiled, monkeypatch):
    model = small()
    if is_compiled:
        model.compile("adam", "mse")
        model.fit(np.ones((4, 6)), np.ones((4, 2)), verbose=0)
    network = sec.trace(model)
    cut = network.cut({"d": [1, 3]})
    listed = []
    paths_of = tensors.paths_of

    def note(one):
        listed.append(one)
        return paths_of(one)

    monkeypatch.setattr(tensors, "paths_of", note)
    cut_model = sec.apply(model, cut, network=network)
    assert [one is model for one in listed].count(True) == 1
    assert [one is cut_model for one in listed].count(True) == 1
    assert len(listed) == 2
