"""Activations of channels on calibration images, against a forward hook."""

import warnings

import numpy as np
import pytest
import torch

import secateurs as sec
from secateurs.criteria import score
from support.small_networks import Plain, images, labels

X, Y = images(), labels()


def test_apoz_warns_where_activations_are_hardly_ever_zero():
    smooth = sec.trace(Plain(activation=torch.nn.functional.silu), X[:1])
    with pytest.warns(
        UserWarning, match=r"apoz counts values .* conv1.*do not come directly from a ReLU"
    ):
        score(smooth, "apoz", data=X)
    model = Plain()
    model.head = torch.nn.Conv2d(4, 4, 1)
    model.forward = lambda x: model.head(torch.relu(model.conv2(torch.relu(model.conv1(x))))).mean(
        (2, 3)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score(sec.trace(model, X[:1]), "apoz", data=X)


def values_of(model):
    """What the second convolution reads, seen by a hook: shape (images, positions, channels)."""
    seen = []
    handle = model.conv2.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        model(torch.from_numpy(X))
    handle.remove()
    return seen[0].flatten(2).transpose(1, 2).double().numpy()


def test_by_a_hook():
    model = Plain()
    h = values_of(model)
    network = sec.trace(model, X[:1])
    norms = model.conv2.weight.detach().double().square().sum((0, 2, 3)).numpy()
    raw = h.var(axis=(0, 1)) * norms
    expected = {
        "apoz": (h != 0).mean(axis=(0, 1)),
        "mean_activation": np.abs(h).mean(axis=(0, 1)),
        "std_activation": h.std(axis=(0, 1)),
        "fluctuation": (raw - raw.mean()) / raw.std(),
    }
    for name, scores in expected.items():
        found = score(network, name, data=X)["conv1"]
        np.testing.assert_allclose(found, scores, rtol=1e-4, atol=1e-6, err_msg=name)
