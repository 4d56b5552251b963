"""Removing channels of a detector one at a time, against models that are cut."""

import copy

import numpy as np
import pytest

import secateurs as sec
from support.detectors import batches, detector, own_loss, ssd

# Pooling of boxes in Python is compiled by what PyTorch has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def test_ablation_of_a_detector_against_a_model_that_is_cut():
    model, network = detector(ssd)
    data = batches(1)
    found = sec.ablate(network, data, task="detection")
    (images, targets), group = data[0], network.groups[0]
    dense = np.mean(
        [own_loss(copy.deepcopy(model), *pair) for pair in zip(images, targets, strict=True)]
    )
    assert found.dense_loss == pytest.approx(dense, rel=1e-5)
    for channel in range(0, len(group), 4):
        small = sec.apply(model, network.cut({group.name: np.array([channel])}), network=network)
        loss = np.mean([own_loss(small, *pair) for pair in zip(images, targets, strict=True)])
        assert found.estimate[group.name][channel] == pytest.approx(loss - dense, abs=1e-5)
    assert found.exact
    assert not found.classified


def test_a_race_over_a_detector_finds_what_removing_all_finds():
    _, network = detector(ssd)
    data = batches(1)
    exact = sec.ablate(network, data, task="detection")
    raced = sec.ablate(network, data, task="detection", mode="racing", share=0.5, scope="group")
    for name, lowest in raced.lowest.items():
        best = np.argsort(exact.estimate[name])[: len(lowest)]
        assert len(set(best) & set(lowest)) >= len(lowest) - 1
