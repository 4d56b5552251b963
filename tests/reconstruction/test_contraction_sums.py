import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from secateurs.calibration.least_squares import Moments
from secateurs.reconstruction import contraction_sums
from secateurs.reconstruction.contraction_sums import (
    Reading,
    contraction_of,
    draw_slopes,
    images_with_slopes,
)
from support.networks_by_hand import two_layers
from support.peers import run_with_peers

RANDOM = np.random.default_rng(0)


class Weights:
    """A convolution of two taps over four channels."""

    weight, taps, has_intercept = "last.weight", 2, True

    def __init__(self, network):
        self.values = RANDOM.normal(size=(1, 8, 3))

    def matrix(self):
        return self.values

    def tensors(self, matrix, missing):
        return {"last.weight": matrix, "last.bias": missing}


@pytest.fixture
def network():
    return two_layers()


def units(network):
    return network.tensors["last.weight"].axes[1]


def test_narrow_patches_keep_all_products_and_wide_ones_those_of_channels(network, monkeypatch):
    narrow = Reading.of(network, units(network), 8)
    assert (narrow.mixes, narrow.fold) == (False, None)
    assert Reading.of(network, units(network), contraction_sums.MOST_INPUTS + 1).mixes
    monkeypatch.setattr(contraction_sums, "MOST_CHANNELS", 3)
    assert Reading.of(network, units(network), 8) is None


def test_contractions_that_read_no_relevant_group_are_not_summed(network):
    assert Reading.of(network, units(network), 8, network.groups) is not None
    assert Reading.of(network, units(network), 8, []) is None


def test_a_flattened_map_is_folded_into_channels_and_places(network, monkeypatch):
    monkeypatch.setattr(contraction_sums, "MOST_CHANNELS", 3)
    flat = np.repeat(units(network), 3)  # four channels of three places each
    reading = Reading.of(network, flat, 12)
    assert reading.fold.tolist() == np.arange(12).reshape(4, 3).tolist()
    rows = RANDOM.normal(size=(2, 12))
    expected = rows.reshape(2, 4, 3).transpose(0, 2, 1).reshape(6, 4)
    np.testing.assert_array_equal(reading.values(rows), expected)


def test_where_channels_are_mixed_every_tap_is_refitted_by_the_same_mixing(network):
    weights = Weights(network)
    u = RANDOM.normal(size=(50, 4))
    outputs = Moments.of(u[None], np.zeros((1, 50, 0)))
    reading = Reading(units(network), True, None)
    found = contraction_of(weights, reading, outputs, np.ones(3))
    by_channel = weights.values[0].reshape(4, 2 * 3)
    np.testing.assert_array_equal(found.matrix[0], by_channel)
    assert found.moments is outputs
    packed = found.changes(found.matrix, np.arange(6.0))
    np.testing.assert_array_equal(packed["last.weight"], weights.values)
    assert packed["last.bias"].tolist() == [0 + 3, 1 + 4, 2 + 5]  # over both taps


def test_a_plain_contraction_is_unchanged(network):
    weights = Weights(network)
    u = RANDOM.normal(size=(50, 8)) + 1
    moments = Moments.of(u[None], u[None] @ weights.values)
    reading = Reading(units(network), False, None)
    found = contraction_of(weights, reading, moments, np.ones(3))
    assert found.moments is moments
    assert found.entries(network, network.groups[0]).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    weights.has_intercept = False
    about_zero = contraction_of(weights, reading, moments, np.ones(3)).moments
    np.testing.assert_allclose(about_zero.uu[0], u.T @ u)


def test_the_number_of_images_with_gradients_is_limited_by_macs(network, monkeypatch):
    monkeypatch.setattr(contraction_sums, "MACS_OF_SLOPES", 40_000)
    assert images_with_slopes(network, 1, 1000) == 200  # of 100 MACs, two passes' worth each
    assert images_with_slopes(network, 1, 50) == 50
    monkeypatch.setattr(contraction_sums, "MACS_OF_SLOPES", 1)
    assert images_with_slopes(network, 1, 1000) == contraction_sums.LEAST_WITH_SLOPES


def test_sampled_gradients_have_the_curvature_of_their_loss():
    """Of classes: diag(p) - p p'. Of coins: p (1 - p). Of numbers: one over their mean square."""
    scores = np.tile([[1.0, 0.0, -1.0]], (40000, 1))
    p = np.exp(scores[0]) / np.exp(scores[0]).sum()
    (slopes,) = draw_slopes([scores], "categorical", np.random.default_rng(0))
    np.testing.assert_allclose(slopes.T @ slopes / 40000, np.diag(p) - np.outer(p, p), atol=0.01)
    (slopes,) = draw_slopes([scores], "bernoulli", np.random.default_rng(0))
    chances = 1 / (1 + np.exp(-scores[0]))
    np.testing.assert_allclose(np.square(slopes).mean(0), chances * (1 - chances), atol=0.01)
    (slopes,) = draw_slopes([scores], "numbers", np.random.default_rng(0))
    np.testing.assert_allclose(np.square(slopes), 1 / (np.square(scores).mean() * 3), rtol=1e-5)


def test_gradients_of_probabilities_are_those_of_the_sampled_answers():
    chances = np.array([[0.2, 0.5, 0.3]]).repeat(20000, 0)
    (slopes,) = draw_slopes([chances], "categorical", np.random.default_rng(0))
    assert ((slopes != 0).sum(axis=1) == 1).all()
    drawn = slopes.argmin(axis=1)
    np.testing.assert_allclose(slopes.min(axis=1), -1 / chances[0][drawn], rtol=1e-6)
    np.testing.assert_allclose(np.bincount(drawn) / 20000, chances[0], atol=0.01)


def test_slopes_of_tens_of_thousands_of_words_take_a_few_times_their_scores():
    scores = np.zeros((2, 5, 20000), np.float32)
    tracemalloc.start()
    try:
        (slopes,) = draw_slopes([scores], "categorical", np.random.default_rng(0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert slopes.shape == scores.shape
    np.testing.assert_allclose(slopes.sum(axis=-1), 0, atol=1e-5)
    assert peak < 12 * scores.nbytes  # a matrix of words by words would be 4,000 times as large


def test_other_outputs_have_no_part_in_classes_and_maps_have_theirs():
    first, second = RANDOM.normal(size=(5, 3)), RANDOM.normal(size=(5, 2))
    slopes = draw_slopes([first, second], "categorical", np.random.default_rng(0))
    assert np.abs(slopes[1]).max() == 0
    maps = RANDOM.normal(size=(2, 3, 4, 4))
    (slopes,) = draw_slopes([maps], "categorical", np.random.default_rng(0))
    np.testing.assert_allclose(slopes.sum(1), 0, atol=1e-6)  # over the classes, axis 1


def test_each_process_draws_other_answers_and_the_first_those_of_one_alone():
    ranks = [SimpleNamespace(rank=rank, count=3) for rank in range(3)]
    first, *others = [contraction_sums.random_of(5, one).random(4).tolist() for one in ranks]
    assert first == np.random.default_rng(5).random(4).tolist()
    assert first != others[0] != others[1] != first


def test_outputs_are_weighted_by_the_images_of_all_processes():
    slopes = [np.array([3.0, 0.0]), np.array([1.0, 8.0])]
    for found in run_with_peers(
        2, lambda peers: contraction_sums.mean_slopes(slopes[peers.rank], 1 + peers.rank, 2, peers)
    ):
        np.testing.assert_allclose(found, [4 / 3, 8 / 3])
