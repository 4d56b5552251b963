"""Integers of layers follow the axes that they count, whatever the layer."""

import pytest
import torch
from torch import nn

import secateurs as sec

LAYERS = {
    "conv": (lambda: nn.Conv2d(6, 4, 1), {"in_channels": 4}),
    "depthwise": (lambda: nn.Conv2d(6, 6, 1, groups=6), {"in_channels": 4, "groups": 4}),
    "transposed": (lambda: nn.ConvTranspose2d(6, 4, 1), {"in_channels": 4}),
    "batch norm": (lambda: nn.BatchNorm2d(6), {"num_features": 4}),
    "instance norm": (lambda: nn.InstanceNorm2d(6, affine=True), {"num_features": 4}),
    "prelu": (lambda: nn.PReLU(6), {"num_parameters": 4}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_reader_counts_what_is_left(name):
    make, sizes = LAYERS[name]
    model = nn.Sequential(nn.Conv2d(3, 6, 1), make(), nn.Identity())
    width = model[1](model[0](torch.zeros(1, 3, 2, 2))).shape[1]
    model[2] = nn.Conv2d(width, 2, 1)
    small = sec.delete_channels(model.eval(), {"0": [1, 5]}, torch.randn(1, 3, 4, 4))
    assert small[0].out_channels == 4
    assert {key: getattr(small[1], key) for key in sizes} == sizes


def test_a_norm_over_the_last_axis_keeps_its_shape_in_step():
    model = nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.Linear(6, 2)).eval()
    small = sec.delete_channels(model, {"0": [0]}, torch.randn(2, 3))
    assert small[1].normalized_shape == (5,)
    assert (small[0].out_features, small[2].in_features) == (5, 5)
