import random

import keras
import pytest
import torch
from torch import nn

from secateurs.errors import DataError, ModelError, UnknownNameError
from secateurs.settings.study import Task
from secateurs.study.building import build_task, explain_build_errors, load_data, with_stem

DIGITS = {"data": "digits", "data_options": {"limit": 60}}
SMALL = {"model": "vanilla_cnn", "model_options": {"width": 4, "hidden": 12}}


def test_a_model_fits_its_data_and_its_seed():
    one, sources = build_task(Task(**SMALL, **DIGITS), 3)
    again, _ = build_task(Task(**SMALL, **DIGITS), 3)
    other, _ = build_task(Task(**SMALL, **DIGITS), 4)
    first = one.blocks[0].conv.weight
    assert (first.shape[1], one(torch.zeros(1, 1, 8, 8)).shape) == (1, (1, 10))
    assert torch.equal(first, again.blocks[0].conv.weight)
    assert not torch.equal(first, other.blocks[0].conv.weight)
    assert len(sources.train) == 60


def test_what_python_draws_is_as_it_was():
    random.seed(5)
    before = random.getstate()
    build_task(Task(**SMALL, **DIGITS), 3)
    assert random.getstate() == before


def test_weights_are_read_from_a_file(tmp_path):
    model, _ = build_task(Task(**SMALL, **DIGITS), 9)
    torch.save(model.state_dict(), tmp_path / "dense.pt")
    found, _ = build_task(Task(**SMALL, **DIGITS, weights=str(tmp_path / "dense.pt")), 0)
    assert torch.equal(found.hidden.weight, model.hidden.weight)


@pytest.mark.parametrize(
    ("size", "stem"), [(63, "small"), (64, "small-stride2"), (128, "imagenet")]
)
def test_a_resnets_stem_fits_the_images(size, stem):
    assert with_stem("resnet18", {"width": 4}, size) == {"width": 4, "stem": stem}
    assert with_stem("resnet18", {"stem": "own"}, size) == {"stem": "own"}
    assert with_stem("vanilla_cnn", {}, size) == {}


def test_an_error_of_the_models_code_names_its_line():
    def build():
        return nn.Linear("3", 2)

    message = r"mine: .*code raised TypeError.*\(line \d+ of \w+\.py\)"
    with pytest.raises(ModelError, match=message), explain_build_errors("mine"):
        build()
    with pytest.raises(DataError, match=r"^as it is$"), explain_build_errors("mine"):
        raise DataError("as it is")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_keras_file_is_a_model_that_is_built(tmp_path):
    path = str(tmp_path / "model.keras")
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    model.save(path)
    found, _ = build_task(Task(model=path, **DIGITS), 0)
    assert found.count_params() == 64 * 10 + 10
    with pytest.raises(ModelError, match=r"expected no options of the model.*received width"):
        build_task(Task(model=path, model_options={"width": 3}, **DIGITS), 0)
    with pytest.raises(UnknownNameError, match="no such file"):
        build_task(Task(model=str(tmp_path / "other.keras"), **DIGITS), 0)
    (tmp_path / "damaged.keras").write_text("x")
    with pytest.raises(ModelError, match="cannot be read as a Keras model"):
        build_task(Task(model=str(tmp_path / "damaged.keras"), **DIGITS), 0)


def test_data_are_images_unless_the_task_is_another():
    assert load_data(Task(**DIGITS)).shape == (1, 8, 8)
    with pytest.raises(UnknownNameError, match="did you mean 'digits'"):
        load_data(Task(data="digitts"))


def test_inputs_without_targets_are_no_data_to_learn_to_tell_them_by(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy\ndef load():\n    return numpy.zeros((9, 3)), numpy.zeros((9, 2))"
    )
    task = Task(model="vanilla_cnn", data=f"{file}:load", learning="regression")
    with pytest.raises(DataError, match=r"train one array of shape \(9, 3\).*\(x\[n:\], y\[n:\]\)"):
        load_data(task)
    load_data(Task(model="vanilla_cnn", data=f"{file}:load", learning="language-modelling"))


@pytest.mark.parametrize("learning", ["regression", "segmentation", "detection"])
def test_images_and_their_classes_are_no_data_of_another_task(learning):
    with pytest.raises(DataError, match=f"digits: expected data for {learning}.*their classes"):
        load_data(Task(**SMALL, **DIGITS, learning=learning))
    assert len(load_data(Task(**SMALL, **DIGITS, learning="embedding")).train) == 60
