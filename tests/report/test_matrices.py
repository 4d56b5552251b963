"""Layers by filters, against the weights themselves."""

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.report.matrices import apoz_matrix, by_layer, l1_matrix, layers_by_filters


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)
    ).eval()


IMAGES = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def test_norms_are_those_of_the_filters():
    model = cnn()
    layers, matrix = l1_matrix(sec.trace(model, IMAGES[:1]))
    assert layers == ["0", "2"]
    assert matrix.shape == (2, 6)
    assert np.isnan(matrix[0, 4:]).all()
    assert np.allclose(matrix[0, :4], model[0].weight.detach().abs().mean((1, 2, 3)))
    assert np.allclose(matrix[1], model[2].weight.detach().abs().mean((1, 2, 3)))


def test_zeros_are_those_of_the_activations():
    model = cnn()
    layers, matrix = apoz_matrix(sec.trace(model, IMAGES[:1]), IMAGES, ["2", "0"])
    assert layers == ["2", "0"]
    zeros = (model[:4](IMAGES) == 0).double().mean((0, 2, 3))
    assert np.allclose(matrix[0], zeros)
    zeros = (model[:2](IMAGES) == 0).double().mean((0, 2, 3))
    assert np.allclose(matrix[1, :4], zeros)


def test_coupled_layers_have_the_same_row():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1)
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            x = self.a(x)
            return self.head((x + self.b(x)).mean((2, 3)))

    network = sec.trace(Residual().eval(), IMAGES[:1])
    (group,) = network.groups
    rows = by_layer(network, {group.name: [4.0, 3.0, 2.0, 1.0]})
    assert rows["a"].tolist() == rows["b"].tolist() == [4.0, 3.0, 2.0, 1.0]
    assert "head" not in rows


def test_shorter_rows_are_padded():
    layers, matrix = layers_by_filters({"a": [1, 2], "b": [3]})
    assert layers == ["a", "b"]
    assert matrix[:, 0].tolist() == [1, 3]
    assert np.isnan(matrix[1, 1])
    with pytest.raises(KeyError):
        layers_by_filters({"a": [1]}, ["b"])
