"""APoZ is the share of zeros of a layer's own activations, whatever follows them."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec

X = torch.from_numpy(np.random.default_rng(0).standard_normal((10, 1, 8, 8)).astype(np.float32))
BEHIND = {
    "nothing": lambda x: x,
    "max pool": lambda x: F.max_pool2d(x, 2),
    "average pool": lambda x: F.avg_pool2d(x, 2),
    "two pools": lambda x: F.avg_pool2d(F.max_pool2d(x, 2), 2, 1),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 2),
    "padding": lambda x: F.pad(x, (2, 2, 2, 2)),
    "upsampling": lambda x: F.interpolate(x, scale_factor=2),
    "dropout, pool": lambda x: F.max_pool2d(F.dropout(x, 0.5, training=False), 2),
    "pool, flatten": lambda x: F.max_pool2d(x, 2).flatten(1),
    "mean": lambda x: x.mean((2, 3)),
    "largest": lambda x: x.amax((2, 3)),
}


class Net(nn.Module):
    def __init__(self, behind):
        super().__init__()
        self.a = nn.Conv2d(1, 6, 3)
        self.behind = behind
        shape = behind(torch.relu(self.a(X))).shape
        self.reader = nn.Conv2d(6, 4, 1) if len(shape) == 4 else nn.Linear(shape[1], 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = torch.relu(self.reader(self.behind(torch.relu(self.a(x)))))
        return self.head(x.mean((2, 3)) if x.dim() == 4 else x)


def test_the_largest_of_two_is_an_activation_not_a_pool():
    torch.manual_seed(0)
    net = Net(lambda x: F.max_pool2d(torch.maximum(x - 0.2, torch.zeros(())), 2)).eval()
    given = torch.relu(torch.relu(net.a(X)) - 0.2)
    scores = sec.score(sec.trace(net, X[:1]), "apoz", data=X)
    expected = (given == 0).double().mean((0, 2, 3)).numpy()
    np.testing.assert_allclose(1 - scores["a"], expected, atol=1e-6)


@pytest.mark.parametrize("behind", BEHIND)
def test_zeros_are_those_of_the_activations(behind):
    torch.manual_seed(0)
    net = Net(BEHIND[behind]).eval()
    expected = (torch.relu(net.a(X)) == 0).double().mean((0, 2, 3)).numpy()
    scores = sec.score(sec.trace(net, X[:1]), "apoz", data=X)
    np.testing.assert_allclose(1 - scores["a"], expected, atol=1e-6)
    assert 0.05 < expected.mean() < 0.95
