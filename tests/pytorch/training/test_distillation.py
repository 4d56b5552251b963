import copy

import numpy as np
import pytest
import torch
from torch import nn

from secateurs.calibration.batches import CalibrationBatch
from secateurs.errors import ModelError
from secateurs.pytorch.training.distillation import TORCH, distil

X = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
BATCHES, HELD = [CalibrationBatch(X[:48], None)], [CalibrationBatch(X[48:], None)]


def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def distance(model, dense):
    with torch.no_grad():
        p, q = (m(torch.from_numpy(X[48:])).double().softmax(1) for m in (dense, model))
    return float((p * (p / q).log()).sum(1).mean())


def test_a_small_model_comes_nearer_to_the_dense_one():
    dense, small = net(0), net(1)
    before = copy.deepcopy(small.state_dict())
    found = distil(
        small, dense, BATCHES, steps=60, held_out=HELD, outputs="categorical", learning_rate=0.01
    )
    assert found.kept
    assert distance(found.model, dense) < 0.5 * distance(small, dense)
    assert all(torch.equal(before[name], one) for name, one in small.state_dict().items())


def test_variables_frozen_by_the_user_are_not_trained():
    dense, small = net(0), net(1)
    small[0].requires_grad_(False)
    found = distil(small, dense, BATCHES, steps=3, held_out=HELD, outputs="categorical")
    assert torch.equal(found.trained[0].weight, small[0].weight)
    assert not torch.equal(found.trained[2].weight, small[2].weight)
    assert not found.trained[0].weight.requires_grad


def test_sums_over_no_axis_are_the_values():
    x = torch.from_numpy(X[:2])
    assert TORCH.sum(x, ()) is x
    assert torch.equal(TORCH.sum(x, (1,)), x.sum(1))


def test_a_model_without_parameters_cannot_learn():
    with pytest.raises(ModelError, match="parameters to train"):
        distil(nn.Softmax(1), nn.Softmax(1), BATCHES, steps=1, held_out=HELD)
