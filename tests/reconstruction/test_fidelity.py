import numpy as np
import pytest
from scipy.special import expit, softmax
from scipy.stats import entropy

from secateurs.reconstruction import fidelity
from secateurs.reconstruction.fidelity import Judge, answers_in, kind_of, some_places
from support.peers import run_with_peers

RANDOM = np.random.default_rng(0)
DENSE, SMALL = RANDOM.normal(size=(2, 6, 4)) * 3


def verdict(kind, dense, small):
    judge = Judge(kind)
    for rows in (slice(0, 2), slice(2, 6)):
        judge.add([dense[rows]], [small[rows]])
    return judge.verdict()


def test_fidelity_of_classes_is_entropy_and_agreement():
    found = verdict("categorical", DENSE, SMALL)
    expected = [entropy(softmax(d), softmax(s)) for d, s in zip(DENSE, SMALL, strict=True)]
    assert found.distance == pytest.approx(np.mean(expected))
    assert found.error == pytest.approx(np.std(expected) / np.sqrt(6))
    assert found.agreement == (DENSE.argmax(1) == SMALL.argmax(1)).mean()


@pytest.mark.parametrize("given", [lambda scores: scores, expit], ids=["scores", "probabilities"])
def test_fidelity_of_probabilities_is_the_same_before_and_after_the_sigmoid(given):
    p, q = expit(DENSE), expit(SMALL)
    expected = entropy([p, 1 - p], [q, 1 - q], axis=0).sum(1).mean()
    found = verdict("bernoulli", given(DENSE), given(SMALL))
    assert found.distance == pytest.approx(expected, rel=1e-5)
    assert found.agreement is None


def test_fidelity_of_embeddings_is_their_cosine():
    cosines = (DENSE * SMALL).sum(1) / np.linalg.norm(DENSE, axis=1) / np.linalg.norm(SMALL, axis=1)
    found = verdict("embedding", DENSE, SMALL)
    assert found.distance == pytest.approx(1 - cosines.mean())
    assert "1 - cosine" in str(found)


def test_fidelity_of_numbers_is_over_all_batches_together():
    found = verdict("relative", DENSE, SMALL)
    spread = np.square(DENSE - DENSE.mean(0)).sum(1).mean()
    assert found.distance == pytest.approx(np.square(DENSE - SMALL).sum(1).mean() / spread)


def test_the_kind_of_outputs_is_inferred_or_given():
    assert kind_of([DENSE]) == "categorical"
    assert kind_of([expit(DENSE)]) == "bernoulli"
    assert kind_of([DENSE], "gaussian") == "relative"
    assert kind_of([DENSE, DENSE]) == "relative"


def test_many_scores_are_thinned_evenly(monkeypatch):
    monkeypatch.setattr(fidelity, "NUMBERS_A_TEXT", 12)
    right, found = RANDOM.standard_normal((2, 3, 10, 4))  # 3 of 10 places, of 4 classes each
    assert answers_in([right], "categorical") == 10
    assert answers_in([right], "relative") == answers_in([right[:, 0]], "categorical") == 1
    places = [1, 5, 8]
    np.testing.assert_array_equal(some_places(right), right[:, places])
    judge = Judge("categorical")
    judge.add([right], [found])
    expected = entropy(softmax(right, -1), softmax(found, -1), axis=-1)[:, places].mean()
    assert judge.verdict().distance == pytest.approx(expected)


@pytest.mark.parametrize("length", range(1, 40))
def test_thinned_scores_are_not_thinned_again(monkeypatch, length):
    # 128 places of 49,152 words were once thinned to 43, and those, being a little too many, to 21.
    monkeypatch.setattr(fidelity, "NUMBERS_A_TEXT", 2**7)
    scores = RANDOM.standard_normal((1, length, 3))
    kept = some_places(scores)
    assert kept.shape == (1, min(length, 42), 3)
    for classes in (1, 5, 7, 50, 129):
        kept = some_places(RANDOM.standard_normal((1, length, classes)))
        assert some_places(kept) is kept
        assert kept[0].size <= max(2**7, classes)


def test_maps_of_classes_are_averaged_over_their_places():
    right, found = RANDOM.standard_normal((2, 3, 4, 5, 6))
    judge = Judge("categorical")
    judge.add([right], [found])
    expected = entropy(softmax(right, 1), softmax(found, 1), axis=1).mean()
    assert judge.verdict().distance == pytest.approx(expected)


def test_constant_outputs_are_compared_relative_to_their_size():
    flat = np.ones((6, 4))
    assert verdict("relative", flat, 0 * flat).distance == pytest.approx(1)


def test_outputs_that_are_not_finite_are_infinitely_far():
    found = DENSE.copy()
    found[0, 0] = np.nan
    assert verdict("categorical", DENSE, found).distance == np.inf


@pytest.mark.parametrize("kind", ["categorical", "relative"])
def test_processes_judge_together_what_one_judges(kind):
    def judge(part):
        found = Judge(kind)
        found.add([DENSE[part]], [SMALL[part]])
        return found

    middle = len(DENSE) // 3
    parts, whole = [slice(0, middle), slice(middle, None)], judge(slice(None)).verdict()
    for found in run_with_peers(2, lambda peers: judge(parts[peers.rank]).gather(peers).verdict()):
        assert found == whole
        np.testing.assert_allclose(found.distances, whole.distances, rtol=1e-12)
