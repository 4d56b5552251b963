"""Files for phones, written and run in their own runtimes where these are installed.

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
def test_mobile_runtimes_give_the_models_outputs(module, name, small, tmp_path):
    pytest.importorskip(module, reason=f"pip install {module.replace('_', '-')}")
    made = sec.export(small, tmp_path / name, torch.randn(1, 3, 16, 16))
    assert made.bytes == (tmp_path / name).stat().st_size
    assert made.max_difference is not None
    assert made.max_difference < 1e-5


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*tf.lite.Interpreter")
@pytest.mark.filterwarnings("ignore:.*LiteRT|.*deprecated")
@pytest.mark.parametrize("name", ["small", "small.tflite"])
def test_tensorflow_does_what_a_keras_model_does(name, tmp_path):
    pytest.importorskip("tensorflow", reason="pip install tensorflow")
    layers = [keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.GlobalAveragePooling2D()]
    model = keras.Sequential([keras.Input((16, 16, 3)), *layers, keras.layers.Dense(4)])
    images = np.random.default_rng(0).normal(size=(1, 16, 16, 3)).astype("float32")
    cut = sec.prune(model, images, "macs=0.5").model
    target = "litert" if name.endswith(".tflite") else "savedmodel"
    made = sec.export(cut, tmp_path / name, images, to=target)
    assert made.max_difference < 1e-5


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_core_ml_is_written_without_a_word_and_what_it_cannot_take_is_named(small, tmp_path, capfd):
    pytest.importorskip("coremltools", reason="pip install coremltools")

    class Bessel(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    made = sec.export(small, tmp_path / "small.mlpackage", torch.randn(1, 3, 16, 16))
    assert made.max_difference is None
    assert "runs only on macOS" in made.note
    assert (tmp_path / "small.mlpackage").is_dir()
    odd = nn.Sequential(nn.Conv2d(3, 4, 3), Bessel())
    with pytest.raises(sec.ExportError, match=r"special_bessel_j0 is in the layer '1'"):
        sec.export(odd, tmp_path / "odd.mlpackage", torch.randn(1, 3, 8, 8))
    assert capfd.readouterr().out == ""
