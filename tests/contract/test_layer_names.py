"""A layer's name finds its channels, whatever its group is called; in both frameworks."""

import keras
import numpy as np
import pytest
import torch
from keras import layers as L
from torch import nn

import secateurs as sec


class Mixed(nn.Module):
    """Layers whose channels are in groups called otherwise."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(4, 8)
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.gru = nn.GRU(6, 5, batch_first=True)
        self.both = nn.LSTM(5, 4, batch_first=True, bidirectional=True)
        self.wide = nn.Linear(8, 12)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.head = nn.Linear(12, 2)

    def forward(self, x):
        x = self.both(self.gru(self.lstm(self.dense(x))[0])[0])[0]
        x = self.wide(x)
        return self.head(self.attention(x, x, x)[0])


def in_pytorch():
    return sec.trace(Mixed(), torch.zeros(2, 5, 4))


def in_keras():
    i = keras.Input((5, 4))
    x = L.LSTM(6, return_sequences=True, name="lstm")(L.Dense(8, name="dense")(i))
    x = L.GRU(5, return_sequences=True, name="gru")(x)
    x = L.Bidirectional(L.LSTM(4, return_sequences=True), name="both")(x)
    x = L.Dense(12, name="wide")(x)
    x = L.MultiHeadAttention(3, 4, name="attention")(x, x)
    return sec.trace(keras.Model(i, L.Dense(2, name="head")(x)))


NETWORKS = {"pytorch": in_pytorch, "keras": in_keras}
WIDTHS = {"dense": 8, "lstm": 6, "gru": 5, "both": 4, "attention": 3}


@pytest.mark.parametrize("framework", NETWORKS)
def test_scores_of_a_layer_are_those_of_its_group(framework):
    network = NETWORKS[framework]()
    scores = sec.score(network, "l1")
    for layer, width in WIDTHS.items():
        assert scores[layer].shape == (width,)
        assert np.array_equal(scores[layer], scores[network.group(layer).name])
        assert layer in scores
    assert set(scores) == {group.name for group in network.groups}


@pytest.mark.parametrize("framework", NETWORKS)
def test_a_cut_takes_the_layer_s_name(framework):
    network = NETWORKS[framework]()
    for layer in WIDTHS:
        group = network.group(layer)
        assert network.cut({layer: [1]}).tensors == network.cut({group.name: [1]}).tensors


@pytest.mark.parametrize("framework", NETWORKS)
def test_a_name_of_no_layer_and_of_several_groups_is_answered(framework):
    scores = sec.score(NETWORKS[framework](), "l1")
    with pytest.raises(sec.UnknownNameError, match="no group named 'lstn'"):
        scores["lstn"]
    assert scores.get("lstn") is None


def test_a_layer_with_channels_in_several_groups_lists_them():
    model = nn.Sequential(
        nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6)), nn.Linear(6, 2)
    )
    network = sec.trace(model, torch.zeros(1, 4))
    with pytest.raises(sec.UnknownNameError, match=r"0: .* are in 2: 0\.0, 0\.2\. Name one"):
        sec.score(network, "l1")["0"]
    with pytest.raises(sec.UnknownNameError, match=r"Name one"):
        network.group("0")


def test_a_parametrized_layer_has_its_own_name():
    norm = nn.utils.parametrizations
    layers = (norm.weight_norm(nn.Linear(4, 8)), norm.spectral_norm(nn.Linear(8, 6)))
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), nn.Linear(6, 2)).eval()
    network = sec.trace(model, torch.zeros(1, 4))
    assert [group.name for group in network.groups] == ["0", "2"]
    by_layer = network.cut_of_layers({"0": [1, 2]})
    assert by_layer.tensors == network.cut_of_layers({"0.parametrizations.weight": [1, 2]}).tensors
    assert by_layer.tensors["0.parametrizations.weight.original1"].removed == {0: (1, 2)}
