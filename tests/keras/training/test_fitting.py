import keras
import pytest
from keras import layers as L

import secateurs as sec
from secateurs.keras import Learner
from support.keras_networks import DATA, cnn, same, state


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
    """Each batch is the whole set with the same loss, and no weight moves: only dropout differs."""
    layers = [L.Flatten(), L.Dropout(0.5, noise_shape=(1, 64)), L.Dense(3, name="head")]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    learner = learner_of(model)
    first, again, second = (learner.train(at, [0.0], lambda: None) for at in (0, 0, 1))
    other = learner_of(model, seed=1).train(0, [0.0], lambda: None)
    assert first == pytest.approx(again, abs=1e-6)
    assert abs(first - second) > 1e-3
    assert abs(first - other) > 1e-3
