"""Repair without images: a removed channel that is a copy of a kept one loses nothing."""

import keras
import numpy as np
from keras import layers as L

import secateurs as sec
from secateurs.keras.reconstruction.without_images import repair_without_images_

X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")


def net(norm=True):
    random = np.random.default_rng(1)  # each backend draws different numbers
    between = [L.BatchNormalization(name="n")] if norm else []
    first = L.Dense(5, use_bias=False, name="a")
    model = keras.Sequential(
        [keras.Input((6,)), first, *between, L.ReLU(), L.Dense(3, name="head")]
    )
    values = random.normal(size=(6, 5)) / 2
    values[:, 4] = values[:, 1]
    model.get_layer("a").kernel.assign(values)
    model.get_layer("head").kernel.assign(random.normal(size=(5, 3)) / 2)
    return model


def answers(model):
    return keras.ops.convert_to_numpy(model(X))


def test_a_removed_duplicate_is_compensated_by_its_copy():
    model = net()
    network = sec.trace(model, X[:2])
    cut = network.cut({"a": [4]})
    small = sec.apply(model, cut, X[:2], network=network)
    cut_only = np.abs(answers(small) - answers(model)).max()
    assert repair_without_images_(network, small, cut) == ["head.kernel"]
    assert np.abs(answers(small) - answers(model)).max() < 0.1 * cut_only


def test_without_moments_nothing_changes():
    model = net(norm=False)
    network = sec.trace(model, X[:2])
    cut = network.cut({"a": [4]})
    small = sec.apply(model, cut, X[:2], network=network)
    before = small.get_weights()
    assert repair_without_images_(network, small, cut) == []
    assert all(np.array_equal(a, b) for a, b in zip(before, small.get_weights(), strict=True))
