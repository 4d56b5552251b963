"""APoZ is the share of zeros of a layer's own activations, whatever follows them."""

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec

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
