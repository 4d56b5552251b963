import keras
import numpy as np
import pytest

import secateurs as sec


def two(activation, loss):
    keras.utils.set_random_seed(0)
    parts = [keras.Input((6,)), keras.layers.Dense(12, "relu", name="a")]
    model = keras.Sequential([*parts, keras.layers.Dense(1, activation, name="head")])
    model.compile(keras.optimizers.Adam(0.02), loss)
    return model


def test_a_compiled_model_keeps_its_optimizer_unless_another_is_named():
    model = two("sigmoid", "binary_crossentropy")
    kept = sec.keras.default_training(model, sec.Training(batch_size=16))
    assert (kept.optimizer, kept.learning_rate) == ("compiled", pytest.approx(0.02))
    assert (kept.schedule, kept.warm_up, kept.batch_size) == ("constant", 0, 16)
    assert sec.keras.default_training(model, sec.Training(learning_rate=0.5)).learning_rate == 0.5
    named = sec.Training(optimizer="sgd")
    assert sec.keras.default_training(model, named) is named
    with pytest.raises(sec.ModelError, match=r"without weight_decay.*its own Adam"):
        sec.keras.default_training(model, sec.Training(weight_decay=0.1))


@pytest.mark.parametrize("loss", ["binary_crossentropy", "mse", keras.losses.CategoricalHinge()])
def test_a_loss_on_one_hot_targets_gets_one_hot_targets(loss):
    """One batch of the learner equals one batch of ``fit`` with one-hot targets."""
    x = np.random.default_rng(0).standard_normal((12, 6)).astype("float32")
    labels = np.arange(12) % 3
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, "sigmoid", name="head")])
    model.compile(keras.optimizers.SGD(0.5), loss)
    data = x, np.eye(3, dtype="float32")[labels]
    training = sec.keras.default_training(model, sec.Training(batch_size=12))
    learner = sec.keras.Learner(model, data, data, None, training)
    learner.train(0, [0.5], lambda: None)
    expected = model.get_weights()
    model.fit(*data, batch_size=12, verbose=0)
    trained = learner.trace().source.model.get_weights()
    for began, mine, theirs in zip(expected, trained, model.get_weights(), strict=True):
        assert np.abs(theirs - began).max() > 1e-4
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
