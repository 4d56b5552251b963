"""The loss of each image, against formulas written out."""

import keras
import numpy as np
import pytest
from keras import layers as L

from secateurs.errors import DataError
from secateurs.keras.statistics.loss import (
    PerExampleLoss,
    as_classes,
    both_classes,
    gives_probabilities,
    outputs_first,
    tells_two_apart,
)

SCORES = np.array([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]], "float32")
LABELS = np.array([0, 1])


def ending_in(units, activation=None):
    return keras.Sequential([keras.Input((4,)), L.Dense(units, activation)])


def softmax(scores):
    parts = np.exp(scores - scores.max(axis=1, keepdims=True))
    return parts / parts.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_cross_entropy_of_scores_and_of_probabilities(activation):
    objective = PerExampleLoss(None, "test", ending_in(3, activation))
    given = SCORES if activation is None else softmax(SCORES)
    losses = objective.losses([keras.ops.convert_to_tensor(given)], LABELS)
    expected = -np.log(softmax(SCORES)[[0, 1], LABELS])
    assert np.allclose(keras.ops.convert_to_numpy(losses), expected, atol=1e-5)
    assert objective.right([given], LABELS).tolist() == [True, False]


def test_a_single_sigmoid_output_scores_two_classes():
    model = ending_in(1, "sigmoid")
    assert gives_probabilities(model)
    assert tells_two_apart(model)
    chances = np.array([[0.9], [0.2]], "float32")
    both = keras.ops.convert_to_numpy(both_classes(keras.ops.convert_to_tensor(chances), True))
    assert np.allclose(both, [[0.1, 0.9], [0.8, 0.2]], atol=1e-6)
    objective = PerExampleLoss(None, "test", model)
    assert objective.predict_classes(chances).tolist() == [1, 0]
    losses = objective.losses([keras.ops.convert_to_tensor(chances)], np.array([1, 1]))
    assert np.allclose(keras.ops.convert_to_numpy(losses), -np.log([0.9, 0.2]), atol=1e-5)


def test_one_hot_labels_are_classes():
    assert as_classes(np.eye(3)[[2, 0]], 3, (None,)).tolist() == [2, 0]
    assert as_classes(np.array([[1], [0]]), 2, (None,)).tolist() == [1, 0]
    soft = np.array([[0.5, 0.5]])
    assert as_classes(soft, 2, (None,)) is soft


@pytest.mark.parametrize(
    "labels", [np.array([0, 3]), np.array([-1, 0]), np.array([0.5, 1.0]), None]
)
def test_labels_of_other_classes_are_refused(labels):
    objective = PerExampleLoss(None, "test", ending_in(3))
    with pytest.raises(DataError, match="test: expected labels"):
        objective.check_labels([(2, 3)], None if labels is None else np.array(labels))


def test_a_loss_that_takes_the_mean_is_refused():
    objective = PerExampleLoss(
        lambda outputs, labels: keras.ops.mean(outputs), "test", ending_in(3)
    )
    with pytest.raises(DataError, match="one loss for each image"):
        objective.losses([keras.ops.convert_to_tensor(SCORES)], None)


@pytest.mark.parametrize("loss", [keras.losses.KLDivergence(), keras.losses.kl_divergence])
def test_a_loss_of_keras_is_given_the_labels_first(loss):
    wanted = np.array([[0.7, 0.3], [0.2, 0.8]], "float32")
    given = np.array([[0.5, 0.5], [0.4, 0.6]], "float32")
    expected = (wanted * np.log(wanted / given)).sum(axis=1)  # the other order gives other numbers
    objective = PerExampleLoss(loss, "oracle", ending_in(2, "softmax"))
    losses = objective.losses(
        [keras.ops.convert_to_tensor(given)], keras.ops.convert_to_tensor(wanted)
    )
    assert np.allclose(keras.ops.convert_to_numpy(losses), expected, atol=1e-5)
    with pytest.raises(DataError, match="received no labels"):
        objective.losses([keras.ops.convert_to_tensor(given)], None)


def test_a_loss_of_keras_over_maps_is_the_mean_of_each_example():
    wanted, given = np.zeros((2, 3, 3, 1), "float32"), np.ones((2, 3, 3, 1), "float32")
    given[1] = 3
    loss = outputs_first(keras.losses.MeanSquaredError())
    found = keras.ops.convert_to_numpy(loss(keras.ops.convert_to_tensor(given), wanted))
    assert found.tolist() == [1, 9]
    assert outputs_first(softmax) is softmax
