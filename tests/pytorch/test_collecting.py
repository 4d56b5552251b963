import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.calibration.needs import Need
from secateurs.errors import DataError
from secateurs.pytorch.collecting import collect_statistics

X = np.random.default_rng(0).normal(size=(12, 5)).astype("float32")


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)).eval()


def test_means_and_zeros_are_those_of_all_batches_together():
    model = net()
    network = sec.trace(model, torch.from_numpy(X[:1]))
    found = collect_statistics(network, Need.ACTIVATIONS, [X[:7], X[7:]], loss=None)
    made = model[:2](torch.from_numpy(X)).detach().numpy()
    (reading,) = [one for one in found.readings if len(one.units) == 4]
    assert reading.count == 12
    assert np.allclose(reading.zeros, (made == 0).sum(0))
    assert np.allclose(reading.total, made.sum(0), rtol=1e-5)


def test_an_error_about_missing_labels_names_the_caller():
    network = sec.trace(net(), torch.from_numpy(X[:1]))
    with pytest.raises(DataError, match="taylor"):
        collect_statistics(network, Need.GATES, X, loss=None, caller="taylor")
