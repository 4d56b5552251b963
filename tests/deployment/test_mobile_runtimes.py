"""Files for phones, written and run in their own runtimes; each where that is installed.

None of them can live in the environment of the other tests: each wants versions of its own.
"""

import keras
import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec


@pytest.fixture(scope="module")
def small():
    """A cut model with what phones' networks have: depthwise, a skip, normalisation."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU6())
            self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            x = self.stem(x)
            return self.head((x + self.depthwise(x)).mean((2, 3)))

    torch.manual_seed(0)
    return sec.prune(Net().eval(), torch.randn(1, 3, 16, 16), "macs=0.5").model


@pytest.mark.parametrize(
    ("module", "name"), [("executorch", "small.pte"), ("litert_torch", "small.tflite")]
)
def test_a_phone_does_what_the_model_does(module, name, small, tmp_path):
    pytest.importorskip(module)
    made = sec.export(small, tmp_path / name, torch.randn(1, 3, 16, 16))
    assert made.bytes == (tmp_path / name).stat().st_size
    assert made.max_difference is not None
    assert made.max_difference < 1e-5


@pytest.mark.parametrize("name", ["small", "small.tflite"])
def test_tensorflow_does_what_a_keras_model_does(name, tmp_path):
    pytest.importorskip("tensorflow")
    layers = [keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.GlobalAveragePooling2D()]
    model = keras.Sequential([keras.Input((16, 16, 3)), *layers, keras.layers.Dense(4)])
    images = np.random.default_rng(0).normal(size=(1, 16, 16, 3)).astype("float32")
    cut = sec.prune(model, images, "macs=0.5").model
    target = "litert" if name.endswith(".tflite") else "savedmodel"
    made = sec.export(cut, tmp_path / name, images, to=target)
    assert made.max_difference < 1e-5
