"""A study that stopped goes on alike whatever its data draw from."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import secateurs as sec

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
Y = (X[:, 0] > 0).long()
DRAWS = {
    "PyTorch": lambda: torch.rand(()),
    "NumPy": lambda: float(np.random.rand()),
    "Python": random.random,
    "nothing": lambda: 0.0,
}


class Augmented(Dataset):
    def __init__(self, draw):
        self.draw = draw

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return X[index] + 0.3 * self.draw(), Y[index]


class Stop(sec.Watcher):
    left = 8

    def tick(self):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def study(draw, directory, watcher=None, **options_of_loader):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(Augmented(draw), 8, shuffle=True, generator=generator, **options_of_loader)
    training = sec.Training(batches=8, fine_tune_batches=4, evaluate_every=3)
    options = {"stop": sec.Stop(rounds=1, tolerance=None), "step": 0.2, "measure_speed": False}
    options |= {"training": training, "directory": directory, "watcher": watcher}
    return sec.iterate(model, loader, (X, Y), **options).model.state_dict()


@pytest.mark.parametrize("name", ["PyTorch", "NumPy", "Python"])
def test_a_study_with_workers_that_persist_goes_on_alike(name, tmp_path):
    workers = {"num_workers": 1, "persistent_workers": True}
    expected = study(DRAWS[name], tmp_path / "whole", **workers)
    with pytest.raises(KeyboardInterrupt):
        study(DRAWS[name], tmp_path / "parts", Stop(), **workers)
    received = study(DRAWS[name], tmp_path / "parts", **workers)
    assert all(torch.equal(tensor, expected[key]) for key, tensor in received.items())


@pytest.mark.parametrize("name", DRAWS)
def test_a_study_goes_on_alike(name, tmp_path):
    expected = study(DRAWS[name], tmp_path / "whole")
    DRAWS[name]()
    with pytest.raises(KeyboardInterrupt):
        study(DRAWS[name], tmp_path / "parts", Stop())
    DRAWS[name]()
    received = study(DRAWS[name], tmp_path / "parts")
    assert all(torch.equal(tensor, expected[key]) for key, tensor in received.items())
