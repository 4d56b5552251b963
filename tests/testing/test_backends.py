"""The battery for frameworks, on both of ours."""

import keras
import numpy as np
import pytest
import torch

import secateurs.keras
import secateurs.pytorch
from secateurs.testing import BackendBattery
from secateurs.testing.networks import build_network, images


class TestPyTorch(BackendBattery):
    backend = secateurs.pytorch

    def build(self):
        return build_network("plain")

    def inputs(self):
        return images()[:2]

    def outputs(self, model):
        with torch.no_grad():
            return model(torch.from_numpy(self.inputs())).numpy()


class TestKeras(BackendBattery):
    backend = secateurs.keras

    def build(self):
        keras.utils.set_random_seed(0)
        layers = [
            keras.Input((6, 6, 3)),
            keras.layers.Conv2D(5, 3, activation="relu", name="a"),
            keras.layers.Conv2D(4, 3, name="b"),
            keras.layers.GlobalAveragePooling2D(name="pool"),
            keras.layers.Dense(2, name="c"),
        ]
        return keras.Sequential(layers)

    def inputs(self):
        return np.ascontiguousarray(images()[:2].transpose(0, 2, 3, 1))

    def outputs(self, model):
        return model.predict(self.inputs(), verbose=0)


def test_a_package_without_a_function_fails_the_battery():
    lacking = type("Lacking", (BackendBattery,), {"backend": np})()
    with pytest.raises(AttributeError):
        lacking.test_it_has_every_function_with_the_parameters_asked_for()
