"""Layers that keep a result of their last pass, with a history or with that pass's size."""

import pytest
import torch
from torch import nn

import secateurs as sec
from support.patience import until_quiet

IMAGES = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Keeps(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Linear(8, 3)
        self.features = None

    def forward(self, x):
        x = self.a(x).relu()
        self.features = {"a": (x,), "mean": x.mean((2, 3))}
        return self.b(self.features["mean"])


def _build_normalised():
    conv = nn.utils.weight_norm(nn.Conv2d(3, 8, 3))
    return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("make", [Keeps, _build_normalised])
def test_they_are_repaired_measured_and_exported_as_before_the_pass(make):
    torch.manual_seed(0)
    model = make().eval()
    expected = sec.prune(model, IMAGES[:4], amount=0.5, calibration=IMAGES).model(IMAGES)
    model(IMAGES[:5]).sum().backward()
    model.zero_grad()
    given = sec.prune(model, IMAGES[:4], amount=0.5, calibration=IMAGES).model
    torch.testing.assert_close(given(IMAGES), expected)
    assert until_quiet(lambda: sec.bench([model, given], IMAGES[:1], repeats=2))
