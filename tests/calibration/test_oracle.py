"""The importance of a channel, exactly and as far as a race has to know it."""

import numpy as np
import pytest
import torch

import secateurs as sec
from support.small_networks import Plain, images, labels

X, Y = images(12), labels(12)


def test_exact_ablation_is_the_loss_without_each_channel():
    model = Plain()
    found = sec.ablate(sec.trace(model, X[:1]), (X, Y))
    x, y = torch.from_numpy(X), torch.from_numpy(Y)

    def loss(gone=None):
        with torch.no_grad():
            h = torch.relu(model.norm1(model.conv1(x)))
            if gone is not None:
                h[:, gone] = 0
            out = model.head(torch.relu(model.norm2(model.conv2(h))).mean((2, 3)))
            return torch.nn.functional.cross_entropy(out, y).item()

    expected = [loss(channel) - loss() for channel in range(5)]
    np.testing.assert_allclose(found.estimate["conv1"], expected, atol=1e-6)
    assert found.spent == 1.0


def test_a_race_brackets_the_exact_values():
    network = sec.trace(Plain(), X[:1])
    exact = sec.ablate(network, (X, Y))
    race = sec.ablate(network, (X, Y), mode="racing", confidence=0.95)
    assert race.confidence == 0.95
    for name, values in exact.estimate.items():
        inside = np.abs(race.estimate[name] - values) <= race.error[name] + 1e-6
        assert inside.mean() >= 0.75
    with pytest.raises(sec.SecateursError, match="mode"):
        sec.ablate(network, (X, Y), mode="guess")
