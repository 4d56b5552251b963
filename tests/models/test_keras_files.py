"""Models in ``.keras`` files: opened by name, with the backend that is there."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import secateurs as sec
from secateurs import models
from secateurs.channels.proof import cut_of
from secateurs.errors import ModelError, UnknownNameError
from secateurs.models.keras_files import image_size_in

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def make_model(*first, size=8):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((size, size, 1)),
            *first,
            layers.Conv2D(6, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )


def test_names_of_keras_files():
    assert models.is_keras_file("runs/model.keras")
    assert not models.is_keras_file("resnet18")


def test_a_file_is_opened_by_its_name(tmp_path):
    model, path = make_model(), str(tmp_path / "model.keras")
    model.save(path)
    images = np.random.default_rng(0).standard_normal((3, 8, 8, 1)).astype(np.float32)
    opened = models.build(path, classes=10, in_channels=1, size=8)  # facts of the data: not options
    np.testing.assert_array_equal(opened.predict(images), model.predict(images))


def test_a_cut_model_is_opened_with_its_cut(tmp_path):
    small = sec.prune(make_model(), np.zeros((1, 8, 8, 1), np.float32), amount=0.5).model
    sec.save(small, tmp_path / "small.keras")
    opened = models.build(str(tmp_path / "small.keras"))
    assert cut_of(opened).to_json() == cut_of(small).to_json()
    assert opened.layers[0].filters == 3


def test_files_that_cannot_be_opened(tmp_path):
    path = tmp_path / "model.keras"
    with pytest.raises(UnknownNameError, match="no such file"):
        models.build(str(path))
    path.write_text("x")
    with pytest.raises(ModelError, match=r"model\.keras: cannot be read as a Keras model"):
        models.build(str(path))
    make_model().save(path)
    path.with_name("part.keras").write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"part\.keras: .* no zip archive, or only part of one"):
        models.build(str(path.with_name("part.keras")))
    with pytest.raises(ModelError, match=r"expected no options .* received width"):
        models.build(str(path), width=3)


def test_a_class_that_is_not_registered_is_named(tmp_path):
    class Twice(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    path = str(tmp_path / "own.keras")
    keras.Sequential([keras.Input((4,)), Twice(), keras.layers.Dense(2)]).save(path)
    with pytest.raises(ModelError, match="expected classes that are registered; Twice is not"):
        models.build(path)


def run_python(code, tmp_path, **environment):
    known = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
    return subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=known | environment,
    )


OPEN = "from secateurs import models; models.build('model.keras'); import keras; "


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="one backend is installed elsewhere")
def test_the_backend_that_is_installed_is_used(tmp_path):
    make_model().save(tmp_path / "model.keras")
    hide = "import sys; sys.modules['tensorflow'] = None; import importlib.util; "
    found = "importlib.util.find_spec = lambda name, f=importlib.util.find_spec: "
    hide += found + "None if name == 'tensorflow' else f(name); "
    settings = tmp_path / "home"
    settings.mkdir()
    (settings / "keras.json").write_text(json.dumps({"backend": "tensorflow"}))
    done = run_python(
        hide + OPEN + "print(keras.backend.backend())", tmp_path, KERAS_HOME=str(settings)
    )
    assert done.stdout.strip() == "torch", done.stderr


def test_missing_keras(tmp_path):
    (tmp_path / "model.keras").write_text("x")
    done = run_python("import sys; sys.modules['keras'] = None; " + OPEN, tmp_path)
    assert "needs Keras with one of tensorflow, torch, jax" in done.stderr


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ([], None),
        ([keras.layers.Rescaling(1 / 255)], (0.0, 255.0)),
        ([keras.layers.Rescaling(1 / 127.5, offset=-1)], (0.0, 255.0)),
        ([keras.layers.Rescaling(2.0, offset=-1)], None),  # of pixels between 0 and 1
    ],
)
def test_a_model_that_rescales_takes_pixels_of_bytes(first, expected, tmp_path):
    path = str(tmp_path / "model.keras")
    make_model(*first, size=12).save(path)
    found = models.preprocessing_of(path)
    if expected is None:
        assert found is None
        return
    darkest, brightest = ((pixel - found.mean[0]) / found.std[0] for pixel in (0, 1))
    assert (darkest, brightest) == pytest.approx(expected)
    assert found.size == 12


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ([(24, 24, 3)], 24),
        ([(3, 24, 24)], 24),
        ([(24, 32, 3)], None),
        ([(None, None, 3)], None),
        ([(24,)], None),
        ([(24, 24, 3), (24, 24, 3)], None),
    ],
)
def test_the_size_of_the_images_of_a_file(inputs, expected, tmp_path):
    tensors = [keras.Input(shape) for shape in inputs]
    outputs = [keras.layers.Dense(2)(tensor) for tensor in tensors]
    keras.Model(tensors, outputs).save(tmp_path / "model.keras")
    assert image_size_in(str(tmp_path / "model.keras")) == expected


def test_the_preprocessing_of_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "model.keras").write_text("x")
    assert models.preprocessing_of(str(tmp_path / "model.keras")) is None
    assert models.preprocessing_of(str(tmp_path / "none.keras")) is None
