"""APoZ is the fraction of zeros in a layer's own activations, whatever follows them."""

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from secateurs.report.matrices import by_layer

pytestmark = pytest.mark.filterwarnings("ignore:apoz counts")  # readers without any zeros
X = np.random.default_rng(0).standard_normal((10, 8, 8, 1)).astype("float32")


def _pool():
    return L.MaxPooling2D(2)


BEHIND = {
    "nothing": [L.Identity],
    "max pool": [_pool],
    "average pool": [lambda: L.AveragePooling2D(2)],
    "two pools": [_pool, lambda: L.AveragePooling2D(2, strides=1)],
    "padding": [lambda: L.ZeroPadding2D(2)],
    "dropout, pool": [lambda: L.Dropout(0.5), _pool],
    "upsampling": [lambda: L.UpSampling2D(2)],
    "pool, flatten": [_pool, L.Flatten],
    "all of it": [L.GlobalAveragePooling2D],
    "its largest": [L.GlobalMaxPooling2D],
    "depthwise, pool": [lambda: L.DepthwiseConv2D(3), _pool],
    "a group each": [lambda: L.Conv2D(6, 3, groups=6)],
}


@pytest.mark.parametrize("behind", BEHIND)
def test_zeros_are_those_of_the_activations(behind):
    keras.utils.set_random_seed(0)
    start = keras.Input((8, 8, 1))
    activations = L.Conv2D(6, 3, activation="relu", name="a")(start)
    x = activations
    for layer in BEHIND[behind]:
        x = layer()(x)
    x = L.Dense(4, "relu", name="reader")(x)
    x = L.GlobalAveragePooling2D()(x) if len(x.shape) == 4 else x
    model = keras.Model(start, L.Dense(2, name="head")(x))
    given = keras.Model(start, activations).predict(X, verbose=0)
    expected = (given == 0).mean((0, 1, 2))
    scores = sec.score(sec.trace(model), "apoz", data=X)
    np.testing.assert_allclose(1 - scores["a"], expected, atol=1e-6)
    assert 0.05 < expected.mean() < 0.95


def _branches(join):
    keras.utils.set_random_seed(1)
    start = keras.Input((8, 8, 1))
    before = [L.Conv2D(4, 3, activation="relu", name=name)(start) for name in "ab"]
    x = join(*before)
    x = L.Dense(4, "relu", name="reader")(x)
    x = L.GlobalAveragePooling2D()(x) if len(x.shape) == 4 else x
    model = keras.Model(start, L.Dense(2, name="head")(x))
    given = keras.Model(start, before).predict(X, verbose=0)
    return model, [(values == 0).mean((0, 1, 2)) for values in given]


JOINS = {
    "two averages": lambda a, b: L.Concatenate()(
        [L.GlobalAveragePooling2D()(a), L.GlobalAveragePooling2D()(b)]
    ),
    "one as it is": lambda a, b: L.Concatenate()([L.AveragePooling2D(3, 1, padding="same")(a), b]),
    "pooled again": lambda a, b: _pool()(L.Concatenate()([_pool()(a), _pool()(b)])),
    "joined, then pooled": lambda a, b: L.GlobalMaxPooling2D()(L.Concatenate()([a, b])),
    "of ops": lambda a, b: keras.ops.concatenate(
        [keras.ops.mean(a, (1, 2)), keras.ops.max(b, (1, 2))], axis=-1
    ),
    "flat": lambda a, b: L.Concatenate()([L.Flatten()(_pool()(a)), L.Flatten()(_pool()(b))]),
    "average and largest of one": lambda a, b: L.Concatenate()(
        [L.GlobalAveragePooling2D()(a), L.GlobalMaxPooling2D()(a), L.GlobalMaxPooling2D()(b)]
    ),
    "behind batch normalisation": lambda a, b: L.Concatenate()(
        [_pool()(L.BatchNormalization()(a)), _pool()(b)]
    ),
    "a gate on a pooled one": lambda a, b: L.Concatenate()(
        [L.Multiply()([_pool()(a), L.Dense(4, "sigmoid")(_pool()(a))]), _pool()(b)]
    ),
}


@pytest.mark.parametrize("join", JOINS)
def test_each_branch_of_a_join_counts_its_own(join):
    model, expected = _branches(JOINS[join])
    scores = sec.score(sec.trace(model), "apoz", data=X)
    for name, zeros in zip("ab", expected, strict=True):
        if "gate" in join and name == "a":  # read by the gate, and by the reader of the gated value
            assert 0.05 < zeros.mean() < 0.95
        np.testing.assert_allclose(1 - scores[name], zeros, atol=1e-6)


def test_a_sum_of_pooled_values_is_the_mean_of_both_layers():
    model, (a, b) = _branches(lambda a, b: L.Add()([_pool()(a), _pool()(b)]))
    (scores,) = [s for n, s in sec.score(sec.trace(model), "apoz", data=X).items() if len(s) == 4][
        :1
    ]
    np.testing.assert_allclose(1 - scores, (a + b) / 2, atol=1e-6)


def test_halves_with_separate_readers_are_counted_separately():
    keras.utils.set_random_seed(1)
    start = keras.Input((8, 8, 1))
    before = L.Conv2D(8, 3, activation="relu", name="a")(start)
    one, other = keras.ops.split(before, [3], axis=-1)
    x = [L.Conv2D(3, 1, activation="relu")(_pool()(one)), L.Conv2D(3, 1)(_pool()(other))]
    x += [L.Conv2D(3, 1)(_pool()(other))]
    model = keras.Model(start, L.Dense(2)(L.GlobalAveragePooling2D()(L.Concatenate()(x))))
    given = keras.Model(start, before).predict(X, verbose=0)
    network = sec.trace(model)
    busy = by_layer(network, sec.score(network, "apoz", data=X))["a"]
    np.testing.assert_allclose(1 - busy, (given == 0).mean((0, 1, 2)), atol=1e-6)
    means = by_layer(network, sec.score(network, "mean_activation", data=X))["a"]
    pooled = given.reshape(10, 3, 2, 3, 2, 8).max((2, 4)).mean((0, 1, 2))
    np.testing.assert_allclose(means, pooled, rtol=1e-5)


def test_an_activation_after_pooling_is_counted_itself():
    keras.utils.set_random_seed(1)
    start = keras.Input((8, 8, 1))
    before = L.ReLU()(_pool()(L.Conv2D(6, 3, name="a")(start)))
    model = keras.Model(start, L.Dense(2)(L.GlobalAveragePooling2D()(before)))
    given = keras.Model(start, before).predict(X, verbose=0)
    scores = sec.score(sec.trace(model), "apoz", data=X)
    np.testing.assert_allclose(1 - scores["a"], (given == 0).mean((0, 1, 2)), atol=1e-6)
