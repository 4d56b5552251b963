import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine
from scipy.special import expit, softmax
from scipy.stats import entropy
from torch.nn import functional as F

from secateurs.calibration.outputs import (
    KINDS,
    NUMPY,
    Output,
    divergence,
    divergences,
    read_outputs,
)
from secateurs.errors import DataError, UnknownNameError


@pytest.fixture
def scores():
    random = np.random.default_rng(0)
    return random.normal(size=(5, 4)), random.normal(size=(5, 4))


def test_classes_are_apart_by_the_entropy_of_one_relative_to_the_other(scores):
    dense, small = scores
    expected = [entropy(softmax(d), softmax(s)) for d, s in zip(dense, small, strict=True)]
    assert divergences([Output("categorical")], [dense], [small]) == pytest.approx(expected)
    shares = softmax(dense, axis=1), softmax(small, axis=1)
    probabilities = Output("categorical", probabilities=True)
    assert divergences([probabilities], [shares[0]], [shares[1]]) == pytest.approx(expected)


def test_probabilities_are_apart_by_the_sum_of_two_class_entropies(scores):
    dense, small = scores
    p, q = expit(dense), expit(small)
    expected = sum(
        entropy([p[:, i], 1 - p[:, i]], [q[:, i], 1 - q[:, i]], axis=0) for i in range(4)
    )
    assert divergences([Output("bernoulli")], [dense], [small]) == pytest.approx(expected)
    given = Output("bernoulli", probabilities=True)
    assert divergences([given], [p], [q]) == pytest.approx(expected, rel=1e-5)


def test_numbers_are_apart_by_squares_over_the_dense_outputs_spread(scores):
    dense, small = scores
    (output,) = read_outputs([dense], "gaussian")
    spread = sum(dense[:, i].var() for i in range(4))
    expected = [sum((d - s) ** 2) / spread for d, s in zip(dense, small, strict=True)]
    assert divergences([output], [dense], [small]) == pytest.approx(expected)
    # Whoever always gives the mean is at a distance of one.
    mean = np.broadcast_to(dense.mean(0), dense.shape)
    assert divergences([output], [dense], [mean]).mean() == pytest.approx(1)


def test_directions_are_apart_by_one_minus_their_cosine(scores):
    dense, small = scores
    expected = [cosine(d, s) for d, s in zip(dense, small, strict=True)]
    assert divergences([Output("embedding")], [dense], [small]) == pytest.approx(expected)


def test_temperature_is_that_of_the_usual_distillation(scores):
    dense, small = map(torch.from_numpy, scores)
    expected = 9 * F.kl_div(
        F.log_softmax(small / 3, 1), F.softmax(dense / 3, 1), reduction="none"
    ).sum(1)
    found = divergence(NUMPY, Output("categorical"), *scores, 3.0)
    assert found == pytest.approx(expected.numpy())


def test_several_outputs_and_places_are_summed_and_averaged(scores):
    dense, small = scores
    places = [np.stack([values, values[:, ::-1]], axis=1) for values in scores]  # (5, 2, 4)
    one = divergences([Output("categorical")], [dense], [small])
    both = divergences([Output("categorical")] * 2, [dense, places[0]], [small, places[1]])
    assert both == pytest.approx(2 * one)


def test_maps_of_classes_have_them_where_the_framework_has_channels():
    maps = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    first, last = (read_outputs([maps], "categorical", channels_first=c)[0] for c in (True, False))
    assert first.axis % 4 == 1
    assert last.axis % 4 == 3


@pytest.mark.parametrize(
    ("values", "kind", "probabilities"),
    [
        ([[1.5, -2.0], [0.5, 0.0]], "categorical", False),
        ([[0.25, 0.75], [0.5, 0.5]], "categorical", True),
        ([[0.25, 0.8], [0.5, 0.1]], "bernoulli", True),
        ([[0.6, -0.8], [1.0, 0.0]], "embedding", False),
        ([[3.0], [-1.0]], "relative", False),
        ([[[3.0, 1.0]], [[-1.0, 2.0]]], "relative", False),
    ],
)
def test_what_outputs_are_is_read_from_their_values(values, kind, probabilities):
    (output,) = read_outputs([np.array(values)])
    assert (output.kind, output.probabilities) == (kind, probabilities)


def test_the_user_may_give_the_kind_of_outputs():
    values = np.array([[1.5, -2.0], [0.5, 0.0]])
    assert [read_outputs([values], kind)[0].kind for kind in KINDS] == list(KINDS)


def test_outputs_that_never_change_are_measured_by_their_size():
    (output,) = read_outputs([np.full((4, 1), 3.0)], "gaussian")
    assert output.scale == pytest.approx(9)


def test_what_cannot_be_read_is_refused():
    with pytest.raises(UnknownNameError, match="bernoulli"):
        read_outputs([np.ones((2, 2))], "bernouli")
    with pytest.raises(DataError, match="2; received 1"):
        read_outputs([np.ones((2, 2))] * 2, ["gaussian"])
    with pytest.raises(DataError, match="NaN"):
        read_outputs([np.array([[np.nan, 1.0]])])
    with pytest.raises(DataError, match="received none"):
        read_outputs([])
