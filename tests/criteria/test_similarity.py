"""Distances between filters, by hand and against Torch-Pruning."""

import numpy as np
import pytest
import torch

import secateurs as sec
from secateurs.criteria import score, similarity
from support.filters_by_hand import FILTERS, TwoLayers, by_hand
from support.small_networks import Residual, images, labels
from support.torch_pruning import their_scores

X, Y = images(), labels()


def test_opposite_filters_are_far_apart_here_and_the_same_in_torch_pruning(pruning):
    model = TwoLayers([[1.0, 2.0, -1.0], [-1.0, -2.0, 1.0]])
    x = torch.zeros(1, 3, 2, 2)
    theirs = their_scores(
        pruning.importance.FPGMImportance(p=2, group_reduction="first", normalizer=None),
        model,
        model.conv,
        x,
    )
    ours = score(sec.trace(model, x), "geometric_median")["conv"]
    np.testing.assert_allclose(theirs, 0, atol=1e-6)
    np.testing.assert_allclose(ours, 2 * np.sqrt(6), rtol=1e-6)


def test_whc_by_blocks_is_whc_of_all_pairs(monkeypatch):
    filters = np.random.default_rng(5).normal(size=(13, 7))
    norms = np.linalg.norm(filters, axis=1)
    cosines = np.abs(filters @ filters.T / np.outer(norms, norms))
    wanted = norms * ((1 - cosines) @ norms)
    monkeypatch.setattr(similarity, "ROWS", 4)
    monkeypatch.setattr(similarity, "stack_filters", lambda facts: filters)
    assert similarity.whc(None) == pytest.approx(wanted)


def test_the_geometric_median_by_blocks_is_that_of_all_pairs(monkeypatch):
    filters = np.random.default_rng(5).normal(size=(13, 7))
    filters[4] = filters[9] * (1 + 1e-9)  # alike to more digits than an expanded square keeps
    wanted = np.linalg.norm(filters[:, None] - filters, axis=2).sum(1)
    monkeypatch.setattr(similarity, "ROWS", 4)
    monkeypatch.setattr(similarity, "stack_filters", lambda facts: filters)
    np.testing.assert_allclose(similarity.geometric_median(None), wanted, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "geometric_median",
            [
                10 + np.sqrt(13) + np.sqrt(20),
                10 + np.sqrt(45) + np.sqrt(32),
                np.sqrt(13) + np.sqrt(45) + np.sqrt(5),
                np.sqrt(20) + np.sqrt(32) + np.sqrt(5),
            ],
        ),
        ("lamp", [25 / 50, 25 / 50, 4 / 54, 1 / 55]),
        # |cos|: 1 of the first two, 0.8 of these with the third, 0.6 with the last; else 0
        ("whc", [5 * (2 * 0.2 + 0.4), 5 * (2 * 0.2 + 0.4), 2 * (10 * 0.2 + 1), 10 * 0.4 + 2]),
    ],
)
def test_by_hand(name, expected):
    np.testing.assert_allclose(by_hand(FILTERS, name), expected, rtol=1e-6, atol=1e-9)


def test_coupled_filters_are_one_long_filter():
    model = Residual()
    network = sec.trace(model, X[:1])
    rows = torch.cat([model.stem.weight.flatten(1), model.conv2.weight.flatten(1)], 1).detach()
    np.testing.assert_allclose(
        score(network, "geometric_median")["stem"], torch.cdist(rows, rows).sum(1), rtol=1e-4
    )
