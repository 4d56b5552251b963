"""Proofs on centre crops of large images, only where the crop proves as much."""

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec
from secateurs.keras.proof.comparison import prove
from secateurs.keras.proof.smaller_images import crop_images
from secateurs.keras.trace_model import source_of

X = np.random.default_rng(0).random((1, 128, 128, 3), dtype=np.float32)


def convolutions(*ending):
    keras.utils.set_random_seed(0)
    options = {"strides": 2, "padding": "same", "activation": "relu"}
    ending = ending or (L.GlobalAveragePooling2D(),)
    layers = [L.Conv2D(8, 3, name="a", **options), L.Conv2D(8, 3, name="b", **options), *ending]
    return keras.Sequential([keras.Input((128, 128, 3)), *layers, L.Dense(4, name="head")])


def proof_of(model, layer):
    small = sec.delete_channels(model, {layer: [0]}, X)
    proof = sec.report_of(small).proof
    assert proof.holds
    dense = keras.ops.convert_to_numpy(model.get_layer("b").kernel).copy()
    if layer == "a":  # computed by hand on the full images: the second convolution reads zeros
        dense[:, :, 0] = 0
        model.get_layer("b").kernel.assign(dense)
        assert np.allclose(model.predict(X, verbose=0), small.predict(X, verbose=0), atol=1e-5)
    return proof


def test_large_images_are_cropped_and_the_proof_says_so():
    proof = proof_of(convolutions(), "a")
    assert proof.images == "64 x 64 of 128 x 128"
    assert "run on the centre 64 x 64 of 128 x 128 pixels" in str(proof)
    assert proof.scale > 0


def test_a_layer_that_reads_every_pixel_is_proven_on_the_full_images():
    assert not proof_of(convolutions(L.Flatten()), "a").images


def test_traced_code_is_run_on_the_full_images():
    @keras.saving.register_keras_serializable(package="smaller_images")
    class Halved(L.Layer):
        def call(self, x):
            return keras.ops.relu(x) / 2

    assert not proof_of(convolutions(Halved(), L.GlobalMaxPooling2D()), "a").images


def test_maps_do_not_get_smaller_than_three_by_three():
    model = convolutions(L.Conv2D(4, 3, 8, padding="same"), L.GlobalMaxPooling2D())
    operations = source_of(sec.trace(model, X)).operations
    assert crop_images([X], operations) is None  # 4 x 4 would be 2 x 2
    assert crop_images([X[:, :40, :40]], operations) is None


def test_swapped_channels_are_refused():
    model = convolutions()
    network = sec.trace(model, X)
    cut = network.cut({"a": [0]})
    small = sec.apply(model, cut, X, network=network)
    kernel = small.get_layer("b").kernel
    kernel.assign(keras.ops.flip(kernel.value, axis=2))
    with pytest.raises(sec.CutError, match="largest difference"):
        prove(network, small, cut, network.alive(network.removed_by(cut)), X)
