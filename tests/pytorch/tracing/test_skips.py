"""Skips: where a value passes through a module, and where a branch is added to it."""

import pytest
import torch
from torch import nn

import secateurs as sec
import torchvision_on_cpu  # noqa: F401 - before torchvision
from support.residual_networks import Residual, settle_moments

torchvision = pytest.importorskip("torchvision")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return settle_moments(Residual())


def test_a_sum_that_the_branch_is_made_outside_of_is_no_block():
    class Output(nn.Module):
        def __init__(self):
            super().__init__()
            self.dense = nn.Linear(6, 6)

        def forward(self, y, x):
            return x + self.dense(y)

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.output = nn.Linear(6, 6), Output()

        def forward(self, x):
            return self.output(self.first(x).relu(), x)

    model = nn.Sequential(nn.Linear(3, 6), Layer(), Layer(), nn.Linear(6, 2)).eval()
    assert [b.name for b in sec.trace(model, torch.rand(2, 3)).blocks] == ["1", "2"]


def test_families_of_torchvision():
    count = {"resnet18": 8, "mobilenet_v2": 10, "convnext_tiny": 18, "densenet121": 0, "swin_t": 12}
    for name, number in count.items():
        model = torchvision.models.get_model(name).eval()
        assert len(sec.trace(model, torch.rand(1, 3, 64, 64)).blocks) == number, name
