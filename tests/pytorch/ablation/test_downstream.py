"""The operations downstream of a channel, and which of them are linear."""

import pytest
import torch

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.pytorch.ablation.oracle import ablate_channels
from secateurs.pytorch.ablation.removal import Removals
from secateurs.pytorch.statistics.loss import PerExampleLoss
from support.small_networks import (
    CLASSES,
    MODELS,
    Attention,
    Grouped,
    Plain,
    Residual,
    heads,
    images,
    labels,
    losses,
)

X, Y = images(), labels()


def test_the_networks_here_take_both_ways():
    """Pairs where images can be told apart and nothing is mixed, one by one elsewhere."""
    ways = {}
    for model in MODELS:
        network = sec.trace(model(), X[:1])
        removals = Removals(network, PerExampleLoss(None, "test"), CalibrationBatch(X, Y))
        ways[model] = [removals.routes.of(group) is not None for group in network.groups]
        assert [removals.supports_subsets(group) for group in network.groups] == ways[model]
    for model in (Residual, Grouped, Plain, heads):
        assert all(ways[model])
    assert len(set(ways[Attention])) == 2


class Three(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = torch.nn.Conv2d(3, 6, 3), torch.nn.Conv2d(6, 5, 1)
        self.three = torch.nn.Conv2d(5, CLASSES, 3)


class Views(Three):
    """Writes through a view into memory that another name shares."""

    def forward(self, x):
        x = self.two(torch.relu(self.one(x)))
        x.view(len(x), -1).relu_()
        return self.three(x).mean((2, 3))


class Twice(Three):
    """Reads a value again after it has gone through a ReLU, and fills a table of its own."""

    def forward(self, x):
        x = self.two(torch.relu(self.one(x)))
        table = torch.zeros(4)
        table[1:3].fill_(0.5)
        x = torch.relu(x) - 0.4 * x * table
        return self.three(x).mean((2, 3))


@pytest.mark.parametrize("model", [Views, Twice])
def test_code_that_writes_in_place_or_reads_again_is_ablated_exactly(model):
    model = model().eval()
    network = sec.trace(model, X[:1])
    ablation = ablate_channels(network, (X, Y))
    assert {"one", "two"} <= {group.name for group in network.groups}
    for name in ("one", "two"):
        small = sec.apply(model, network.cut({name: [2]}), X[:1], network=network)
        expected = (losses(small) - losses(model)).mean().item()
        assert ablation.estimate[name][2] == pytest.approx(expected, rel=1e-3, abs=1e-6)
