"""secateurs run: a study from the shell, killed, resumed, repeated."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import secateurs as sec
from secateurs import models
from secateurs.cli import main
from secateurs.study.directory import Study
from support.shell import SMALL, read_output

pytestmark = pytest.mark.usefixtures("factories")


def read_study(directory):
    records = sec.History.load(Path(directory) / "history.jsonl")
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def in_shell(*arguments, **options):
    command = [sys.executable, "-m", "secateurs", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_a_study_from_the_shell(place, capsys):
    assert main(["run", *SMALL, "--directory", "study", "--measure-speed"][:-1]) == 0
    out, error = read_output(capsys)
    assert error == ""
    lines = [line for line in out.splitlines() if "recovered by repair" not in line]
    assert lines[0].split()[:2] == ["round", "batch"]
    history = sec.History.load("study/history.jsonl")
    params = [history.last("dense")["params"], *history.of("prune")[:, "params"]]
    for number, line in enumerate(lines[1:4]):
        assert line.split()[0] == str(number)
        assert f"{100 * (1 - params[number] / params[0]):.1f} %" in line
    assert "Kept: round 2" in out
    assert "batches of fine-tuning after dense training" in out
    assert "Report: study/report/report.html" in out
    page = Path("study/report/report.html").read_text()
    assert "secateurs run vanilla_cnn" in page
    loaded = sec.load(
        models.vanilla_cnn(10, in_channels=1, size=8, width=4, hidden=12), "study/best.safetensors"
    )
    assert sum(p.numel() for p in loaded.parameters()) == params[2]

    Path("study/report/report.html").unlink()
    assert main(["report", "study"]) == 0
    assert read_output(capsys)[0].strip() == "study/report/report.html"
    assert Path("study/report/report.html").read_text() == page


def test_a_killed_study_is_resumed(place, without_drawing, capsys):
    assert main(["run", *SMALL, "--directory", "whole"]) == 0
    longer = [*SMALL, "--directory", "killed"]
    with in_shell("run", *longer, env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
        deadline = time.monotonic() + 120
        while not Path("killed/cuts/round-001.json").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert sec.History.load("killed/history.jsonl").last("stop") is None
    read_output(capsys)
    assert main(["run", "--resume", "killed"]) == 0
    out, _ = read_output(capsys)
    lines = [line.split() for line in out.splitlines() if "recovered by repair" not in line]
    assert [words[0] for words in lines[1:4]] == ["0", "1", "2"]
    assert read_study("killed") == read_study("whole")
    # The result is the same to the bit (the order of a safetensors file's text is not).
    killed, whole = (load_file(f"{name}/best.safetensors") for name in ("killed", "whole"))
    assert killed.keys() == whole.keys()
    assert all(torch.equal(killed[name], whole[name]) for name in whole)


def test_the_command_in_the_report_repeats_the_study(place, without_drawing, capsys):
    main(["run", *SMALL, "--skip", "hidden", "--skip", "blocks.0*", "--until-recovered", "--quiet"])
    directory = Path("runs/vanilla_cnn-digits")
    first = Study.open(directory)
    assert first.configuration.pruning.skip == ("hidden", "blocks.0*")
    before = read_study(directory)
    out, _ = read_output(capsys)
    assert "round  " not in out
    program, *arguments = first.configuration.command
    assert program == "secateurs"
    assert main([*arguments, "--fresh"]) == 0
    again = Study.open(directory)
    assert again.configuration.differences(first.configuration) == []
    assert read_study(directory) == before


def test_options_of_training_and_rounds_are_those_of_the_settings(place, capsys):
    training = {
        "accumulation_steps": 2,
        "fine_tune_learning_rate": 0.01,
        "warm_up": 0.2,
        "label_smoothing": 0.1,
        "distillation": 0.3,
        "temperature": 3.0,
        "ema": 0.9,
        "flip": True,
    }
    pruning = {"allocation": "curves", "multiple": 2, "repair": True, "calibration_batches": 5}
    wanted = training | pruning | {"patience": 2, "no-measure-speed": True}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in wanted.items()]
    flags = [option.removesuffix("=True") for option in options]
    assert main(["run", *SMALL, "--rounds", "1", "--directory", "all", *flags]) == 0
    configuration = Study.open("all").configuration
    assert configuration.training.model_dump() | training == configuration.training.model_dump()
    assert configuration.pruning.model_dump() | pruning == configuration.pruning.model_dump()
    assert configuration.stop.patience == 2
    widths = sec.History.load("all/history.jsonl").last("prune")["widths"]
    assert [width % 2 for name, width in widths.items() if name != "head"] == [0] * (
        len(widths) - 1
    )
