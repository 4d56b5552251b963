"""Starting over removes what the study wrote, and nobody else's files."""

import json
import shutil

import pytest

import secateurs as sec
from secateurs.study.directory import Study, remove
from study.test_directory import files_of, small, write_study

pytestmark = pytest.mark.usefixtures("without_drawing")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study") / "study")


@pytest.fixture
def place(study, tmp_path):
    return shutil.copytree(study, tmp_path / "study")


def test_everything_that_a_study_wrote_is_removed(place):
    (place / "report").mkdir(exist_ok=True)  # made for a figure that could not be written
    assert remove(place)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "history.jsonl",
        "checkpoint.safetensors",
        "best.safetensors",
        "snapshots/dense.safetensors",
        "snapshots/rewind.safetensors",
        "cuts/round-001.json",
        "report/report.html",
        "report/accuracy.png",
    ],
)
@pytest.mark.parametrize(
    "content",
    [
        b"mine",
        b"{}",
        b'{"format": "other"}\n',
        b"[" * 100_000,
        (22).to_bytes(8, "little") + b'{"__metadata__": null}',
        (20).to_bytes(8, "little") + b'{"__metadata__": [] }',
    ],
    ids=["text", "empty", "format", "nested", "null", "list"],
)
def test_a_file_of_someone_else_under_a_name_of_ours_stops_it(place, name, content):
    (place / name).parent.mkdir(exist_ok=True)
    (place / name).write_bytes(content)
    before = files_of(place)
    with pytest.raises(sec.StudyError, match=r"Nothing was removed"):
        remove(place)
    assert files_of(place) == before


def test_weights_that_no_study_wrote_stop_it(place, tmp_path):
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(3, np.float32)}, place / "best.safetensors")
    with pytest.raises(sec.StudyError, match=r"best\.safetensors"):
        remove(place)


def test_other_files_stay_where_they_are(place):
    theirs = ("thesis.tex", "report/thesis.tex", "snapshots/may.safetensors", ".notes.2024.tmp")
    for name in theirs:
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text("mine")
    assert remove(place)
    assert files_of(place).keys() == set(theirs)


def test_a_foreign_configuration_is_no_study(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "best.safetensors").write_text("years of training")
    before = files_of(tmp_path)
    with pytest.raises(sec.StudyError, match=r"config\.json"):
        small(tmp_path, fresh=True)
    assert files_of(tmp_path) == before


def test_a_drawn_report_is_removed_with_its_study(study, tmp_path, monkeypatch):
    monkeypatch.undo()  # this report is drawn
    place = shutil.copytree(study, tmp_path / "study")
    page = Study.open(place).report()
    assert page.exists()
    assert len(list((place / "report").glob("*.svg"))) >= 3
    assert remove(place)
    assert list(place.iterdir()) == []


def test_what_trackers_wrote_goes_with_the_study_and_nothing_else_there(tmp_path):
    pytest.importorskip("tensorboard")
    place = tmp_path / "study"
    small(place, track="tensorboard")
    assert list((place / "tracking").rglob("events.out.tfevents.*"))
    (place / "tracking" / "notes.txt").write_text("mine")
    assert remove(place)
    assert files_of(place).keys() == {"tracking/notes.txt"}
    place = tmp_path / "other"
    small(place, track="tensorboard")
    foreign = place / "tracking" / "events.out.tfevents.1"
    foreign.write_text("somebody's")
    with pytest.raises(sec.StudyError, match=r"events\.out\.tfevents\.1"):
        small(place, fresh=True)
    assert foreign.read_text() == "somebody's"
