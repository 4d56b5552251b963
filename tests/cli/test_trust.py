"""``--resume`` runs no code that a directory names and its user did not."""

import json
import sys
from pathlib import Path

import pytest

from secateurs.cli import ExitCode, main
from secateurs.study.directory import Study

TRAINING = (
    *("--limit", "200", "--train-batches", "4", "--fine-tune-batches", "2", "--batch-size", "32"),
)
RUN = (
    *("run", "--model", "tasks_of_mine:model", "--data", "digits", "--directory", "study"),
    *("--option", "width=12", "--step", "0.2", "--rounds", "1", "--tolerance", "0.9"),
    *("--no-measure-speed", "--quiet", *TRAINING),
)
COMPARE = (
    *("compare", "--model", "vanilla_cnn", "--width", "4", "--data", "digits", "--seeds", "1"),
    *("--strategies", "tasks_of_mine:rank@network", "--amounts", "0.3", "--quiet"),
    *("--directory", "contest", *TRAINING),
)
CODE = """
from pathlib import Path
from torch import nn

Path("imported").touch()

def model(width=12):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

def rank(group):
    return group.filters[0].max(axis=1)
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A working directory with a module of the user's, and a state of its own."""
    (tmp_path / "tasks_of_mine.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(Study, "report", lambda self: self.directory / "report.html")
    sys.modules.pop("tasks_of_mine", None)
    return tmp_path


@pytest.fixture
def study(place):
    """A study that has been begun; what importing its code touches is away again."""
    assert main([*RUN]) == ExitCode.FINE
    (place / "imported").unlink()
    del sys.modules["tasks_of_mine"]
    return place / "study"


def expect_refusal(capsys, *arguments):
    """What is said; one line, and nothing was run."""
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main([*arguments]) == ExitCode.BAD_INPUT
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    assert before == {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    return error


def change(path, **task):
    values = json.loads(path.read_text())
    values.pop("checksum")
    values["task"] |= task
    path.write_text(json.dumps(values))


def test_a_study_goes_on_by_itself_while_its_code_is_the_same(study):
    assert main(["run", "--resume", "study", "--quiet"]) == ExitCode.FINE
    noted = Study.open(study).configuration.code
    assert list(noted) == ["tasks_of_mine:model"]
    assert list(noted["tasks_of_mine:model"]) == [str(study.parent / "tasks_of_mine.py")]


def test_changed_code_is_run_where_the_user_says_so_and_then_as_a_matter_of_course(
    study, place, capsys
):
    (place / "tasks_of_mine.py").write_text(CODE + "\nlater = 1\n")
    output = expect_refusal(capsys, "run", "--resume", "study")
    assert "expected the code of tasks_of_mine:model to be unchanged in " in output
    assert output.endswith("To allow it: secateurs run --resume study --trust\n")
    assert main(["run", "--resume", "study", "--trust", "--quiet"]) == ExitCode.FINE
    assert main(["run", "--resume", "study", "--quiet"]) == ExitCode.FINE


def test_a_module_of_the_same_name_elsewhere_is_not_the_one_that_was_named(
    study, place, capsys, monkeypatch
):
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    Path("tasks_of_mine.py").write_text(CODE)
    assert f"received {place}/elsewhere/tasks_of_mine.py" in expect_refusal(
        capsys, "run", "--resume", str(study)
    )


@pytest.mark.parametrize(
    "task",
    [
        {"model": "planted:model"},
        {"model": "subprocess:getoutput", "model_options": {"cmd": "touch planted_was_run"}},
        {"model": "os:system", "model_options": {"command": "touch planted_was_run"}},
        {"data": "planted:model"},
        {"data": "timm:create_model"},
        {"model": "folder:model"},
        {"model": "pack.deep:model"},
        {"model": "planted.keras", "model_options": {}},
        {"model_options": {"width": 24}},
    ],
    ids=str,
)
def test_what_somebody_planted_is_not_run(task, study, place, capsys):
    (place / "pack").mkdir()
    for name in ("planted", "folder", "pack/__init__", "pack/deep"):
        (place / f"{name}.py").write_text("open('planted_was_run', 'w')\n" + CODE)
    change(study / "config.json", **task)
    output = expect_refusal(capsys, "run", "--resume", "study")
    assert "begun by a command on this machine" in output
    assert not (place / "planted_was_run").exists()
    assert not (place / "imported").exists()


def test_hashes_that_a_hostile_directory_brings_along_prove_nothing(study, place, capsys):
    """The whole directory of somebody who began the study of the same name on their machine."""
    (place / "state").rename(place / "state_of_somebody_else")
    output = expect_refusal(capsys, "run", "--resume", "study")
    assert f"would run tasks_of_mine:model ({place}/tasks_of_mine.py)" in output


def test_without_a_place_to_note_anything_it_is_asked(place, capsys, monkeypatch):
    (place / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "file"))
    assert main([*RUN]) == ExitCode.FINE
    assert "--trust" in expect_refusal(capsys, "run", "--resume", "study")
    assert main(["run", "--resume", "study", "--trust", "--quiet"]) == ExitCode.FINE


def test_strategies_of_a_comparison_are_code_too(place, capsys):
    assert main([*COMPARE]) == ExitCode.FINE
    assert main(["compare", "--resume", "contest", "--quiet"]) == ExitCode.FINE
    (place / "tasks_of_mine.py").write_text(CODE + "\nlater = 1\n")
    assert "the code of tasks_of_mine:rank to be unchanged" in expect_refusal(
        capsys, "compare", "--resume", "contest"
    )
    values = json.loads((place / "contest" / "comparison.json").read_text())
    values.pop("checksum")
    values["strategies"] = ["os:getcwd"]
    (place / "contest" / "comparison.json").write_text(json.dumps(values))
    assert "os:getcwd" in expect_refusal(capsys, "compare", "--resume", "contest")


def test_trust_is_of_a_directory(capsys):
    assert "expected --resume DIRECTORY, whose code it allows" in expect_refusal(
        capsys, *RUN, "--trust"
    )
    assert "expected --resume DIRECTORY, whose code it allows" in expect_refusal(
        capsys, *COMPARE, "--trust"
    )


def test_names_of_this_library_need_no_trust(place):
    arguments = [word.replace("tasks_of_mine:model", "vanilla_cnn") for word in RUN]
    arguments[arguments.index("width=12")] = "width=4"
    assert main(arguments) == ExitCode.FINE
    assert not (place / "state").exists()
    assert main(["run", "--resume", "study", "--quiet"]) == ExitCode.FINE
