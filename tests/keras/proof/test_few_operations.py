"""What a proof runs by TensorFlow's own operations is what Keras's code gives."""

import keras
import numpy as np
import pytest

from secateurs.keras.internals import NOT_PLAIN
from secateurs.keras.proof.few_operations import call_in_few_operations

L = keras.layers
IMAGES = np.random.default_rng(0).standard_normal((2, 9, 8, 4)).astype("float32")
on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow's operations"
)
LAYERS = {
    "convolution": lambda: L.Conv2D(5, 3),
    "strides": lambda: L.Conv2D(5, (3, 2), strides=(2, 1), padding="same"),
    "holes and an activation": lambda: L.Conv2D(5, 3, dilation_rate=2, activation="gelu"),
    "no bias": lambda: L.Conv2D(5, 1, use_bias=False),
    "depthwise": lambda: L.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2),
    "normalisation": lambda: L.BatchNormalization(epsilon=0.02),
}


def build(make):
    layer = make()
    if not layer.built:
        layer.build((None, *IMAGES.shape[1:]))
    random = np.random.default_rng(1)
    for variable in layer.weights:
        variable.assign(random.uniform(0.5, 1.5, variable.shape))
    return layer


def run(layer):
    images = keras.ops.convert_to_tensor(IMAGES)
    made = call_in_few_operations(layer, [images], {"training": False})
    return made if made is NOT_PLAIN else keras.ops.convert_to_numpy(made)


@on_tensorflow
@pytest.mark.parametrize("name", LAYERS)
def test_it_is_what_keras_gives(name):
    for _ in range(3):
        layer = build(LAYERS[name])
        expected = layer(IMAGES, training=False)
        np.testing.assert_allclose(run(layer), expected, rtol=1e-5, atol=1e-5)


@on_tensorflow
def test_values_that_are_assumed_count():
    layer = build(LAYERS["convolution"])
    run(layer)
    halves = [(variable, variable.value / 2) for variable in layer.weights]
    expected = layer(IMAGES) / 2
    with keras.StatelessScope(state_mapping=halves):
        np.testing.assert_allclose(run(layer), expected, rtol=1e-5, atol=1e-5)


@on_tensorflow
def test_keras_runs_the_first_of_a_kind_only(monkeypatch):
    calls = []
    call = L.Conv2D.call
    monkeypatch.setattr(
        L.Conv2D, "call", lambda layer, inputs: (calls.append(layer), call(layer, inputs))[1]
    )
    first, alike, other = (
        build(lambda: L.Conv2D(5, 2, strides=3)),
        build(lambda: L.Conv2D(7, 3, strides=3)),
        build(lambda: L.Conv2D(7, 3, strides=3, padding="same")),
    )
    for layer in (first, alike, other, other):
        assert run(layer) is not NOT_PLAIN
    assert calls == [first, other]


@on_tensorflow
def test_code_that_computes_something_else_is_run_itself(monkeypatch):
    call = L.Conv2D.call
    monkeypatch.setattr(L.Conv2D, "call", lambda layer, inputs: 2 * call(layer, inputs))
    layer = build(LAYERS["convolution"])
    np.testing.assert_allclose(run(layer), layer(IMAGES), rtol=1e-6)
    assert run(layer) is NOT_PLAIN


def with_low_rank_weights():
    layer = L.Conv2D(4, 3)
    layer.build((None, *IMAGES.shape[1:]))
    layer.enable_lora(2)
    return layer


def with_own_method():
    layer = L.Conv2D(4, 3)
    call = layer.call
    layer.call = lambda inputs: 2 * call(inputs)
    return layer


@pytest.mark.parametrize(
    "make",
    [
        with_low_rank_weights,
        with_own_method,
        lambda: L.Conv2D(4, 3, groups=2),
        lambda: L.BatchNormalization(axis=1),
        lambda: L.BatchNormalization(scale=False),
        lambda: L.Conv2D(4, 3, dtype="mixed_bfloat16"),
        lambda: L.DepthwiseConv2D(3, dilation_rate=2),
        lambda: L.Dense(3),
    ],
)
def test_others_are_left_to_keras(make):
    assert run(build(make)) is NOT_PLAIN


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="for the other backends")
@pytest.mark.parametrize("name", LAYERS)
def test_other_backends_run_all_by_keras(name):
    assert run(build(LAYERS[name])) is NOT_PLAIN
