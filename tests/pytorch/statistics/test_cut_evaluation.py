import numpy as np
import torch
from torch import nn

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.examples import StepLoss
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


def test_without_images_to_estimate_moments_from_they_stay():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()
    nn.init.normal_(model[0].running_mean)
    nn.init.uniform_(model[0].running_var, 0.5, 2.0)
    before = [model[0].running_mean.clone(), model[0].running_var.clone()]
    for batches in ([], [CalibrationBatch(X[:1], None)]):
        with torch.no_grad():
            recalibrate_(model, batches)
        assert torch.equal(model[0].running_mean, before[0])
        assert torch.equal(model[0].running_var, before[1])


def test_a_step_of_a_task_is_judged_with_the_moments_that_the_model_has():
    """As the same loss is without a step; moments were set to 0 and 1 for it."""
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).eval()
    nn.init.normal_(model[1].running_mean)
    network = sec.trace(model, torch.from_numpy(X[:1]))

    def step(model, batch):
        x, y = batch
        return nn.functional.cross_entropy(model(x), y)

    loss = StepLoss(sec.LearningTask("mine", train_step=step))
    batches = [CalibrationBatch(torch.from_numpy(X), torch.from_numpy(Y))]
    by_step, _ = evaluate_cut(network, sec.Cut(), batches, loss=loss)
    plain, _ = evaluate_cut(network, sec.Cut(), [CalibrationBatch(X, Y)])
    np.testing.assert_allclose(by_step, plain, rtol=1e-5)
