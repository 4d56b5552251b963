"""Per-channel vectors of normalisations are cut along; averages over channels are reported."""

import inspect

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec


def behind(norm):
    layers = [keras.Input((4, 4, 3)), L.Conv2D(6, 1, name="a"), norm, L.Flatten(), L.Dense(2)]
    model = keras.Sequential(layers)
    random = np.random.default_rng(0)
    norm.set_weights([random.uniform(0.5, 1.5, one.shape) for one in norm.weights])
    return model


@pytest.mark.parametrize("norm", [L.BatchNormalization, L.LayerNormalization])
def test_every_vector_loses_the_same_indices(norm):
    model = behind(norm(name="n"))
    small = sec.delete_channels(model, {"a": [0, 4]})
    before, after = (one.get_layer("n").get_weights() for one in (model, small))
    assert len(before) == len(after) > 0
    for mine, theirs in zip(before, after, strict=True):
        assert np.array_equal(theirs, mine[[1, 2, 3, 5]])
    inexact = sec.report_of(small).proof.inexact
    assert [*inexact] == ([] if norm is L.BatchNormalization else [inexact[0]])


@pytest.mark.skipif(
    "renorm" not in inspect.signature(L.BatchNormalization).parameters, reason="a newer Keras"
)
def test_statistics_of_renormalisation_lose_the_same_indices():
    model = behind(L.BatchNormalization(renorm=True, name="n"))
    small = sec.delete_channels(model, {"a": [0, 4]})
    before, after = (one.get_layer("n").get_weights() for one in (model, small))
    assert len(before) == len(after) == 7
    for mine, theirs in zip(before, after, strict=True):
        assert np.array_equal(theirs, mine[[1, 2, 3, 5]])


def test_whole_groups_or_the_same_channels_of_each_group_are_removed():
    model = behind(L.GroupNormalization(groups=2, name="n"))
    network = sec.trace(model)
    assert sorted(len(group) for group in network.groups) == [2, 3]
    whole = next(group.name for group in network.groups if len(group) == 2)
    small = sec.apply(model, network.cut({whole: [0]}), network=network)
    assert small.get_layer("n").groups == 1
    assert small.get_layer("a").filters == 3
    assert sec.report_of(small).proof.inexact == ()  # no other group is averaged with it


def test_a_norm_over_channels_is_reported():
    small = sec.delete_channels(behind(L.UnitNormalization(name="n")), {"a": [2]})
    assert any("UnitNormalization" in one for one in sec.report_of(small).proof.inexact)
