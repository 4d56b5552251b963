"""prune(distil=...) from end to end."""

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.errors import SecateursError


@pytest.fixture(scope="module")
def dense():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12 * 36, 5),
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # as sure of its answers as a trained network
    return model


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(256, 1, 6, 6)).astype(np.float32)


def test_distillation_brings_a_cut_nearer(dense, images):
    seen = []

    def quieter(batch, random):
        seen.append(len(batch))
        return batch * random.uniform(0.95, 1)

    options = {"calibration": images, "repair": False}
    budget = sec.Budget(macs=0.2)
    pruned = sec.prune(dense, images[:1], budget, distil=60, augmentation=quieter, **options)
    fidelity = pruned.report.fidelity
    assert fidelity["distilled"].distance < fidelity["dropped"].distance
    assert fidelity.kept == "distilled"
    assert seen  # the function was asked
    # What the report says is what the model does, on images of the report's own choice or others.
    others = np.random.default_rng(1).normal(size=(256, 1, 6, 6)).astype(np.float32)
    plain = sec.prune(dense, images[:1], budget, **options)
    assert pruned.cut == plain.cut
    assert apart(dense, pruned.model, others) < apart(dense, plain.model, others)


def apart(dense, small, images):
    with torch.no_grad():
        wanted, found = (model(torch.from_numpy(images)).softmax(1) for model in (dense, small))
    return float((wanted * (wanted / found).log()).sum(1).mean())


def test_an_invalid_effort_is_refused_before_anything_runs(dense, images):
    with pytest.raises(SecateursError, match="'soon'"):
        sec.prune(dense, images[:1], sec.Budget(macs=0.2), calibration=images, distil="soon")
