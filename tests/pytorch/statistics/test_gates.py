"""APoZ is the fraction of zeros in a layer's own activations, whatever follows them."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec
from secateurs.report.matrices import by_layer

pytestmark = pytest.mark.filterwarnings("ignore:apoz counts")  # of readers that are always on
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


class Branches(nn.Module):
    def __init__(self, join):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 4, 3)
        self.gate = nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.join = join
        shape = join(self, *self.branches(X)).shape
        self.reader = nn.Conv2d(shape[1], 4, 1) if len(shape) == 4 else nn.Linear(shape[1], 4)
        self.head = nn.Linear(4, 2)

    def branches(self, x):
        return torch.relu(self.a(x)), torch.relu(self.b(x))

    def forward(self, x):
        x = torch.relu(self.reader(self.join(self, *self.branches(x))))
        return self.head(x.mean((2, 3)) if x.dim() == 4 else x)


JOINS = {
    "two averages": lambda net, a, b: torch.cat([a.mean((2, 3)), b.mean((2, 3))], 1),
    "one as it is": lambda net, a, b: torch.cat([F.avg_pool2d(a, 3, 1, 1), b], 1),
    "pooled again": lambda net, a, b: F.avg_pool2d(
        torch.cat([F.max_pool2d(a, 2), F.max_pool2d(b, 2)], 1), 2, 1
    ),
    "joined, then pooled": lambda net, a, b: torch.cat([a, b], 1).amax((2, 3)),
    "flat": lambda net, a, b: torch.cat(
        [F.max_pool2d(a, 2).flatten(1), F.max_pool2d(b, 2).flatten(1)], 1
    ),
    "average and largest of one": lambda net, a, b: torch.cat(
        [a.mean((2, 3)), a.amax((2, 3)), b.amax((2, 3))], 1
    ),
    "behind batch normalisation": lambda net, a, b: torch.cat(
        [F.max_pool2d(net.norm(a), 2), F.max_pool2d(b, 2)], 1
    ),
    "a gate on a pooled one": lambda net, a, b: torch.cat(
        [F.max_pool2d(a, 2) * net.gate(F.max_pool2d(a, 2)).sigmoid(), F.max_pool2d(b, 2)], 1
    ),
    "channels moved": lambda net, a, b: torch.cat(
        [F.max_pool2d(a, 2).flip(2).roll(1, 3), F.max_pool2d(b, 2).mT], 1
    ),
}


@pytest.mark.parametrize("join", JOINS)
def test_each_branch_of_a_join_counts_its_own(join):
    torch.manual_seed(1)
    net = Branches(JOINS[join]).eval()
    scores = sec.score(sec.trace(net, X[:1]), "apoz", data=X)
    for name, branches in zip("ab", net.branches(X), strict=True):
        expected = (branches == 0).double().mean((0, 2, 3)).numpy()
        np.testing.assert_allclose(1 - scores[name], expected, atol=1e-6)


def test_a_sum_of_pooled_values_is_the_mean_of_both_layers():
    torch.manual_seed(1)
    net = Branches(lambda net, a, b: 0.5 * (F.max_pool2d(a, 2) + F.avg_pool2d(b, 2))).eval()
    scores = sec.score(sec.trace(net, X[:1]), "apoz", data=X)
    a, b = ((branches == 0).double().mean((0, 2, 3)).numpy() for branches in net.branches(X))
    np.testing.assert_allclose(1 - scores["a"], (a + b) / 2, atol=1e-6)


class Halves(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 8, 3)
        self.one, self.two, self.three = nn.Conv2d(3, 3, 1), nn.Conv2d(5, 3, 1), nn.Conv2d(5, 3, 1)
        self.head = nn.Linear(9, 2)
        self.sizes = [3, 5]

    def forward(self, x):
        one, other = F.max_pool2d(torch.relu(self.a(x)), 2).split(self.sizes, 1)
        read = [self.one(one), self.two(other), self.three(other)]
        return self.head(torch.relu(torch.cat(read, 1)).mean((2, 3)))


def test_halves_with_separate_readers_are_counted_separately():
    torch.manual_seed(1)
    net = Halves().eval()
    branches = torch.relu(net.a(X))
    network = sec.trace(net, X[:1])
    expected = (branches == 0).double().mean((0, 2, 3)).numpy()
    busy = by_layer(network, sec.score(network, "apoz", data=X))["a"]
    np.testing.assert_allclose(1 - busy, expected, atol=1e-6)
    means = by_layer(network, sec.score(network, "mean_activation", data=X))["a"]
    pooled = F.max_pool2d(branches, 2).double().mean((0, 2, 3)).detach().numpy()
    np.testing.assert_allclose(means, pooled, rtol=1e-5)
