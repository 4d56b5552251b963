import numpy as np
import torch
from torch import nn

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.pytorch.statistics.cut_evaluation import evaluate_cut, recalibrate_

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(12, 4)).astype("float32")
Y = RANDOM.integers(0, 3, 12)


def test_losses_are_those_of_the_small_model():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    network = sec.trace(model, torch.from_numpy(X[:1]))
    cut = network.cut({"0": [0, 5]})
    batches = [CalibrationBatch(X[:8], Y[:8]), CalibrationBatch(X[8:], Y[8:])]
    losses, accuracy = evaluate_cut(network, cut, batches)
    w, b, v, c = (one.detach().numpy() for one in model.parameters())
    scores = np.maximum(X @ w.T + b, 0)[:, 1:5] @ v.T[1:5] + c
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    assert np.allclose(losses, -logs[np.arange(12), Y], atol=1e-5)
    assert accuracy == (scores.argmax(axis=1) == Y).mean()


def test_moments_are_the_plain_mean_over_batches():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        recalibrate_(model, [CalibrationBatch(X[:4], None), CalibrationBatch(X[4:], None)])
    means = np.mean([X[:4].mean(0), X[4:].mean(0)], axis=0)
    spreads = np.mean([X[:4].var(0, ddof=1), X[4:].var(0, ddof=1)], axis=0)
    assert np.allclose(model[0].running_mean.numpy(), means, atol=1e-6)
    assert np.allclose(model[0].running_var.numpy(), spreads, atol=1e-6)
    assert model[0].momentum == 0.1
    assert not model[0].training
