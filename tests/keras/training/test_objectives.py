"""Losses for ``fit`` other than a compiled loss."""

import keras
import numpy as np
import pytest
from keras import layers as L

from secateurs.errors import SecateursError
from secateurs.keras.training.objectives import (
    Stepper,
    TaskObjective,
    learns_by_itself,
    one_number,
)

X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    x = keras.Input((4,))
    hidden = L.Dense(6, "relu", kernel_regularizer=keras.regularizers.L2(0.1))(x)
    made = keras.Model(x, L.Dense(3)(hidden))
    made.compile(keras.optimizers.SGD(0.1), "mse")
    return made


def test_a_models_class_may_define_its_training(model):
    class Own(keras.Model):
        def compute_loss(self, *given, **named):
            return super().compute_loss(*given, **named)

    assert not learns_by_itself(model)
    assert not learns_by_itself(keras.Sequential([L.Dense(2)]))
    assert learns_by_itself(Own(model.input, model.output))


def test_an_objective_is_the_mean_loss_and_the_models_penalties(model):
    losses = keras.ops.convert_to_tensor(np.array([1.0, 3.0], "float32"))
    found = TaskObjective(model, lambda outputs, targets: losses)(y_pred=0, y=0)
    penalty = 0.1 * np.square(model.get_weights()[0]).sum()
    assert keras.ops.convert_to_numpy(found) == pytest.approx(2 + penalty, rel=1e-5)


def test_a_stepper_has_the_models_weights_and_optimizer_and_trains_them(model):
    stepper = Stepper(model, lambda m, batch: keras.ops.mean(m(batch["x"]) ** 2), "mine")
    mine, theirs = stepper.trainable_variables, model.trainable_variables
    assert [id(one) for one in mine] == [id(one) for one in theirs]
    assert stepper.optimizer is model.optimizer
    before = [np.square(model.predict(X, verbose=0)).mean()]
    history = stepper.fit(
        (one for one in [({"x": X},)]), steps_per_epoch=1, shuffle=False, verbose=0
    ).history["loss"]
    assert history == pytest.approx(before, rel=1e-5)
    assert np.square(model.predict(X, verbose=0)).mean() < before[0]


def test_what_a_step_may_return():
    tensor = keras.ops.convert_to_tensor(np.array([1.0, 3.0], "float32"))
    assert float(one_number(tensor, "mine")) == 2
    assert float(one_number({"loss": tensor}, "mine")) == 2
    for wrong in (1.0, None, {"other": tensor}, keras.ops.cast(tensor, "int32")):
        with pytest.raises(SecateursError, match="mine: expected a train_step that returns"):
            one_number(wrong, "mine")
