"""Units of recurrent layers are removed by index, in every gate and both directions."""

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec

UNITS, GONE = 5, [1, 3]
X = np.random.default_rng(0).standard_normal((3, 7, 4)).astype("float32")
KINDS = {
    "SimpleRNN": (1, lambda: L.SimpleRNN(UNITS, name="r")),
    "GRU": (3, lambda: L.GRU(UNITS, name="r")),
    "LSTM": (4, lambda: L.LSTM(UNITS, name="r")),
    "RNN": (3, lambda: L.RNN(L.GRUCell(UNITS), name="r")),
    "both ways": (4, lambda: L.Bidirectional(L.LSTM(UNITS), name="r")),
    "both ways, summed": (3, lambda: L.Bidirectional(L.GRU(UNITS), merge_mode="sum", name="r")),
}


def without(weights, gates):
    """Return kernel, recurrent kernel and bias without the removed units."""
    columns = [gate * UNITS + unit for gate in range(gates) for unit in GONE]
    kernel, recurrent, bias = weights
    return [
        np.delete(kernel, columns, -1),
        np.delete(np.delete(recurrent, GONE, -2), columns, -1),
        np.delete(bias, columns, -1),
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", ["name", "layer"])
def test_units_are_named_by_their_numbers(kind, by):
    keras.utils.set_random_seed(0)
    gates, make = KINDS[kind]
    start = keras.Input((7, 4))
    model = keras.Model(start, L.Dense(2, name="out")(make()(start)))
    layer = model.get_layer("r")
    small = sec.delete_channels(model, {layer if by == "layer" else "r": GONE}, X)
    weights = layer.get_weights()
    expected = [w for at in range(0, len(weights), 3) for w in without(weights[at : at + 3], gates)]
    rows = [GONE, [*GONE, *(UNITS + unit for unit in GONE)]][kind == "both ways"]
    expected.append(np.delete(model.get_layer("out").get_weights()[0], rows, axis=0))
    received = [*small.get_layer("r").get_weights(), small.get_layer("out").get_weights()[0]]
    for mine, theirs in zip(received, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_an_index_out_of_range_is_refused():
    start = keras.Input((7, 4))
    model = keras.Model(start, L.Dense(2)(L.LSTM(UNITS, name="r")(start)))
    with pytest.raises(sec.CutError, match="r: expected indices of 0 to 4; received 5"):
        sec.delete_channels(model, {"r": [5]})


def test_the_channels_of_a_wrapper_are_those_of_the_layer_inside():
    start = keras.Input((7, 4))
    x = L.TimeDistributed(L.Dense(6), name="td")(start)
    model = keras.Model(start, L.Dense(2, name="out")(L.Flatten()(x)))
    small = sec.delete_channels(model, {"td": [2]}, X)
    assert small.get_layer("td").layer.units == 5
