import keras
import numpy as np
import pytest
from keras import layers as L
from scipy.special import softmax
from scipy.stats import entropy

from secateurs.calibration.batches import CalibrationBatch
from secateurs.errors import ModelError
from secateurs.keras.training.distillation import KERAS, Teacher, distil

X = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
BATCHES = [CalibrationBatch(X[:48], None)]
HELD = [CalibrationBatch(X[48:], None)]


def net(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((6,)), L.Dense(8, "relu"), L.Dense(3)])


def distance(model, dense):
    one, other = (keras.ops.convert_to_numpy(m(X[48:])).astype(np.float64) for m in (model, dense))
    p, q = (np.exp(s) / np.exp(s).sum(axis=1, keepdims=True) for s in (other, one))
    return float((p * np.log(p / q)).sum(axis=1).mean())


def test_a_small_model_comes_nearer_to_the_dense_one():
    dense, small = net(0), net(1)
    before = [np.array(one) for one in small.get_weights()]
    found = distil(
        small, dense, BATCHES, steps=60, held_out=HELD, outputs="categorical", learning_rate=0.01
    )
    assert found.kept
    assert distance(found.model, dense) < 0.5 * distance(small, dense)
    assert all(np.array_equal(a, b) for a, b in zip(before, small.get_weights(), strict=True))


def test_variables_frozen_by_the_user_are_not_trained():
    dense, small = net(0), net(1)
    small.layers[0].trainable = False
    found = distil(small, dense, BATCHES, steps=3, held_out=HELD, outputs="categorical")
    assert np.array_equal(found.trained.get_weights()[0], small.get_weights()[0])
    assert not np.array_equal(found.trained.get_weights()[2], small.get_weights()[2])


def test_sums_over_no_axis_are_the_values():
    x = keras.ops.convert_to_tensor(X[:2])
    assert np.array_equal(keras.ops.convert_to_numpy(KERAS.sum(x, ())), X[:2])
    summed = keras.ops.convert_to_numpy(KERAS.sum(x, (1,)))
    assert np.allclose(summed, X[:2].sum(axis=1), atol=1e-5)


def test_a_model_without_weights_cannot_be_distilled():
    plain = keras.Sequential([keras.Input((6,)), L.Softmax()])
    with pytest.raises(ModelError, match="weights to train"):
        distil(plain, plain, BATCHES, steps=1, held_out=HELD)


def test_a_teachers_distance_from_its_own_outputs_is_zero():
    model = net(0)
    teacher = Teacher(model, 1.0)
    answers = teacher.answers(X)
    np.testing.assert_allclose(answers[0], model.predict(X, verbose=0), rtol=1e-5)
    tensors = [keras.ops.convert_to_tensor(one) for one in answers]
    same = keras.ops.convert_to_numpy(teacher.distances(answers, tensors))
    other = keras.ops.convert_to_numpy(teacher.distances(answers, [-one for one in tensors]))
    assert same.shape == (64,)
    assert np.abs(same).max() < 1e-5
    right, wrong = softmax(answers[0], axis=1), softmax(-answers[0], axis=1)
    np.testing.assert_allclose(other, entropy(right, wrong, axis=1), rtol=1e-3, atol=1e-6)
