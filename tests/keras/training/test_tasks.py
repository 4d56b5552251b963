"""The task that a Keras model was compiled for, and the losses of built-in tasks."""

import keras
import numpy as np
import pytest
from keras import layers as L

from secateurs.errors import DataError
from secateurs.keras.training.tasks import default_task, tasks_of

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(6, 4)).astype("float32")


def model_of(head, *compiled, **options):
    keras.utils.set_random_seed(0)
    x = keras.Input((4,))
    model = keras.Model(x, head(L.Dense(8, "relu")(x)))
    if compiled:
        model.compile("adam", *compiled, **options)
    return model


def test_classification_is_not_a_task_of_the_model():
    labels = np.arange(6) % 3
    plain = model_of(L.Dense(3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    assert default_task(plain) is None
    assert default_task(model_of(L.Dense(3))) is None  # not compiled
    squares = model_of(L.Dense(3), "mse")
    assert default_task(squares, (X, labels)) is None  # as before: labels are classes
    assert default_task(squares, (X, X[:, :3])).name == "compiled"
    assert default_task(model_of(L.Dense(1, "sigmoid"), "binary_crossentropy")) is None


@pytest.mark.parametrize(
    ("metrics", "name", "higher"),
    [
        ([], "loss", False),
        (["mae"], "mean absolute error", False),
        ([keras.metrics.R2Score()], "r2 score", True),
        ([keras.metrics.RootMeanSquaredError], "root mean squared error", False),
        ([[], ["accuracy"]], "accuracy", True),
    ],
)
def test_the_first_metric_and_its_direction(metrics, name, higher):
    found = default_task(model_of(L.Dense(3), "mse", metrics=[m for m in metrics if m != []]))
    metric = found.described_metric
    assert (metric.name, metric.higher_is_better) == (name, higher)


@pytest.mark.parametrize(
    "loss", ["mse", "log_cosh", keras.losses.Huber(), keras.losses.CosineSimilarity()]
)
def test_the_compiled_loss_is_that_of_evaluate_example_by_example(loss):
    model, y = model_of(L.Dense(3), loss), RANDOM.normal(size=(6, 3)).astype("float32")
    task = default_task(model)
    losses = keras.ops.convert_to_numpy(task.loss(model.predict(X, verbose=0), y))
    assert losses.shape == (6,)
    for row in range(6):
        rows = slice(row, row + 1)
        alone = model.evaluate(X[rows], y[rows], verbose=0)
        assert losses[row] == pytest.approx(alone, rel=1e-4, abs=1e-6)


def test_built_in_losses_equal_losses_by_hand():
    ready = tasks_of(model_of(L.Dense(3)))
    scores = RANDOM.normal(size=(2, 5, 3)).astype("float32")
    logs = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    tokens = np.array([[0, 1, 2, 0, 1], [2, 2, -100, -100, -100]])
    found = ready["masked-language-modelling"].loss(scores, tokens)
    wanted = [
        -np.mean([logs[0, place, tokens[0, place]] for place in range(5)]),
        -np.mean([logs[1, 0, 2], logs[1, 1, 2]]),
    ]
    assert keras.ops.convert_to_numpy(found) == pytest.approx(wanted, rel=1e-5)
    found = ready["language-modelling"].loss(scores, tokens)
    wanted = [-np.mean([logs[0, p, tokens[0, p + 1]] for p in range(4)]), -logs[1, 0, 2]]
    assert keras.ops.convert_to_numpy(found) == pytest.approx(wanted, rel=1e-5)
    found = ready["regression"].loss(np.array([[1.0], [3.0]]), np.array([0.0, 1.0]))
    assert keras.ops.convert_to_numpy(found).tolist() == [1.0, 4.0]


def test_the_contrastive_loss_equals_pytorchs():
    import torch

    from secateurs.pytorch.training.tasks import contrast

    vectors = RANDOM.normal(size=(8, 4)).astype("float32")
    like = np.array([0, 0, 1, 1, 2, 2, 3, 4])
    theirs = contrast(torch.tensor(vectors), torch.tensor(like)).numpy()
    loss = tasks_of(model_of(L.Dense(3)))["embedding"].loss
    mine = keras.ops.convert_to_numpy(loss(keras.ops.convert_to_tensor(vectors), like))
    assert mine == pytest.approx(theirs, abs=1e-4)


def test_classes_are_refused_as_regression_targets():
    loss = tasks_of(model_of(L.Dense(3)))["regression"].loss
    with pytest.raises(DataError, match=r"shape \(6, 3\); received targets of shape \(6,\)"):
        loss(X[:, :3], np.arange(6))
