import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec
from secateurs.calibration.before_pooling import Effect
from secateurs.pytorch.statistics.before_pooling import effect_of


@pytest.mark.parametrize(
    ("name", "operands", "effect"),
    [
        ("aten.max_pool2d", 1, Effect.POOLS),
        ("aten.adaptive_avg_pool2d", 1, Effect.POOLS),
        ("aten.batch_norm", 5, Effect.POOLS),
        ("aten.mean", 1, Effect.POOLS),
        ("aten.max", 1, Effect.POOLS),
        ("aten.max", 2, Effect.CHOOSES),
        ("aten.view", 1, Effect.MOVES),
        ("aten.cat", 2, Effect.JOINS),
        ("aten.add", 2, Effect.ADDS),
        ("aten.mul", 2, Effect.SCALES),
        ("aten.relu", 1, Effect.ACTS),
        ("aten.convolution", 3, Effect.ACTS),
    ],
)
def test_what_an_operation_does_is_told_by_its_name(name, operands, effect):
    assert effect_of(name, operands) is effect


class Pooling(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        return self.head(F.relu(self.second(x)).mean((2, 3)))


def test_zeros_are_counted_before_the_pool():
    torch.manual_seed(0)
    model, x = Pooling().eval(), torch.randn(5, 3, 8, 8)
    network = sec.trace(model, x[:1])
    with torch.no_grad():
        before = F.relu(model.first(x))
        expected = (before != 0).float().mean((0, 2, 3))
        pooled = (F.max_pool2d(before, 2) != 0).float().mean((0, 2, 3))
    found = torch.from_numpy(sec.score(network, "apoz", data=x)["first"]).float()
    torch.testing.assert_close(found, expected)
    assert (pooled > expected + 0.1).any()


@pytest.mark.parametrize("norm", [nn.Identity, lambda: nn.BatchNorm2d(6)])
def test_a_depthwise_convolution_without_an_activation_is_a_pool_with_weights(norm):
    """As in separable convolutions: what it gives is never zero, what it is given often is."""
    torch.manual_seed(0)
    depthwise = nn.Conv2d(6, 6, 3, groups=6)
    layers = nn.Conv2d(3, 6, 3), nn.ReLU(), depthwise, norm(), nn.Conv2d(6, 2, 1)
    model, x = nn.Sequential(*layers).eval(), torch.randn(5, 3, 8, 8)
    expected = (model[:2](x) != 0).double().mean((0, 2, 3))
    found = sec.score(sec.trace(model, x[:1]), "apoz", data=x)["0"]
    torch.testing.assert_close(torch.from_numpy(found), expected)
    assert 0.05 < expected.mean() < 0.95
