import keras
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
