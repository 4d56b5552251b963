"""Removing one channel changes the loss as a real cut does."""

import numpy as np
import torch
from torch import nn

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.pytorch.ablation.removal import Removals
from secateurs.pytorch.statistics.loss import PerExampleLoss

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(8, 5)).astype("float32")
Y = RANDOM.integers(0, 3, 8)


def losses(model):
    with torch.no_grad():
        scores = model(torch.from_numpy(X)).double().numpy()
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return -logs[np.arange(8), Y], scores.argmax(axis=1) == Y


def test_each_images_loss_changes_as_by_a_real_cut():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    network = sec.trace(model, torch.from_numpy(X[:1]))
    batch = CalibrationBatch(X, Y)
    removal = Removals(network, PerExampleLoss(None, "test"), batch)
    dense = removal.dense(batch)
    before, right = losses(model)
    assert np.allclose(dense.losses, before, atol=1e-5)
    (group,) = network.groups
    changes = removal.ablate(dense, group, np.array([1, 3]))
    for place, channel in enumerate((1, 3)):
        small = sec.apply(model, network.cut({group.name: [channel]}), torch.from_numpy(X))
        after, now = losses(small)
        assert np.allclose(changes.loss[place], after - before, atol=1e-5)
        assert np.array_equal(changes.right[place], now.astype(int) - right)
    assert removal.supports_subsets(group)
