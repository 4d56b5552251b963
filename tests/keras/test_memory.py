"""Peak memory of a Keras forward pass, counted by hand."""

import keras
import numpy as np
import pytest

import secateurs as sec
from secateurs.keras.memory import activation_memory, peak_memory
from secateurs.study.goals import Goals


def test_peak_memory_equals_a_count_by_hand():
    layers = [keras.layers.Dense(1000, use_bias=False, activation="relu")]
    layers += [keras.layers.Dense(5, use_bias=False)]
    model = keras.Sequential([keras.layers.Input((10,)), *layers])
    # Weights, input, and at most two wide activations: before and after the ReLU.
    expected = 4 * (10_000 + 5000 + 30 + 2 * 3000)
    assert peak_memory(model, np.zeros((3, 10), "float32")) == expected


def test_activations_of_a_step_are_all_outputs():
    images = np.zeros((2, 8, 8, 4), "float32")
    # Two convolutions, a ReLU, the sum and the three scores; flattening copies nothing.
    expected = 4 * 2 * (4 * 8 * 8 * 16 + 3)
    assert activation_memory(residual(), images) == expected
    outer = keras.Sequential([keras.layers.Input((8, 8, 4)), residual()])
    assert activation_memory(outer, images) == expected


def residual():
    given = keras.Input((8, 8, 4))
    first = keras.layers.Conv2D(16, 3, padding="same", use_bias=False)(given)
    second = keras.layers.Conv2D(16, 3, padding="same", use_bias=False)(keras.layers.ReLU()(first))
    flat = keras.layers.Flatten()(keras.layers.Add()([first, second]))
    return keras.Model(given, keras.layers.Dense(3, use_bias=False)(flat))


def test_a_skip_is_alive_until_it_is_added():
    one = 2 * 8 * 8 * 16  # an activation of two images
    weights = 9 * 4 * 16 + 9 * 16 * 16 + 1024 * 3
    images = np.zeros((2, 8, 8, 4), "float32")
    # The first convolution's output waits while the ReLU and the second one run.
    expected = 4 * (weights + 2 * 8 * 8 * 4 + 3 * one)
    assert peak_memory(residual(), images) == expected
    # The same inside another model: a flattened value is a view, and counts once.
    outer = keras.Sequential([keras.layers.Input((8, 8, 4)), residual()])
    assert peak_memory(outer, images) == expected


def test_a_keras_model_is_cut_to_a_memory():
    images = np.zeros((16, 8, 8, 4), "float32")
    model = residual()
    found = sec.prune(model, images, sec.Budget(peak_memory_mb=0.6))
    share = peak_memory(found.model, images) / peak_memory(model, images)
    assert 0.5 < share <= 0.6


def test_code_that_cannot_run_on_symbolic_tensors_is_refused():
    class Own(keras.Model):
        def call(self, x):
            return x if float(x[0, 0]) > 0 else 2 * x

    images = np.zeros((1, 2), "float32")
    model = Own(name="own")
    model(images)
    with pytest.raises(sec.MeasurementError, match="can be followed without data; its code"):
        peak_memory(model, images)


def test_a_study_of_a_keras_model_records_its_memory():
    network = sec.trace(residual(), np.zeros((1, 8, 8, 4), "float32"))
    goals = Goals.of(network, sec.Budget(peak_memory_mb=0.5))
    assert not goals.fits(network)
    name = network.groups[0].name
    narrow = network.cut({name: range(12)})
    assert goals.measure("peak_memory_mb", network, narrow) < goals.limits["peak_memory_mb"]
    assert goals.fits(network, narrow)
