"""Small Keras networks and data, for tests of training and of surgery."""

import keras
import numpy as np
from keras import layers as L

_RANDOM = np.random.default_rng(0)
LABELS = np.arange(60) % 3
IMAGES = _RANDOM.standard_normal((60, 8, 8, 1)).astype("float32") * 0.3
IMAGES[np.arange(60), LABELS * 2 + 1] += 1.0  # a row that tells the class
DATA = (IMAGES, LABELS)


def cnn(*, softmax=True, compiled="adam", dropout=0.0):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            L.Conv2D(6, 3, activation="relu", name="conv1"),
            L.MaxPooling2D(name="pool"),
            L.Conv2D(8, 2, activation="relu", name="conv2"),
            L.Flatten(name="flat"),
            L.Dropout(dropout, name="drop"),
            L.Dense(10, activation="relu", name="hidden"),
            L.Dense(3, activation="softmax" if softmax else None, name="head"),
        ],
        name="cnn",
    )
    if compiled:
        optimizer = keras.optimizers.Adam(0.01) if compiled == "adam" else compiled
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not softmax)
        model.compile(optimizer, loss, metrics=["accuracy"])
    return model


def state(model):
    return [np.array(weight) for weight in model.get_weights()]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


_ROWS = np.random.default_rng(0)
X = _ROWS.standard_normal((8, 6, 6, 3)).astype("float32")
Y = _ROWS.standard_normal((8, 2)).astype("float32")


def classifier(**conv):
    """Of inputs like ``X``."""
    i = keras.Input((6, 6, 3))
    x = L.Conv2D(8, 3, name="conv", **conv)(i)
    x = L.BatchNormalization(name="bn")(x)
    x = L.Dense(5, activation="relu", name="hidden")(L.Flatten()(x))
    return keras.Model(i, L.Dense(2, name="head")(x), name="classifier")
