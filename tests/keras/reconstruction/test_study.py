"""A loop over a Keras model that repairs each cut before it fine-tunes."""

import keras
import numpy as np
from keras import layers as L
from sklearn.datasets import load_digits

import secateurs as sec

X, Y = load_digits(return_X_y=True)
X, Y = (X.reshape(-1, 8, 8, 1) / 8 - 0.6).astype(np.float32), Y.astype(np.int64)
TRAIN, VALIDATION = (X[:1200], Y[:1200]), (X[1200:], Y[1200:])


def after_cuts(**pruning):
    """Validation accuracy right after each cut of a study with next to no fine-tuning."""
    keras.utils.set_random_seed(0)
    i = keras.Input((8, 8, 1))
    x = L.Conv2D(16, 3, padding="same", activation="relu")(i)
    x = L.Conv2D(24, 3, strides=2, padding="same", activation="relu")(x)
    model = keras.Model(i, L.Dense(10)(L.GlobalAveragePooling2D()(x)))
    result = sec.iterate(
        model,
        TRAIN,
        VALIDATION,
        training=sec.Training(
            batches=150, batch_size=64, optimizer="adamw", learning_rate=5e-3, fine_tune_batches=1
        ),
        stop=sec.Stop(rounds=1, tolerance=None),
        measure_speed=False,
        calibration_batches=6,
        **{"step": 0.4, **pruning},
    )
    return [record["accuracy"] for record in result.history.of("prune")]


def test_a_repaired_cut_needs_less_training():
    repaired, dropped = after_cuts(repair=True), after_cuts(repair=False)
    assert repaired[0] > dropped[0] + 0.1
