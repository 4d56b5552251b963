"""Repair without images: a removed channel that is a copy of a kept one loses little."""

import torch
from torch import nn

import secateurs as sec
from secateurs.pytorch.reconstruction.without_images import repair_without_images_

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))


def net(norm=True):
    torch.manual_seed(0)
    between = [nn.BatchNorm1d(5)] if norm else []
    model = nn.Sequential(nn.Linear(6, 5, bias=False), *between, nn.ReLU(), nn.Linear(5, 3)).eval()
    with torch.no_grad():
        model[0].weight[4] = model[0].weight[1]
    return model


def repair(model):
    network = sec.trace(model, X[:2])
    cut = network.cut({"0": [4]})
    small = sec.apply(model, cut, X[:2], network=network)
    with torch.no_grad():
        before = (small(X) - model(X)).abs().max()
        names = repair_without_images_(network, small, cut)
        return names, before, (small(X) - model(X)).abs().max()


def test_a_removed_duplicate_is_compensated_by_its_copy():
    names, before, after = repair(net())
    assert names == ["3.weight"]
    assert after < 0.1 * before


def test_without_moments_nothing_changes():
    names, before, after = repair(net(norm=False))
    assert names == []
    assert after == before
