"""One pass for many criteria, and what a user's function may return."""

import numpy as np
import pytest

import secateurs as sec
from secateurs.criteria import CRITERIA, score, score_many
from secateurs.errors import SecateursError
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
