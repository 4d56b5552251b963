import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from secateurs.keras import Learner, has_channels_last


def test_splits_have_channels_first():
    from secateurs import data

    loaded = data.load("digits")
    learner = Learner(
        cnn_of_ten(), loaded.train, loaded.validation, None, sec.Training(shift=1, batch_size=64)
    )
    images, labels = next(iter(learner.calibration(1)))
    assert images.shape[1:] == (8, 8, 1)
    raw, same_labels = loaded.train.batch(slice(0, len(labels)))
    assert np.array_equal(images[..., 0], raw[:, 0])
    assert np.array_equal(labels, same_labels)
    learner.train(0, [0.1], lambda: None)


def test_splits_with_channels_last_are_augmented_alike():
    """An image's rows and columns move, not its channels, whatever the layout of the split."""
    from secateurs import data

    loaded = data.load("digits")
    turned = loaded.arrange(channels_last=True)
    settings = sec.Training(shift=2, flip=True, batch_size=64)
    trained = []
    for one in (loaded, turned):
        keras.utils.set_random_seed(0)
        learner = Learner(cnn_of_ten(), one.train, one.validation, None, settings)
        learner.train(0, [0.1] * 3, lambda: None)
        trained.append(learner.model.get_weights())
    for first, last in zip(*trained, strict=True):
        np.testing.assert_array_equal(first, last)


@pytest.mark.parametrize(
    ("inputs", "shape", "expected"),
    [
        ((8, 8, 3), (3, 8, 8), True),
        ((3, 8, 8), (3, 8, 8), False),
        ((None, None, 3), (3, 8, 8), True),
        ((3, None, None), (3, 8, 8), False),
        ((3, 3, 3), (3, 3, 3), True),  # both fit: Keras's own setting
        ((8, 8, 3), (1, 8, 8), True),  # neither does; the trace says so
    ],
)
def test_the_layout_that_a_model_takes(inputs, shape, expected):
    model = keras.Sequential(
        [keras.Input(inputs), L.Flatten()]
        if None not in inputs
        else [keras.Input(inputs), L.GlobalAveragePooling2D()]
    )
    assert has_channels_last(model, shape) is expected


def cnn_of_ten():
    return keras.Sequential([keras.Input((8, 8, 1)), L.Flatten(), L.Dense(12), L.Dense(10)])


TWO_X = np.random.default_rng(0).standard_normal((64, 6)).astype("float32")


TWO_Y = (TWO_X[:, 0] > 0).astype("int64")


def test_one_hot_labels_are_classes():
    keras.utils.set_random_seed(0)
    parts = [keras.Input((6,)), keras.layers.Dense(12, "relu"), keras.layers.Dense(2, "softmax")]
    model = keras.Sequential(parts)
    model.compile("adam", "categorical_crossentropy")
    rows = np.eye(2)[TWO_Y]
    expected = float(model.evaluate(TWO_X, rows, verbose=0))
    stop, training = sec.Stop(rounds=1, tolerance=None), sec.Training(fine_tune_batches=2)
    for data in ((TWO_X, rows), [(TWO_X[:32], rows[:32]), (TWO_X[32:], rows[32:])]):
        study = sec.iterate(model, data, data, training=training, stop=stop, measure_speed=False)
        dense = next(r for r in study.history if "validation_loss" in r)
        assert abs(dense["validation_loss"] - expected) < 1e-5
    with pytest.raises(sec.DataError, match=r"rows of 2 with a single 1.*argmax"):
        sec.iterate(model, (TWO_X, rows / 2), (TWO_X, rows / 2), stop=stop)
