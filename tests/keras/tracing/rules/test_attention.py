import keras
from keras import layers as L

import secateurs as sec


def test_heads_key_channels_and_value_channels_are_groups_of_their_own():
    i = keras.Input((5, 6))
    x = L.Dense(8, name="d")(i)
    y = L.MultiHeadAttention(3, 4, value_dim=2, dropout=0.1, name="att")(x, x)
    network = sec.trace(keras.Model(i, L.Dense(2)(L.Add()([x, y]))))
    sizes = sorted(len(group) for group in network.groups)
    assert sizes == [2, 3, 4, 8]
    small = sec.delete_channels(network.source.model, {"att.query": [0]})
    assert small.get_layer("att").num_heads == 2
