"""Every command with a Keras model in a file, on images that are stored channels first."""

import json

import keras
import numpy as np
import onnxruntime
import pytest
from PIL import Image

import secateurs as sec
from secateurs import data
from secateurs.channels.proof import cut_of
from secateurs.cli import ExitCode, main
from secateurs.comparison import ResultStore
from secateurs.errors import CheckpointError
from secateurs.study.directory import Study
from support.shell import read_output

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.skipif(
        keras.backend.backend() != "torch", reason="one backend is enough for names"
    ),
]
DIGITS = ("--data", "digits")


@pytest.fixture(scope="module")
def trained():
    """A small network for digits that is right on more than half of them."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.Conv2D(16, 3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    images, labels = images_of("train")
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(images, labels, batch_size=64, epochs=2, verbose=0)
    return model


@pytest.fixture
def cnn(trained, place):
    trained.save("cnn.keras")
    return trained


def images_of(part):
    """Images and labels of a split, with the channels moved by hand."""
    images, labels = getattr(data.load("digits"), part).batch(slice(None))
    return np.moveaxis(images, 1, -1), labels


def accuracy(model):
    images, labels = images_of("validation")
    return float((model.predict(images, verbose=0).argmax(1) == labels).mean())


def run(*arguments, capsys):
    assert main(arguments) == ExitCode.FINE, read_output(capsys)
    return read_output(capsys)[0]


def test_prune_allocates_repairs_and_measures_accuracy(cnn, capsys):
    out = run("prune", "cnn.keras", *DIGITS, "--budget", "macs=0.5", capsys=capsys)
    small = keras.saving.load_model("cnn-pruned.keras")
    assert accuracy(cnn) > 0.5
    assert f"{100 * accuracy(cnn):.1f} % before the cut" in out
    assert f"{100 * accuracy(small):.1f} % after it" in out
    assert 'keras.saving.load_model("cnn-pruned.keras")' in out
    images, _ = images_of("train")
    same = sec.prune(cnn, images[:1], sec.Budget(macs=0.5), calibration=images[:512]).model
    held = images_of("validation")[0]
    np.testing.assert_allclose(
        small.predict(held, verbose=0), same.predict(held, verbose=0), atol=1e-6
    )


def test_a_size_limit_is_that_of_the_file_that_is_written(cnn, place, capsys):
    """Of Keras's file: beside the weights, it has its configuration and Adam's moments."""
    run("prune", "cnn.keras", "--budget", "size_mb=0.8", capsys=capsys)
    dense, small = ((place / name).stat().st_size for name in ("cnn.keras", "cnn-pruned.keras"))
    assert 0.75 * dense < small <= 0.8 * dense


def test_what_keras_cannot_hold_is_written_as_safetensors(place, capsys, monkeypatch):
    """Nothing that was computed is lost."""
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Conv2D(8, 3), layers.Flatten(), layers.Dense(4)]
    )
    model.save("plain.keras")

    def refuse(model, path):
        if path.suffix == ".keras":
            raise CheckpointError(f"{path}: expected a model that Keras can write")
        save(model, path)

    save = sec.save
    monkeypatch.setattr("secateurs.api.save", refuse)
    assert main(("prune", "plain.keras", "--budget", "params=0.6")) == ExitCode.FINE
    out, error = read_output(capsys)
    assert "expected a model that Keras can write" in error
    assert "plain-pruned.safetensors" in out
    small = sec.load(model, place / "plain-pruned.safetensors")
    assert small.count_params() <= 0.6 * model.count_params()


def test_prune_writes_safetensors_and_a_file_for_a_runtime_too(cnn, capsys):
    output = ("--output", "small.safetensors", "--export", "onnx")
    run("prune", "cnn.keras", *DIGITS, "--budget", "macs=0.5", *output, capsys=capsys)
    small = sec.load(cnn, "small.safetensors")
    images = images_of("validation")[0]
    session = onnxruntime.InferenceSession("small.onnx")
    found = session.run(None, {session.get_inputs()[0].name: images})[0]
    np.testing.assert_allclose(found, small.predict(images, verbose=0), atol=1e-5)


def test_inspect_profile_bench_and_export_take_the_models_own_input(cnn, place, capsys):
    assert "2 groups of 24 channels" in run("inspect", "cnn.keras", capsys=capsys)
    run("profile", "cnn.keras", "--cuts", "4", "--fresh", capsys=capsys)
    sec.save(sec.prune(cnn, np.zeros((1, 8, 8, 1), np.float32), amount=0.5).model, "small.keras")
    run("bench", "cnn.keras", "small.keras", "--json", "times.json", capsys=capsys)
    timed = json.loads((place / "times.json").read_text())
    assert "small.keras" in json.dumps(timed)
    run("export", "small.keras", *DIGITS, "--int8", capsys=capsys)
    assert (place / "small.onnx").exists()


def test_a_file_may_be_called_after_a_built_in_model(cnn, place, capsys):
    """No stem is chosen for it, as for that model."""
    (place / "cnn.keras").rename("resnet18.keras")
    groups = "2 groups of 24 channels"
    assert groups in run("inspect", "resnet18.keras", "--input", "1x8x8x1", capsys=capsys)
    short = ("--train-batches", "0", "--rounds", "1", "--fine-tune-batches", "1")
    out = run("run", "--model", "resnet18.keras", *DIGITS, *short, "--fresh", capsys=capsys)
    assert "Ended: " in out


def test_frontier_writes_a_model_of_its_points(cnn, place, capsys):
    points = ("--shares", "0.5", "--keep", "macs=0.5")
    out = run("frontier", "cnn.keras", *DIGITS, *points, capsys=capsys)
    small = keras.saving.load_model(place / "frontier" / "macs-0.5.keras")
    assert small.count_params() < 0.8 * cnn.count_params()
    assert "random" not in out


def test_sensitivity_and_ablation_measure_the_files_model(cnn, place, capsys):
    few = ("--images", "64")
    run("sensitivity", "cnn.keras", *DIGITS, *few, "--amounts", "0.5", capsys=capsys)
    measured = json.loads((place / "sensitivity" / "sensitivity.json").read_text())
    run("ablate", "cnn.keras", *DIGITS, *few, capsys=capsys)
    ablated = json.loads((place / "ablation" / "ablation.json").read_text())
    images, labels = images_of("validation")
    right = cnn.predict(images[:64], verbose=0).argmax(1) == labels[:64]
    assert ablated["dense_accuracy"] == pytest.approx(right.mean())
    assert str(round(float(right.mean()), 6))[:6] in json.dumps(measured)


def test_a_study_begins_with_the_files_weights(cnn, place, capsys, without_drawing):
    training = ("--train-batches", "0", "--fine-tune-batches", "5", "--learning-rate", "0.001")
    stop = ("--rounds", "1", "--step", "0.2", "--tolerance", "0.9", "--no-measure-speed")
    run(
        "run", "cnn.keras", *DIGITS, *training, *stop, "--directory", "st", "--quiet", capsys=capsys
    )
    study = Study.open(place / "st")
    training = study.configuration.training
    assert (training.optimizer, training.learning_rate) == ("compiled", 0.001)
    assert study.history.ending["dense_accuracy"] == pytest.approx(accuracy(cnn))
    best = sec.load(cnn, study.best)
    assert cut_of(best)


def test_a_comparison_trains_a_file_as_it_is_compiled(cnn, place, capsys):
    """By Adam at its own rate, with which a trained network stays one."""
    jobs = ("--strategies", "l1", "--amounts", "0.3", "--seeds", "1", "--directory", "cmp")
    batches = ("--train-batches", "3", "--fine-tune-batches", "3", "--quiet")
    run("compare", "cnn.keras", *DIGITS, *jobs, *batches, capsys=capsys)
    training = ResultStore.open(place / "cmp").comparison.training
    assert (training.optimizer, training.learning_rate) == ("compiled", pytest.approx(0.01))
    dense = json.loads((place / "cmp" / "results.json").read_text())["dense"][0]
    assert dense["accuracy"] > 0.9 * accuracy(cnn)


def test_what_does_not_fit_is_told_in_one_line(cnn, place, capsys):
    cut = ("prune", "cnn.keras", "--budget", "macs=0.5")
    other = ("prune", "resnet18", "--budget", "macs=0.5", "--output", "x.keras")
    wrong = {
        (*cut, "--classes", "4"): "--classes: expected none",
        (*cut, "-o", "width=4"): "expected no options",
        (*cut, "--export", "keras"): "written anyway",
        other: "ends in .safetensors",
        ("prune", "none.keras", "--budget", "macs=0.5"): "no such file",
    }
    keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(4, 3)]).save("any.keras")
    wrong["inspect", "any.keras"] = "--input: expected the shape of an input"
    for arguments, expected in wrong.items():
        assert main(arguments) == ExitCode.BAD_INPUT
        out, error = read_output(capsys)
        assert expected in error
        assert error.count("\n") == 1
        assert out == ""
    assert {path.name for path in place.iterdir()} <= {
        "cnn.keras",
        "any.keras",
        "cache",
    }
    run("inspect", "any.keras", "--input", "1x16x16x3", capsys=capsys)


def test_inputs_are_those_that_the_model_was_built_for(place, capsys):
    for name, lengths in (("two", (2, 6)), ("open", (None, None, 6))):
        i = keras.Input(batch_shape=lengths)
        model = keras.Model(i, keras.layers.Dense(2)(keras.layers.Dense(5)(i)))
        model.save(place / f"{name}.keras")
    assert "47 parameters, 80 MACs" in run("inspect", "two.keras", capsys=capsys)
    assert main(["inspect", "open.keras"]) == ExitCode.BAD_INPUT
    assert "--input 1x16x6, as the model takes them" in read_output(capsys)[1]
    out = run("inspect", "open.keras", "--input", "1x16x6", capsys=capsys)
    assert "47 parameters, 640 MACs" in out


@pytest.mark.parametrize(
    ("data_format", "shape"), [("channels_last", (12, 12, 3)), ("channels_first", (3, 12, 12))]
)
def test_photos_are_resized_to_what_the_file_takes(data_format, shape, place, capsys):
    layers = keras.layers
    options = {"data_format": data_format}
    keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(4, 1, activation="relu", **options),
            layers.GlobalAveragePooling2D(**options),
            layers.Dense(2),
        ]
    ).save(place / "photos.keras")
    for name, shade in (("dark", 30), ("light", 220)):
        (place / "photos" / name).mkdir(parents=True)
        for number in range(6):
            picture = Image.new("RGB", (20, 16), (shade, shade + number, shade))
            picture.save(place / "photos" / name / f"{number}.png")
    arguments = ("--data", "folder:photos", "--amounts", "0.5")
    for more in ((), ("--normalise", "none")):
        run("sensitivity", "photos.keras", *arguments, *more, capsys=capsys)
