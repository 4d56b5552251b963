"""Weights of outputs from the gradients of fewer images, where all would take too long."""

import numpy as np
import torch
from torch import nn

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.pytorch.reconstruction import dense_sums
from secateurs.pytorch.reconstruction.program import Pieces
from secateurs.reconstruction import contraction_sums


def contractions(images):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))
    network = sec.trace(net.eval(), images[:1])
    return network, dense_sums.contractions_of(
        network, CalibrationBatch(images, None), "categorical", 0
    )


def test_derivatives_stop_where_they_take_too_long_and_sums_go_on(monkeypatch):
    images = np.random.default_rng(0).normal(size=(96, 6)).astype(np.float32)
    monkeypatch.setattr(
        Pieces,
        "sizes",
        lambda self, number: (slice(at, min(at + 16, number)) for at in range(0, number, 16)),
    )
    network, everything = contractions(images)
    _, first = contractions(images[:48])
    monkeypatch.setattr(contraction_sums, "LEAST_WITH_SLOPES", 1)
    monkeypatch.setattr(contraction_sums, "MACS_OF_SLOPES", 2 * 48 * network.macs())
    _, limited = contractions(images)
    for ours, few, all_ in zip(limited, first, everything, strict=True):
        np.testing.assert_allclose(ours.importance, few.importance, rtol=1e-6)
        np.testing.assert_allclose(ours.moments.uu, all_.moments.uu, rtol=1e-6)
        assert not np.allclose(ours.importance, all_.importance, rtol=1e-3)
