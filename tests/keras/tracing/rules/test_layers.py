"""Every family of layers is traced, cut at random, proven and recounted."""

import keras
import numpy as np
import pytest

import secateurs as sec
from contract.zoo import ZOO, noisy

GROUPS = {
    "sequences": {"a": 8, "d": 2, "s": 6, "t": 5},
    "volumes": {"a": 6, "t": 4},
    "channels_first": {"a": 6, "b": 5},
    "groups": {"a/2x4": 2, "a/4x2": 4, "g/3x4": 3, "k/2x12": 2},
    "depthwise": {"a": 8, "d": 3, "s": 2, "s#2": 6, "t": 5},
    "norms": {"a/2x4": 2, "a/4x2": 4, "b": 8, "c": 6, "d": 6, "e": 6, "f": 6},
    "merges": {"a": 6, "w": 4},
    "gates": {"a": 6, "squeeze": 3},
    "moves": {"a/4x3": 4, "a/3x4": 3, "b": 5, "c": 4},
    "einsums": {"a": 8, "b": 7, "c": 3, "c#2": 4, "d": 6},
    "recurrent": {"l/7x4": 7, "g/6x3": 6, "s": 5, "g2/4x3": 4},
    "both_ways": {"b.forward_lstm/4x4": 4, "b2.forward_gru/5x3": 5, "b3.forward_simple_rnn": 3},
    "cells": {"r/4x4": 4, "stack.gru_cell/5x3": 5, "stack.lstm_cell_1/3x4": 3},
    "convolutional_lstm": {"c/5x4": 5, "d/4x4": 4},
    "steps": {"t.conv": 5, "td.dense": 6, "l/4x4": 4},
    "dots": {"a": 8},
    "nested_model": {"a": 6, "encoder.c": 5, "tail.q": 4},
    "shared_layers": {"a": 6, "c": 6},
    "preprocessing": {"s.conv": 6},
    "masks": {"e": 8, "l/5x4": 5},
    "attention": {"q": 8},
}


def random_cut(network, seed=1):
    random = np.random.default_rng(seed)
    return network.cut(
        {
            group.name: random.permutation(len(group))[: random.integers(1, len(group))]
            for group in network.groups
            if len(group) > 1
        }
    )


@pytest.mark.parametrize("name", ZOO)
def test_a_cut_of_each_family_is_proven_and_costs_what_was_predicted(name):
    model = noisy(ZOO[name]())
    before = model.get_weights()
    network = sec.trace(model)
    if name in GROUPS:
        found = {group.name: len(group) for group in network.groups}
        assert sorted(found.values()) == sorted(GROUPS[name].values()), found
    cut = random_cut(network)
    small = sec.apply(model, cut, network=network)
    assert sec.report_of(small).proof.holds
    again, foretold = sec.trace(small).cost(), network.cost(cut)
    assert (again.params, again.macs, again.bytes) == (
        foretold.params,
        foretold.macs,
        foretold.bytes,
    )
    assert type(small) is type(model)
    assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))


@pytest.mark.parametrize(
    "name", ["groups", "transformer", "both_ways", "operations", "nested_model"]
)
def test_a_cut_model_is_saved_and_loaded_by_keras_alone(name, tmp_path):
    model = noisy(ZOO[name]())
    network = sec.trace(model)
    small = sec.apply(model, random_cut(network), network=network, proof=False)
    sec.save(small, tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    assert type(loaded) is type(small)
    for mine, theirs in zip(small.get_weights(), loaded.get_weights(), strict=True):
        assert np.array_equal(mine, theirs)
    again, foretold = sec.trace(loaded).cost(), network.cost(cut=sec.report_of(small).cut)
    assert again.macs == foretold.macs
