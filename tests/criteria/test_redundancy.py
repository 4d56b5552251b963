"""Which filters are redundant, and which of them are kept."""

import tracemalloc

import numpy as np
import pytest
import torch

import secateurs as sec
from secateurs.criteria import redundancy, redundant, score, similarity
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


def drop_by_all_pairs(filters):
    """The most similar pair of a whole matrix, again and again; written out."""
    norms = np.linalg.norm(filters, axis=1)
    cosines = np.abs(filters @ filters.T) / np.maximum(np.outer(norms, norms), 1e-300)
    cosines[norms == 0] = cosines[:, norms == 0] = 1
    np.fill_diagonal(cosines, -1)
    scores = np.ones(len(filters))
    for _ in range(len(filters) - 1):
        one, other = np.unravel_index(cosines.argmax(), cosines.shape)
        dropped = one if norms[one] < norms[other] else other
        scores[dropped] = 1 - cosines.max()
        cosines[dropped] = cosines[:, dropped] = -1
    return scores


@pytest.mark.parametrize("rank", [2, 5, 40])
def test_by_blocks_of_filters_it_is_what_all_pairs_give(rank, monkeypatch):
    random = np.random.default_rng(rank)
    filters = random.normal(size=(150, rank)) @ random.normal(size=(rank, 40))
    filters[[3, 77]] = 0
    monkeypatch.setattr(redundancy, "ROWS", 16)
    found = redundancy.score_filters_by_similarity(filters)
    np.testing.assert_allclose(found, drop_by_all_pairs(filters), rtol=0, atol=1e-9)


def test_one_of_many_copies_stays_by_blocks_too(monkeypatch):
    base = np.random.default_rng(1).normal(size=(5, 9))
    filters = np.concatenate([scale * base for scale in range(1, 31)])
    monkeypatch.setattr(redundancy, "ROWS", 16)
    found = redundancy.score_filters_by_similarity(filters)
    assert set(np.flatnonzero(found > 1e-9)) == set(range(145, 150))  # the largest of each


def test_a_filter_that_is_not_finite_is_reported(monkeypatch):
    monkeypatch.setattr(redundancy, "ROWS", 4)
    filters = np.ones((9, 3))
    filters[4, 1] = np.nan
    assert np.isnan(redundancy.score_filters_by_similarity(filters)).all()


@pytest.mark.parametrize("name", ["cosine", "geometric_median", "whc"])
def test_a_wide_layer_takes_no_matrix_of_all_pairs(name, monkeypatch):
    channels = 3000
    network = sec.trace(
        torch.nn.Sequential(torch.nn.Linear(20, channels), torch.nn.Linear(channels, 2)),
        torch.zeros(1, 20),
    )
    for module in (redundancy, similarity):
        monkeypatch.setattr(module, "ROWS", 128)
    score(network, "l1")  # what is imported and kept by the first call is no matter of this
    tracemalloc.start()
    score(network, name)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * channels**2 / 3


@pytest.mark.parametrize("images", [30, 400])  # fewer than the channels, and more
def test_by_blocks_of_values_it_is_what_all_pairs_give(images, monkeypatch):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 150), torch.nn.ReLU(), torch.nn.Linear(150, 2))
    data = torch.randn(images, 6)
    values = model[:2](data).detach().double().numpy()
    expected = drop_by_all_pairs((values - values.mean(0)).T)
    monkeypatch.setattr(redundancy, "ROWS", 16)
    found = score(sec.trace(model, data[:1]), "cosine", data=data)["0"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_values_of_a_wide_layer_take_no_matrix_of_all_pairs(monkeypatch):
    channels = 3000
    layers = torch.nn.Linear(20, channels), torch.nn.ReLU(), torch.nn.Linear(channels, 2)
    network = sec.trace(torch.nn.Sequential(*layers), torch.zeros(1, 20))
    monkeypatch.setattr(redundancy, "ROWS", 128)
    score(network, "l1")
    tracemalloc.start()
    score(network, "cosine", data=torch.randn(64, 20))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * channels**2 / 3


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


def test_on_white_noise_output_similarity_equals_filter_similarity():
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
