"""Divergences against SciPy and by hand."""

import numpy as np
import pytest
from scipy.special import expit, log_softmax, rel_entr, softmax

import secateurs as sec
from secateurs.reconstruction.fidelity import Judge, kind_of

RNG = np.random.default_rng(0)


def judged(kind, right, found, parts=2):
    judge = Judge(kind)
    for one, other in zip(np.array_split(right, parts), np.array_split(found, parts), strict=True):
        judge.add([one], [other])
    return judge.verdict()


def test_categorical_is_the_divergence_of_the_probabilities():
    right, found = RNG.standard_normal((2, 20, 5)) * 3
    expected = rel_entr(softmax(right, 1), softmax(found, 1)).sum(1)
    verdict = judged("categorical", right, found)
    assert verdict.distance == pytest.approx(expected.mean())
    assert verdict.error == pytest.approx(expected.std() / np.sqrt(20))
    assert verdict.agreement == (right.argmax(1) == found.argmax(1)).mean()
    assert verdict.images == 20
    # Probabilities are taken as such, and log-probabilities are scores.
    same = judged("categorical", softmax(right, 1), softmax(found, 1))
    assert same.distance == pytest.approx(verdict.distance)
    logs = judged("categorical", log_softmax(right, 1), log_softmax(found, 1))
    assert logs.distance == pytest.approx(verdict.distance)


def test_maps_of_classes_are_averaged_over_their_places():
    right, found = RNG.standard_normal((2, 3, 4, 5, 6))
    expected = rel_entr(softmax(right, 1), softmax(found, 1)).sum(1).mean()
    assert judged("categorical", right, found, 1).distance == pytest.approx(expected)


def test_bernoulli_is_summed_over_scores():
    right, found = RNG.standard_normal((2, 20, 5)) * 2
    p, q = expit(right), expit(found)
    expected = (rel_entr(p, q) + rel_entr(1 - p, 1 - q)).sum(1).mean()
    assert judged("bernoulli", right, found).distance == pytest.approx(expected)


def test_relative_is_one_for_a_constant_and_nought_for_the_same():
    right = RNG.standard_normal((40, 3, 2)) + 5
    constant = np.broadcast_to(right.mean(0), right.shape)
    assert judged("relative", right, right).distance == 0
    assert judged("relative", right, constant).distance == pytest.approx(1)
    flat = np.ones((10, 2))
    assert judged("relative", flat, 0 * flat).distance == pytest.approx(1)


def test_what_is_not_finite_is_infinitely_far():
    right = RNG.standard_normal((4, 3))
    found = right.copy()
    found[0, 0] = np.nan
    assert judged("categorical", right, found).distance == np.inf


def test_kinds_go_by_shape_unless_said():
    scores, many = np.zeros((2, 5)), np.zeros((2, 5, 3))
    assert kind_of([scores]) == "categorical"
    assert kind_of([scores, scores]) == kind_of([many]) == kind_of([scores[:, :1]]) == "relative"
    assert kind_of([scores], "bernoulli") == "bernoulli"
    with pytest.raises(sec.ModelError, match="expected one of categorical, bernoulli, relative"):
        kind_of([scores], "gauss")
