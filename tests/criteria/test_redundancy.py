"""Which filters say the same, and which of them stay."""

import numpy as np
import pytest
import torch

import secateurs as sec
from secateurs.criteria import (
    redundant,
    score,
)
from secateurs.criteria.redundancy import score_by_similarity_
from secateurs.errors import DataError
from support.filters_by_hand import FILTERS, by_hand
from support.small_networks import Plain, images, labels

X, Y = images(), labels()


def test_one_of_each_similar_set_stays_whatever_its_scale():
    base = np.random.default_rng(0).normal(size=(3, 6))
    filters = np.concatenate([base, 2 * base, -0.5 * base])
    scores = by_hand(filters.astype(np.float32).tolist(), "cosine")
    assert (scores < 1e-5).sum() == 6
    assert set(np.flatnonzero(scores > 1e-5)) == {3, 4, 5}  # the largest of each


def test_scores_are_similarities_at_the_moment_of_dropping():
    random = np.random.default_rng(0)
    rows = random.normal(size=(12, 4))
    rows[5] = 0  # nothing at all is the first to go
    scores = score_by_similarity_(rows @ rows.T)
    left = list(range(12))
    norms = np.linalg.norm(rows, axis=1)
    for dropped in np.argsort(scores, kind="stable")[:-1].tolist():
        cosine = np.array(
            [
                [abs(rows[i] @ rows[j]) / max(norms[i] * norms[j], 1e-300) for i in left]
                for j in left
            ]
        )
        cosine[[i for i, at in enumerate(left) if norms[at] == 0]] = 1
        np.fill_diagonal(cosine, -1)
        assert scores[dropped] == pytest.approx(1 - cosine.max(), abs=1e-9)
        left.remove(dropped)
    assert scores[5] == 0


def test_a_similarity_is_an_alternative_to_an_amount():
    model = Plain(width=8)
    with torch.no_grad():
        model.conv1.weight[3] = model.conv1.weight[1] * 0.7
        model.conv1.weight[6] = -model.conv1.weight[2] * 1.5
    network = sec.trace(model, X[:1])
    gone = redundant(network, 0.95)
    assert {name: channels.tolist() for name, channels in gone.items()} == {"conv1": [2, 3]}
    scores = score(network, "cosine")
    planned = sec.plan(network, scores, threshold=0.05, scope="network", floor=1)
    assert {name: list(cut.removed) for name, cut in planned.channels.items()} == {"conv1": [2, 3]}
    assert sec.report_of(sec.apply(model, network.cut(gone), X[:1])).proof.holds
    with pytest.raises(DataError, match=r"similarity in \(0, 1\)"):
        redundant(network, 1.5)


def test_on_white_noise_outputs_are_as_similar_as_filters():
    """Why random inputs need not be drawn: their expectation is known."""
    filters = np.random.default_rng(1).normal(size=(5, 4))
    noise = np.random.default_rng(2).normal(size=(200_000, 4))
    outputs = noise @ filters.T
    outputs -= outputs.mean(0)
    np.testing.assert_allclose(
        score_by_similarity_(outputs.T @ outputs),
        score_by_similarity_(filters @ filters.T),
        atol=0.01,
    )


def test_cosine_by_hand():
    # 2 goes first (equal to 1 but for its sign), then 3 (0.8 with 1), then 4 (0.6 with 1)
    found = by_hand(FILTERS, "cosine")
    np.testing.assert_allclose(found, [1, 0, 0.2, 0.4], rtol=1e-6, atol=1e-9)
