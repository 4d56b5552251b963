"""Exported Keras models give the model's outputs in the target's own runtime."""

import keras
import numpy as np
import pytest
from keras import layers as L

import secateurs as sec


@pytest.fixture(scope="module")
def small():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), L.Conv2D(16, 3), L.BatchNormalization(), L.ReLU()]
    )
    model.add(L.GlobalAveragePooling2D())
    model.add(L.Dense(4))
    return sec.prune(model, None, "params=0.6").model


def images(count):
    return np.random.default_rng(0).standard_normal((count, 8, 8, 3)).astype(np.float32)


@pytest.mark.parametrize("suffix", ["keras", "safetensors"])
def test_keras_and_safetensors_files_give_the_models_outputs(small, tmp_path, suffix):
    made = sec.export(small, tmp_path / f"small.{suffix}", images(2))
    assert made.max_difference == 0
    with pytest.raises(sec.ExportError, match="exists already"):
        sec.export(small, tmp_path / f"small.{suffix}", images(2))


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="ONNX goes through PyTorch here")
@pytest.mark.filterwarnings("ignore")
def test_an_onnx_file_gives_the_models_outputs(small, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    made = sec.export(small, tmp_path / "small.onnx", images(2))
    assert made.max_difference < 1e-5
    session = onnxruntime.InferenceSession(
        str(tmp_path / "small.onnx"), providers=["CPUExecutionProvider"]
    )
    x = images(5)
    found = session.run(None, {session.get_inputs()[0].name: x})[0]
    assert found == pytest.approx(small.predict(x, verbose=0), abs=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's own files")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "to"), [("small", "savedmodel"), ("small.tflite", "litert")])
def test_tensorflows_files_are_read_back_and_compared_for_any_batch(small, tmp_path, name, to):
    made = sec.export(small, tmp_path / name, images(2), to=to)
    assert made.max_difference < 1e-5
    assert made.dynamic_batch


def test_targets_that_keras_cannot_write_are_refused(small, tmp_path):
    with pytest.raises(sec.ExportError, match="expected a model of pytorch; received one of keras"):
        sec.export(small, tmp_path / "small.pt2", images(1))
