"""Studies on disk: what they refuse, and that no failure loses anything."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs import files, models
from secateurs.pytorch import Learner
from secateurs.pytorch.saving import read
from secateurs.settings.study import Configuration, Task
from secateurs.study.directory import Study
from support import killed

TESTS = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _without_drawing(monkeypatch):
    """Drawing takes longer than the studies; the report's own tests draw."""
    monkeypatch.setattr(Study, "report", lambda self: self.directory / "report" / "report.html")


def model():
    torch.manual_seed(0)
    return models.vanilla_cnn(3, in_channels=1, size=8, widths=(6, 8), hidden=10)


def small(directory=None, dense=None, **options):
    """A study of one round."""
    options = {
        "step": 0.2,
        "training": sec.Training(batches=4, fine_tune_batches=2, batch_size=16),
        "stop": sec.Stop(rounds=1, tolerance=0.9),
        "measure_speed": False,
    } | options
    train, validation = killed.examples(80, 1), killed.examples(30, 2)
    return sec.iterate(dense or model(), train, validation, directory=directory, **options)


def write_study(directory):
    """A small study, whose figures are not drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Study, "report", lambda self: None)
        small(directory)
    return directory


def read_history(directory):
    """A study's history, but for the times."""
    records = sec.History.load(directory / "history.jsonl")
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def files_of(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(("optimizer", "moments"), [("sgd", 24), ("keras-adamw", 6)])
def test_a_study_killed_at_any_moment_ends_as_if_it_had_not_been(tmp_path, optimizer, moments):
    done = subprocess.run(
        [sys.executable, "-m", "support.killed", str(tmp_path), str(moments), optimizer],
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=500,
        check=True,
    )
    whole, *others = map(json.loads, done.stdout.splitlines())
    assert whole["ended"] == "exit 0"
    assert len(others) == moments
    assert {one["fatal"] for one in others} >= {1, whole["steps"]}
    expected, _ = read(tmp_path / "whole" / "best.safetensors")
    for one in others:
        # One that was killed while it let go of its directory has hardly a step left to take.
        again = ("killed", "exit 0") if one["fatal"] >= whole["steps"] - 2 else ("killed",)
        assert one["ended"][::2] == ["killed", "exit 0"], one
        assert one["ended"][1] in again, one
        directory = tmp_path / one["name"]
        assert read_history(directory) == read_history(tmp_path / "whole"), one
        received, cut = read(directory / "best.safetensors")
        assert received.keys() == expected.keys()
        assert all(torch.equal(received[name], expected[name]) for name in expected), one
        assert cut.removed_channels > 0
        assert files_of(directory).keys() == files_of(tmp_path / "whole").keys()


def test_what_a_study_keeps(tmp_path):
    result = small(tmp_path / "study")
    assert files_of(tmp_path / "study").keys() == {
        "config.json",
        "history.jsonl",
        "checkpoint.safetensors",
        "best.safetensors",
        "cuts/round-001.json",
        "snapshots/dense.safetensors",
    }
    assert result.directory == tmp_path / "study"
    assert sec.Cut.load(tmp_path / "study" / "cuts" / "round-001.json") == result.cut
    loaded = sec.load(model(), tmp_path / "study" / "best.safetensors")
    images = torch.from_numpy(killed.examples(30, 2)[0])
    with torch.no_grad():
        assert torch.equal(loaded.eval()(images), result.model.eval()(images))
    study = Study.open(tmp_path / "study")
    assert study.has_ended
    assert study.best == tmp_path / "study" / "best.safetensors"
    assert list(study.history) == list(result.history)


def test_on_disk_or_not_the_result_is_the_same(tmp_path):
    kept, not_kept = small(tmp_path / "study"), small()
    assert kept.cut == not_kept.cut
    assert kept.report == not_kept.report
    assert kept.report.proof is not None
    for mine, theirs in zip(kept.model.parameters(), not_kept.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert not_kept.directory is None


def test_a_study_that_has_ended_is_not_done_again(tmp_path):
    first = small(tmp_path / "study")
    before = files_of(tmp_path / "study")
    again = small(tmp_path / "study")
    assert files_of(tmp_path / "study") == before
    assert again.report == first.report
    for mine, theirs in zip(again.model.parameters(), first.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_study_that_is_extended_ends_as_if_it_had_been_asked_for_more_at_once(tmp_path):
    # Looking at the test data takes the best model, without its optimizer's momentum.
    alike = {"criterion": "l1", "repair": False, "test": killed.examples(30, 3)}
    more = alike | {"stop": sec.Stop(rounds=3, tolerance=0.9)}
    whole = small(tmp_path / "whole", **more)
    small(tmp_path / "study", **alike)
    study = Study.open(tmp_path / "study")
    assert study.has_ended
    extended = small(tmp_path / "study", **more)
    assert study.has_ended
    assert (extended.cut, extended.report) == (whole.cut, whole.report)
    for mine, theirs in zip(extended.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    records = read_history(tmp_path / "study")
    ends = [record for record in records if record["kind"] in ("stop", "extended")]
    assert [record["kind"] for record in ends] == ["stop", "extended", "stop"]
    assert ends[1]["stop"]["rounds"] == 3
    last = [one for one in records if one not in ends[:2]]
    assert last == read_history(tmp_path / "whole")
    # What is on disk says what it was told at last, and is not done again.
    assert Study.open(tmp_path / "study").configuration.stop.rounds == 3
    before = files_of(tmp_path / "study")
    small(tmp_path / "study", **more)
    assert files_of(tmp_path / "study") == before


def test_a_study_is_not_made_shorter(tmp_path):
    small(tmp_path / "study", stop=sec.Stop(rounds=2, tolerance=0.9))
    before = files_of(tmp_path / "study")
    with pytest.raises(sec.StudyError, match=r"no fewer rounds.*rounds: 1, not 2.*--fresh"):
        small(tmp_path / "study")
    with pytest.raises(sec.StudyError, match=r"tolerance: 0.1, not 0.9"):
        small(tmp_path / "study", stop=sec.Stop(rounds=2, tolerance=0.1))
    assert files_of(tmp_path / "study") == before


def test_another_study_is_refused_and_left_as_it_is(tmp_path):
    small(tmp_path / "study")
    before = files_of(tmp_path / "study")
    with pytest.raises(sec.StudyError) as error:
        small(tmp_path / "study", step=0.3, training=sec.Training(batches=5, batch_size=16))
    assert "another study" in str(error.value)
    assert "training.batches: 4, not 5" in str(error.value)
    assert "pruning.step: 0.2, not 0.3" in str(error.value)
    assert "batch_size" not in str(error.value)
    assert "--fresh" in str(error.value)
    with pytest.raises(sec.StudyError, match=r"task\.model_options\.parameters"):
        small(tmp_path / "study", dense=models.vanilla_cnn(3, in_channels=1, size=8, width=4))
    assert files_of(tmp_path / "study") == before


def test_fresh_starts_over_and_touches_nothing_else(tmp_path):
    small(tmp_path / "study")
    (tmp_path / "study" / "notes.txt").write_text("mine")
    result = small(tmp_path / "study", step=0.4, fresh=True)
    assert (tmp_path / "study" / "notes.txt").read_text() == "mine"
    assert result.history[-1, "kind"] == "stop"
    assert len(result.history.of("dense")) == 1
    assert Study.open(tmp_path / "study").configuration.pruning.step == 0.4


def test_a_directory_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    for fresh in (False, True):
        with pytest.raises(sec.StudyError, match=r"holds thesis\.tex"):
            small(tmp_path, fresh=fresh)
    assert files_of(tmp_path) == {"thesis.tex": b"mine"}


def test_there_is_nothing_to_open_where_no_study_was_begun(tmp_path):
    with pytest.raises(sec.StudyError, match=r"there is no config\.json"):
        Study.open(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"format": "x"}',
        '{"format": "secateurs-study", "version": 99}',
        '{"format": "secateurs-study", "version": 1, "tusk": {}}',
    ],
)
def test_an_invalid_configuration_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(sec.StudyError, match=r"config\.json: "):
        Study.open(tmp_path)


def test_configurations_survive_json():
    configuration = Configuration(
        task=Task(model="resnet18", model_options={"width": 8}, data="digits", by_name=True),
        training=sec.Training(batches=3, schedule="one-cycle"),
        pruning=sec.Pruning(skip=("head", "stem.*"), rewind="lottery"),
        stop=sec.Stop(budget="macs=0.3,size_mb=400 kB", tolerance=None),
        command=("secateurs", "run"),
    )
    again = Configuration(**json.loads(configuration.to_json()))
    assert again == configuration
    assert again.stop.budget == sec.Budget(macs=0.3, size_mb="400 kB")
    assert configuration.differences(again.model_copy(update={"command": ()})) == []


@pytest.mark.parametrize(
    ("make", "output"),
    [
        (lambda: sec.Training(batch_size=0), "batch_size: expected a number greater than or equal"),
        (lambda: sec.Training(learning=1), "learning: no such setting; did you mean"),
        (lambda: sec.Pruning(step=1.5), "step: expected a number less than 1; received float 1.5"),
        (lambda: sec.Pruning(step=0), "step: expected a number greater than 0; received int 0"),
        (lambda: sec.Pruning(rewind="back"), "rewind: expected 'weights', 'learning-rate' or"),
        (lambda: sec.Stop(budget="mac=1"), "did you mean 'macs'"),
        (lambda: sec.Stop(rounds=-1), "rounds: expected a number greater than or equal to 0"),
    ],
)
def test_settings_say_what_is_wrong_with_them_in_one_line(make, output):
    with pytest.raises(sec.SecateursError) as error:
        make()
    assert output in str(error.value)
    assert "\n" not in str(error.value)


def halve(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize("change", [halve, lambda content: b"", lambda content: b"hello"])
def test_a_damaged_checkpoint_is_reported(tmp_path, change):
    small(tmp_path / "study")
    checkpoint = tmp_path / "study" / "checkpoint.safetensors"
    checkpoint.write_bytes(change(checkpoint.read_bytes()))
    before = files_of(tmp_path / "study")
    with pytest.raises(sec.CheckpointError, match=r"checkpoint\.safetensors: "):
        small(tmp_path / "study")
    assert files_of(tmp_path / "study") == before


def test_a_foreign_checkpoint_is_reported(tmp_path):
    small(tmp_path / "study")
    checkpoint = tmp_path / "study" / "checkpoint.safetensors"
    sec.save(model(), checkpoint)
    with pytest.raises(sec.CheckpointError, match="expected a checkpoint of this study"):
        small(tmp_path / "study")


def test_a_history_shorter_than_its_checkpoint_is_reported(tmp_path):
    small(tmp_path / "study")
    history = tmp_path / "study" / "history.jsonl"
    history.write_text("".join(history.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(sec.StudyError, match=r"expected at least .* records"):
        small(tmp_path / "study")


@pytest.mark.parametrize("write", range(0, 24, 3))
def test_a_full_disk_is_reported_and_loses_nothing(tmp_path, monkeypatch, write):
    expected = small(tmp_path / "whole")
    flush, flushes = files.os.fsync, 0

    def full(handle):
        nonlocal flushes
        flushes += 1
        if flushes > write:
            raise OSError(28, "No space left on device")
        flush(handle)

    monkeypatch.setattr(files.os, "fsync", full)
    if write < 14:
        with pytest.raises(sec.StudyError, match="cannot be written: No space left on device"):
            small(tmp_path / "study")
        assert not list(tmp_path.rglob("*.tmp"))
    else:
        small(tmp_path / "study")
    monkeypatch.setattr(files.os, "fsync", flush)
    small(tmp_path / "study")  # there is room again
    assert read_history(tmp_path / "study") == read_history(tmp_path / "whole")
    received, _ = read(tmp_path / "study" / "best.safetensors")
    for name, tensor in expected.model.state_dict().items():
        assert torch.equal(received[name], tensor)


def test_nothing_is_written_where_nothing_can_be_done(tmp_path):
    for options, error in (
        ({"criterion": "nope"}, sec.UnknownNameError),
        ({"skip": ("nope",)}, sec.UnknownNameError),
        ({"step": 2}, sec.SecateursError),
        ({"stop": sec.Stop(budget="params=0.0001")}, sec.BudgetError),
        ({"dense": nn.Flatten()}, sec.ModelError),
        ({"dense": nn.Sequential(nn.Flatten(), nn.Linear(64, 3))}, sec.ModelError),
        ({"dense": nn.Sequential(nn.Flatten(), nn.Linear(63, 9), nn.Linear(9, 3))}, sec.ModelError),
    ):
        with pytest.raises(error):
            small(tmp_path / "study", **options)
    assert not (tmp_path / "study").exists()


def test_files_have_the_permissions_that_the_umask_leaves(tmp_path):
    code = (
        "import os, sys, pathlib; from secateurs.files import write_atomically as w; "
        "os.umask(int(sys.argv[2], 8)); w(pathlib.Path(sys.argv[1]), b'x')"
    )
    for umask, mode in (("022", 0o644), ("077", 0o600), ("002", 0o664)):
        path = tmp_path / umask
        subprocess.run([sys.executable, "-c", code, str(path), umask], check=True)
        assert path.stat().st_mode & 0o777 == mode


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_atomically(path, b"old")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(sec.StudyError, match="3 bytes are needed"):
        files.write_atomically(path, b"new")
    assert files_of(tmp_path) == {"file": b"old"}
    with pytest.raises(sec.StudyError, match="cannot be written"):
        files.write_atomically(path / "below" / "a file", b"new")


def test_a_write_that_is_interrupted_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(tmp_path / "file", b"new")
    assert files_of(tmp_path) == {}


def test_the_users_arrays_and_model_are_left_as_they_were():
    dense, (images, labels) = model(), killed.examples(80, 1)
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    modes, images_before = [m.training for m in dense.modules()], images.copy()
    training = sec.Training(batches=4, fine_tune_batches=2, batch_size=16, flip=True, shift=2)
    result = sec.iterate(
        dense, (images, labels), killed.examples(30, 2), training=training, measure_speed=False
    )
    assert all(torch.equal(before[name], value) for name, value in dense.state_dict().items())
    assert [module.training for module in dense.modules()] == modes
    assert [module.training for module in result.model.modules()] == modes
    assert not hasattr(dense, "report")
    np.testing.assert_array_equal(images, images_before)


def test_clocks_that_jump_change_nothing(tmp_path, monkeypatch):
    """Days back and forth at every look, and files from the future: a study asks no wall clock."""
    whole = small(tmp_path / "whole")
    jumps = np.random.default_rng(0)

    def jumping():
        return 1.7e9 + jumps.normal() * 86_400 * 365

    def broken(self, *given):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * jumping()))
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "apply", broken)
        with pytest.raises(KeyboardInterrupt):
            small(tmp_path / "jumping")
    for number, path in enumerate(sorted((tmp_path / "jumping").rglob("*"))):
        os.utime(path, (4e9 * (number % 2),) * 2)
    again = small(tmp_path / "jumping")
    assert read_history(tmp_path / "jumping") == read_history(tmp_path / "whole")
    assert all(record["seconds"] >= 0 for record in again.history if "seconds" in record)
    assert files_of(tmp_path / "jumping").keys() == files_of(tmp_path / "whole").keys()
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor)


def test_nothing_asks_a_clock_that_can_be_set():
    """Durations are of clocks that only go on; what is decided depends on none."""
    clocks = re.compile(r"\btime\.(time|time_ns|localtime|ctime)\(|import datetime")
    asking = [p for p in Path(sec.__file__).parent.rglob("*.py") if clocks.search(p.read_text())]
    assert asking == []
