"""One pass for many criteria, and what a user's function may return."""

import numpy as np
import pytest

import secateurs as sec
from secateurs.calibration.needs import Need
from secateurs.calibration.shared_data import share
from secateurs.criteria import CRITERIA, score, score_many
from secateurs.criteria.scoring import collect_statistics
from secateurs.errors import SecateursError
from support.peers import run_with_peers
from support.small_networks import Plain, Residual, images, labels

X, Y = images(), labels()


NAMES = list(CRITERIA)


def test_many_criteria_take_one_pass_and_give_the_same():
    model = Residual()
    network = sec.trace(model, X[:1])
    passes = []

    def stream():
        passes.append(1)
        yield X[:5], Y[:5]
        yield X[5:], Y[5:]

    together = score_many(network, NAMES, data=stream())
    assert passes == [1]
    for name in NAMES:
        alone = score(network, name, data=(X, Y))
        for group, values in alone.items():
            np.testing.assert_allclose(together[name][group], values, rtol=1e-4, atol=1e-6)


def test_a_users_own_function_gets_facts_and_is_checked():
    network = sec.trace(Plain(), X[:1])
    by_function = score(network, lambda facts: [rows.sum() for rows in facts.filters[0]])
    np.testing.assert_allclose(
        by_function["conv1"], network.source.array("conv1.weight").sum((1, 2, 3)), rtol=1e-5
    )
    with pytest.raises(SecateursError, match="expected 5 scores for conv1"):
        score(network, lambda facts: np.zeros(3))
    with pytest.raises(SecateursError, match="expected activations to be collected"):
        score(network, lambda facts: facts.readings)


def test_scores_are_a_mapping_that_says_what_it_holds():
    scores = score(sec.trace(Residual(), X[:1]), "l1")
    assert (len(scores), sorted(scores)) == (3, ["conv1", "last", "stem"])
    assert repr(scores) == "<Scores by l1: 19 channels in 3 groups>"
    assert scores.tournament is None


def test_an_error_in_a_users_function_names_its_line():
    network = sec.trace(Plain(), X[:1])

    def mine(facts):
        return facts.filters[0] + {}

    line = mine.__code__.co_firstlineno + 1
    with pytest.raises(SecateursError, match=rf"mine: .*TypeError.*line {line} of test_scoring.py"):
        score(network, mine)
    with pytest.raises(SecateursError, match="expected 5 numbers for conv1, one a channel"):
        score(network, lambda facts: ["a"] * len(facts))
    with pytest.raises(sec.ModelError, match=r"conv1: .*its channel 2 scores NaN"):
        score(network, lambda facts: [np.nan if n == 2 else 0.0 for n in range(len(facts))])


def test_a_criterion_that_only_gains_by_data_gets_them_where_they_are_given():
    """Cosine compares outputs where there are images, filters where there are none."""
    network = sec.trace(Plain(), X[:1])
    alone, seen = score(network, "cosine"), score(network, "cosine", data=X)
    assert not np.allclose(alone["conv1"], seen["conv1"])


def test_processes_that_share_the_data_score_as_one_does():
    model, data = Residual(), [(X[:4], Y[:4]), (X[4:], Y[4:])]
    whole = score_many(sec.trace(model, X[:1]), NAMES, data=data)
    networks = [sec.trace(Residual(), X[:1]) for _ in range(3)]

    def work(peers):
        return score_many(networks[peers.rank], NAMES, data=share(data, peers))

    for found in run_with_peers(3, work):
        for name in NAMES:
            for group, values in whole[name].items():
                np.testing.assert_allclose(found[name][group], values, rtol=1e-4, atol=1e-6)


def test_statistics_of_several_processes_count_every_image_once():
    network = sec.trace(Residual(), X[:1])
    needs = Need.ACTIVATIONS | Need.GRAMS | Need.GATES | Need.ABLATION
    whole = collect_statistics(network, needs, (X, Y))
    networks = [sec.trace(Residual(), X[:1]) for _ in range(2)]

    def work(peers):
        return collect_statistics(networks[peers.rank], needs, share((X, Y), peers))

    for found in run_with_peers(2, work):
        assert found.images == found.gates.images == len(X)
        np.testing.assert_array_equal(found.ablation.images, whole.ablation.images)
        assert found.ablation.dense_loss == pytest.approx(whole.ablation.dense_loss)
        for name, seen in found.ablation.seen.items():
            assert (seen == len(X)).all(), name
        for mine, theirs in zip(found.readings, whole.readings, strict=True):
            assert mine.count == theirs.count
            np.testing.assert_allclose(mine.squares, theirs.squares, rtol=1e-5)
        for name, grams in found.grams.items():
            for mine, theirs in zip(grams, whole.grams[name], strict=True):
                np.testing.assert_allclose(mine.centred, theirs.centred, rtol=1e-4, atol=1e-4)
