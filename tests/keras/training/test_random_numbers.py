"""A study that stopped goes on alike whatever its data draw from."""

import random

import keras
import numpy as np
import pytest
from keras import layers

import secateurs as sec

X = np.random.default_rng(1).standard_normal((32, 6)).astype("float32")
Y = (X[:, 0] > 0).astype("int64")


class Augmented:
    """Batches that are changed by what is drawn for each."""

    def __init__(self, draw):
        self.draw = draw

    def __len__(self):
        return 4

    def __iter__(self):
        for start in range(0, 32, 8):
            yield X[start : start + 8] + np.float32(0.3 * self.draw()), Y[start : start + 8]


class Stop(sec.Watcher):
    left = 8

    def tick(self):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def study(draw, directory, watcher=None):
    keras.utils.set_random_seed(0)
    parts = layers.Dense(16, "relu", name="hidden"), layers.Dense(2, name="head")
    model = keras.Sequential([keras.Input((6,)), *parts], name="small")
    training = sec.Training(batches=8, fine_tune_batches=4, evaluate_every=3)
    options = {"stop": sec.Stop(rounds=1, tolerance=None), "step": 0.2, "measure_speed": False}
    options |= {"training": training, "directory": directory, "watcher": watcher}
    return sec.iterate(model, Augmented(draw), (X, Y), **options).model.get_weights()


@pytest.mark.parametrize("draw", [np.random.rand, random.random])
def test_a_study_goes_on_alike(draw, tmp_path):
    expected = study(draw, tmp_path / "whole")
    draw()
    with pytest.raises(KeyboardInterrupt):
        study(draw, tmp_path / "parts", Stop())
    draw()
    received = study(draw, tmp_path / "parts")
    assert all(np.array_equal(*pair) for pair in zip(received, expected, strict=True))
