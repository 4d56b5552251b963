"""Magnitudes and factors, by hand and against Torch-Pruning."""

import numpy as np
import pytest
import torch

import secateurs as sec
from secateurs.criteria import (
    score,
)
from secateurs.errors import ModelError
from support.filters_by_hand import FILTERS, by_hand
from support.small_networks import Plain, Residual, images, labels
from support.torch_pruning import their_scores

X, Y = images(), labels()


def test_batch_norm_scales():
    model = Plain()
    network = sec.trace(model, X[:1])
    np.testing.assert_allclose(
        score(network, "bn_scale")["conv1"], model.norm1.weight.detach().abs(), rtol=1e-6
    )
    residual = Residual()
    with torch.no_grad():
        residual.norm2.weight[:3] *= -1
    stream = score(sec.trace(residual, X[:1]), "bn_scale")["stem"]
    both = (residual.norm0.weight.abs() + residual.norm2.weight.abs()) / 2
    np.testing.assert_allclose(stream, both.detach(), rtol=1e-6)


@pytest.mark.parametrize(("name", "power", "root"), [("l1", 1, 1), ("l2", 2, 2)])
def test_magnitudes_agree_with_torch_pruning(pruning, name, power, root):
    model = Plain()
    theirs = their_scores(
        pruning.importance.GroupMagnitudeImportance(
            p=power, group_reduction="first", normalizer=None, bias=False
        ),
        model,
        model.conv1,
        torch.from_numpy(X[:1]),
    )
    ours = score(sec.trace(model, X[:1]), name)["conv1"]
    np.testing.assert_allclose(ours, theirs ** (1 / root), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("l1", [7, 7, 2, 1]),
        ("l1_mean", [3.5, 3.5, 1, 0.5]),
        ("l2", [5, 5, 2, 1]),
        ("linf", [4, 4, 2, 1]),
    ],
)
def test_by_hand(name, expected):
    np.testing.assert_allclose(by_hand(FILTERS, name), expected, rtol=1e-6, atol=1e-9)


def test_coupled_filters_are_one_long_filter():
    model = Residual()
    network = sec.trace(model, X[:1])
    rows = torch.cat([model.stem.weight.flatten(1), model.conv2.weight.flatten(1)], 1).detach()
    np.testing.assert_allclose(score(network, "l2")["stem"], rows.norm(dim=1), rtol=1e-5)
    np.testing.assert_allclose(score(network, "l1_mean")["stem"], rows.abs().mean(1), rtol=1e-5)
    np.testing.assert_allclose(score(network, "linf")["stem"], rows.abs().amax(1), rtol=1e-5)


def test_bn_scale_needs_a_normalisation():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    with pytest.raises(ModelError, match="bn_scale: expected normalisation layers"):
        score(sec.trace(model, X[:1, :, 0, 0]), "bn_scale")
