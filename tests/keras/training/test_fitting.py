import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from secateurs.keras import Learner

RANDOM = np.random.default_rng(0)


LABELS = np.arange(60) % 3


IMAGES = RANDOM.standard_normal((60, 8, 8, 1)).astype("float32") * 0.3


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


def learner_of(model, **training):
    options = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "batch_size": 60}
    return Learner(model, DATA, DATA, None, sec.Training(**(options | training)))


def test_its_batches_have_rates_of_their_own():
    learners = [learner_of(cnn(), batch_size=20) for _ in range(2)]
    learners[0].train(0, [0.1, 0.0, 0.0], lambda: None)
    learners[1].train(0, [0.1], lambda: None)
    one, other = (state(learner.model) for learner in learners)
    assert same(one, other)
    assert not same(one, state(cnn()))


def test_its_dropout_depends_on_the_seed_and_the_batch_alone():
    """Each batch is the whole set, all of it loses the same and no weight moves: that tells."""
    layers = [L.Flatten(), L.Dropout(0.5, noise_shape=(1, 64)), L.Dense(3, name="head")]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    learner = learner_of(model)
    first, again, second = (learner.train(at, [0.0], lambda: None) for at in (0, 0, 1))
    other = learner_of(model, seed=1).train(0, [0.0], lambda: None)
    assert first == pytest.approx(again, abs=1e-6)
    assert abs(first - second) > 1e-3
    assert abs(first - other) > 1e-3
