"""The command line: its output, the files it writes, and its exit codes."""

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from secateurs import files, models
from secateurs.cli import ExitCode, application, main, prune, run
from secateurs.cli.options import pairs_from, shape_from
from secateurs.study.directory import Study
from support.shell import ON_DIGITS, SMALL, read_output

pytestmark = pytest.mark.usefixtures("factories")


def in_shell(*arguments, **options):
    command = [sys.executable, "-m", "secateurs", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


# -- help


def test_help_is_quick_and_imports_no_framework():
    code = (
        "import sys; from secateurs.cli import main; main(['--help']); main(['run', '--help']); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'keras', 'matplotlib')))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "secateurs prune resnet50 --budget size_mb=15" in done.stdout
    assert after.ru_utime - before.ru_utime < 3


@pytest.mark.parametrize("command", ["run", "prune", "inspect", "report", "criteria"])
def test_every_command_has_help_with_something_to_try(command, capsys):
    assert main([command, "--help"]) == ExitCode.FINE
    out, error = read_output(capsys)
    assert f"secateurs {command} " in out
    assert error == ""


def test_asking_for_nothing_shows_the_help(capsys):
    assert main([]) == ExitCode.FINE
    assert "Usage: secateurs" in read_output(capsys)[0]


# -- run, report


def test_interrupting_says_how_to_go_on(monkeypatch, capsys, place):
    begun = []

    def interrupt(*_, **__):
        if begun:
            Path("study").mkdir()
            Path("study/config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_configuration", interrupt)
    assert main(["run", *SMALL, "--directory", "study"]) == ExitCode.INTERRUPTED
    assert read_output(capsys)[1] == "interrupted\n"  # there is nothing to go on with
    begun.append(True)
    assert main(["run", *SMALL, "--directory", "study"]) == ExitCode.INTERRUPTED
    assert (
        "nothing saved yet; continue with: secateurs run --resume study" in read_output(capsys)[1]
    )


def test_a_fault_of_ours_shows_its_traceback(monkeypatch, capsys):
    inside: dict[str, Callable] = {}
    ours = compile("def broken(*_, **__): raise ZeroDivisionError('oops')", run.__file__, "exec")
    exec(ours, inside)  # noqa: S102 - in a file of ours, to be at fault
    monkeypatch.setattr(run, "run_configuration", inside["broken"])
    assert main(["run", *SMALL]) == ExitCode.UNEXPECTED
    _, error = read_output(capsys)
    assert "Traceback" in error
    assert "please report it: ZeroDivisionError: oops" in error


def test_a_fault_of_the_users_code_says_its_line(monkeypatch, capsys):
    def broken(*_, **__):
        return np.zeros(3) + np.zeros(4)

    monkeypatch.setattr(run, "run_configuration", broken)
    assert main(["run", *SMALL]) == ExitCode.BAD_INPUT
    line = broken.__code__.co_firstlineno + 1
    assert read_output(capsys)[1] == (
        "secateurs: error: your code raised ValueError: operands could not be broadcast "
        f"together with shapes (3,) (4,) (line {line} of test_application.py)\n"
    )


def test_whoever_stops_reading_gets_no_traceback():
    with in_shell("criteria") as process:
        process.stdout.close()
        process.wait()
        assert process.stderr.read() == ""


# -- prune, inspect, criteria


# -- bad input


def with_nan():
    model = models.vanilla_cnn(10, in_channels=1, size=8, width=4)
    with torch.no_grad():
        model.hidden.weight[0, 0] = float("nan")
    return model


def given_files(place):
    """Files that bad input is read from."""
    save_file(with_nan().state_dict(), place / "nan.safetensors")
    save_file(nn.Linear(2, 2).state_dict(), place / "foreign.safetensors")
    (place / "corrupt.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{damaged")
    (place / "empty-folder").mkdir()


PRUNE = ("prune", "vanilla_cnn", "-o", "width=4", "--input", "1x1x8x8", "--to")
RUN = ("run", "--directory", "study", *SMALL)
RUN_OF = ("run", "--directory", "study", *ON_DIGITS, "--model")
OURS = "factories_of_the_test"
BAD = {
    "criterion": ((*RUN, "--criterion", "l1_men"), r"'l1_men'; did you mean 'l1_mean'"),
    "criterion of a cut": ((*PRUNE, "params=.5", "--criterion", "x"), r"no criterion named 'x'"),
    "criterion to explain": (("criteria", "l1_men"), r"did you mean 'l1_mean'"),
    "model": ((*RUN_OF, "resnet19"), r"no model 'resnet19'; did you mean 'resnet18'"),
    "model's option": ((*RUN, "--option", "depth=3"), r"vanilla_cnn: no option 'depth'"),
    "no option": ((*RUN, "--option", "depth"), r"--option: expected NAME=VALUE"),
    "stem": ((*RUN_OF, "resnet18", "--stem", "smal"), r"did you mean 'small'"),
    "data": ((*RUN, "--data", "digit"), r"no data set 'digit'; did you mean 'digits'"),
    "layer": ((*RUN, "--skip", "heed"), r"skip: no group or layer matches 'heed'"),
    "layer of a cut": ((*PRUNE, "params=.5", "--skip", "heed"), r"matches 'heed'"),
    "preset": (("run", "--preset", "dmo"), r"no preset 'dmo'; did you mean 'demo'"),
    "amount too large": ((*RUN, "--step", "1.5"), r"step: expected a number less than 1; .* 1\.5"),
    "amount too small": ((*RUN, "--step", "0"), r"step: expected a number greater than 0"),
    "amount no number": ((*RUN, "--step", "much"), r"'--step': .*number.*; received 'much'"),
    "budget": ((*PRUNE, "mac=.5"), r"received 'mac=\.5'; did you mean 'macs'"),
    "budget out of reach": ((*PRUNE, "params=.001"), r"the nearest that can be met is params="),
    "budget of a study": ((*RUN, "--budget", "params=.001"), r"nearest that can be met"),
    "rewind": ((*RUN, "--rewind", "weights", "--train-batches", "0"), r"batches above 0"),
    "schedule": ((*RUN, "--schedule", "step"), r"schedule: expected 'cosine', 'one-cycle' or"),
    "shape": ((*PRUNE, "params=.5", "--input", "8x"), r"--input: expected a shape such as"),
    "wrong shape": (
        ("inspect", "vanilla_cnn", "-o", "size=32", "--input", "1x3x8x8"),
        r"VanillaCNN: its forward raised .* Received example_inputs of \(1, 3, 8, 8\)",
    ),
    "nothing to prune": ((*RUN_OF, f"{OURS}:no_channels"), r"channels that can be pruned"),
    "raising": ((*RUN_OF, f"{OURS}:Raising"), r"Raising: its forward raised .*: out of"),
    "NaN": ((*PRUNE, "params=.5", "--weights", "nan.safetensors"), r"hidden.* NaN"),
    "foreign in a study": (
        (*RUN_OF, f"{OURS}:plain", "--weights", "nan.safetensors"),
        r"nan\.safetensors: expected the tensors of Sequential",
    ),
    "one class": ((*RUN, "--data", f"{OURS}:one_class"), r"expected at least two classes"),
    "no images": ((*RUN, "--data", f"{OURS}:no_images"), r"expected at least one image"),
    "empty folder": ((*RUN, "--data", "folder:empty-folder"), r"empty-folder"),
    "corrupt": (
        (*PRUNE, "params=.5", "--weights", "corrupt.safetensors"),
        r"corrupt\.safetensors:",
    ),
    "foreign": ((*PRUNE, "params=.5", "--weights", "foreign.safetensors"), r"not in the model: "),
    "missing": ((*PRUNE, "params=.5", "--weights", "none.pt"), r"none\.pt: cannot be read"),
    "no study": (("run", "--resume", "nowhere"), r"nowhere: expected a study's directory"),
    "no study to report": (("report", "nowhere"), r"nowhere: expected a study's directory"),
    "resume and more": (
        ("run", "--resume", "nowhere", "--step", "0.1"),
        r"--resume continues a study with .*, except for when it stops; received --step too",
    ),
    "no model": (("run", "--data", "digits"), r"MODEL: expected a name; received none"),
    "no such option": ((*RUN, "--stap", "1"), r"No such option: --stap.*secateurs run --help"),
    "no such command": (("prun",), r"No such command 'prun'.* See: secateurs --help"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_writes_nothing(case, place, capsys):
    given_files(place)
    before = sorted(place.rglob("*"))
    arguments, expected = BAD[case]
    assert main(arguments) == ExitCode.BAD_INPUT
    out, error = read_output(capsys)
    assert re.search(expected, error), error
    assert error.count("\n") == 1
    assert error.startswith("secateurs: error: ")
    assert out == ""
    after = [path for path in sorted(place.rglob("*")) if "__pycache__" not in path.parts]
    assert after == before


def test_nan_in_the_weights_a_study_begins_with(place, capsys):
    given_files(place)
    arguments = [*SMALL, "--option", "hidden=256", "--weights", "nan.safetensors"]
    assert main(["run", *arguments]) == ExitCode.BAD_INPUT
    assert "hidden.weight holds NaN" in read_output(capsys)[1]
    assert not Path("runs").exists()


def test_studies_that_cannot_go_on_are_left_as_they_are(place, without_drawing, capsys):
    assert main(["run", *SMALL, "--directory", "study"]) == 0
    before = {path: path.read_bytes() for path in Path("study").rglob("*") if path.is_file()}

    def expect_refusal(arguments, expected):
        assert main(arguments) == ExitCode.BAD_INPUT
        _, error = read_output(capsys)
        assert re.search(expected, error), error
        assert error.count("\n") == 1

    read_output(capsys)
    expect_refusal(
        ["run", *SMALL, "--directory", "study", "--seed", "3"],
        r"study: holds another study \(.*training\.seed: 0, not 3.*--fresh",
    )
    changed = json.loads(before[Path("study/config.json")])
    changed["task"]["by_name"] = False
    Path("study/config.json").write_text(json.dumps(changed))
    expect_refusal(
        ["run", "--resume", "study"], r"values that it was written with .*remove \"checksum\""
    )
    del changed["checksum"]
    Path("study/config.json").write_text(json.dumps(changed))
    expect_refusal(["run", "--resume", "study"], r"was begun from Python")
    Path("study/config.json").write_bytes(before[Path("study/config.json")])
    checkpoint = Path("study/checkpoint.safetensors")
    checkpoint.write_bytes(b"damaged")
    expect_refusal(
        ["run", "--resume", "study"], r"study/checkpoint\.safetensors: expected a safetensors"
    )
    checkpoint.write_bytes(before[checkpoint])
    assert before == {p: p.read_bytes() for p in Path("study").rglob("*") if p.is_file()}


def test_a_full_disk_is_one_line_and_the_study_goes_on_later(
    place, without_drawing, capsys, monkeypatch
):
    flush, flushes = os.fsync, 0

    def full(handle):
        nonlocal flushes
        flushes += 1
        if flushes == 9:
            raise OSError(28, "No space left on device")
        flush(handle)

    monkeypatch.setattr(files.os, "fsync", full)
    assert main(["run", *SMALL, "--directory", "study"]) == ExitCode.BAD_INPUT
    _, error = read_output(capsys)
    assert "cannot be written: No space left on device" in error
    assert error.count("\n") == 1
    assert main(["run", "--resume", "study"]) == 0
    assert Study.open("study").has_ended


def test_another_process_complains_only_where_the_main_one_does_not(capsys, monkeypatch):
    """Its launcher ends it while it waits, if the main one has failed too."""
    waited = []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("secateurs.cli.show.time.sleep", waited.append)
    assert main(["criteria", "nope"]) == ExitCode.BAD_INPUT
    out, error = read_output(capsys)
    assert out == ""
    assert error.startswith("secateurs: error: process 1: no criterion named 'nope'")
    assert error.count("\n") == 1
    assert waited == [3.0]


def test_shapes_and_pairs_as_people_write_them():
    assert shape_from("1x3x224x224") == shape_from("1,3,224,224") == (1, 3, 224, 224)
    assert pairs_from(["a=1", "b=small", "c=false", "d=[1, 2]", "e=x=y"], "-o") == {
        "a": 1,
        "b": "small",
        "c": False,
        "d": [1, 2],
        "e": "x=y",
    }


def test_modules_of_the_commands_are_what_they_seem():
    # The package's names shadow nothing that the tests above patch.
    assert run.register.__module__ == "secateurs.cli.run"
    assert prune.register.__module__ == "secateurs.cli.prune"


GONE = "[pair.cc:553] Connection closed by peer [127.0.0.1]:59076. This is typically caused by"


@pytest.mark.parametrize(
    ("processes", "message"), [("2", "another process of"), ("1", "your code raised")]
)
def test_what_the_end_of_another_process_breaks_is_one_line(
    processes, message, monkeypatch, capsys
):
    def breaks(*_, **__):
        raise RuntimeError(GONE)

    monkeypatch.setenv("WORLD_SIZE", processes)
    monkeypatch.setattr(application, "app", breaks)
    ended = main(["criteria"])
    assert ended == (ExitCode.UNEXPECTED if processes == "2" else ExitCode.BAD_INPUT)
    output = capsys.readouterr().err
    assert message in output
    assert output.count("\n") == 1


def test_what_a_watched_process_breaks_off_for_is_said_by_its_watcher(monkeypatch, capsys):
    def breaks(*_, **__):
        raise RuntimeError(GONE)

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("SECATEURS_WATCHED", "1")
    monkeypatch.setattr(application, "app", breaks)
    assert main(["criteria"]) == ExitCode.UNEXPECTED
    assert capsys.readouterr().err == ""
