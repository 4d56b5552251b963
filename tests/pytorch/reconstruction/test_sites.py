"""Sites whose weights can be refitted, and what follows each up to the next mixing layer."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.pytorch.model.tensors import list_tensors
from secateurs.pytorch.reconstruction.program import Pieces
from secateurs.pytorch.reconstruction.sites import Sites
from secateurs.pytorch.trace_model import source_of


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.inner, self.outer = nn.Conv2d(6, 5, 1), nn.Conv2d(5, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)))
        x = x + self.outer(F.gelu(self.inner(x)))
        return self.head(x.mean((2, 3)))


def sites_of(model):
    torch.manual_seed(0)
    x = torch.randn(4, 3, 6, 6)
    operations = source_of(sec.trace(model, x[:1])).operations
    batch = CalibrationBatch(x.numpy(), None)
    pieces = Pieces(model, operations, batch)
    piece = pieces.piece(batch)
    names = {id(leaf.tensor): leaf.name for leaf in list_tensors(model)}
    dims = [tensor.dim() for tensor in piece.inputs]
    found = Sites(pieces.steps, pieces.shapes, dims, set(names))
    return {names[id(site.map.weight)]: site for site in found.at.values()}


def net():
    torch.manual_seed(1)
    model = Net().eval()
    with torch.no_grad():
        model.norm.weight.uniform_(0.5, 2)
        model.norm.bias.uniform_(-1, 1)
        model.norm.running_mean.uniform_(-1, 1)
        model.norm.running_var.uniform_(0.5, 2)
    return model


def test_what_follows_each_is_known():
    model = net()
    sites = sites_of(model)
    assert set(sites) >= {"conv.weight", "inner.weight", "outer.weight", "head.weight"}
    conv = sites["conv.weight"]
    scale = (model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()).detach()
    torch.testing.assert_close(conv.scale, scale)
    torch.testing.assert_close(
        conv.shift, (model.norm.bias - model.norm.running_mean * scale).detach()
    )
    assert (conv.rectified, conv.has_intercept, conv.joined) == (True, True, None)
    assert not sites["inner.weight"].rectified  # a GELU is no ReLU
    assert sites["outer.weight"].joined is not None
    assert sites["head.weight"].joined is None


def test_an_outputs_importance_is_the_square_of_what_multiplies_it():
    model = net()
    conv = sites_of(model)["conv.weight"]
    squares = (conv.scale.double() * conv.beyond.double()).square().numpy()
    np.testing.assert_allclose(conv.importance, squares.reshape(1, -1))


def test_new_weights_and_intercepts_are_put_where_there_is_a_place():
    model = net()
    sites = sites_of(model)
    matrix = np.arange(6.0 * 5).reshape(1, 6, 5)
    sites["inner.weight"].write_(matrix, np.arange(5.0)[None])
    assert model.inner.weight[:, :, 0, 0].T.tolist() == matrix[0].tolist()
    assert model.inner.bias.tolist() == [0, 1, 2, 3, 4]
    before = model.norm.running_mean.clone()
    conv = sites["conv.weight"]
    conv.write_(conv.map.matrix(), np.full((1, 6), 0.5))  # no bias: the mean behind it takes it
    torch.testing.assert_close(model.norm.running_mean, before - 0.5)


def test_a_number_an_output_broadcasts_along_its_channels():
    conv = sites_of(net())["conv.weight"]
    like = torch.zeros(2, 6, 4, 4)
    assert conv.along_channels(torch.arange(6.0), like).shape == (1, 6, 1, 1)
    assert conv.along_channels(torch.ones(()), like).dim() == 0
