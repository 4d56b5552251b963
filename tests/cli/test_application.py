"""The command line: what it prints, what it writes, and how it ends."""

import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import nn

import secateurs as sec
from secateurs import files, models
from secateurs.cli import ExitCode, main, prune, run
from secateurs.cli.options import attribute_docs, pairs_from, shape_from
from secateurs.cli.presets import PRESETS
from secateurs.cli.show import print_network
from secateurs.criteria import CRITERIA
from secateurs.settings.pruning import Pruning
from secateurs.settings.training import Training
from secateurs.study.directory import Study

ON_DIGITS = (
    *("--data", "digits", "--limit", "200", "--no-measure-speed"),
    *("--train-batches", "6", "--fine-tune-batches", "3", "--batch-size", "32"),
    *("--learning-rate", "0.02", "--step", "0.2", "--rounds", "2", "--tolerance", "0.9"),
)
SMALL = ("--model", "vanilla_cnn", "--width", "4", "--option", "hidden=12", *ON_DIGITS)
FACTORIES = """
import numpy as np
from torch import nn
from secateurs import data

def no_channels():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

class Raising(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        raise RuntimeError("out of order")

def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))

def one_class():
    return data.from_arrays((np.zeros((9, 1, 8, 8)), np.ones(9, int)))

def no_images():
    return data.from_arrays((np.zeros((0, 1, 8, 8)), np.zeros(0, int)))
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working directory that also holds a module of models and data."""
    (tmp_path / "factories_of_the_test.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def without_drawing(monkeypatch):
    monkeypatch.setattr(Study, "report", lambda self: self.directory / "report" / "report.html")


def said(capsys):
    out, error = capsys.readouterr()
    return out, error


def told(directory):
    records = sec.History.load(Path(directory) / "history.jsonl")
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


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
    assert "secateurs prune resnet50 --to size_mb=15" in done.stdout
    assert after.ru_utime - before.ru_utime < 3


@pytest.mark.parametrize("command", ["run", "prune", "inspect", "report", "criteria"])
def test_every_command_has_help_with_something_to_try(command, capsys):
    assert main([command, "--help"]) == ExitCode.FINE
    out, error = said(capsys)
    assert f"secateurs {command} " in out
    assert error == ""


def test_every_setting_is_an_option_with_the_help_of_its_docstring(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    main(["run", "--help"])
    out, _ = said(capsys)
    for settings in (Training, Pruning, sec.Stop):
        documented = attribute_docs(settings)
        assert documented.keys() == settings.model_fields.keys()
        for name in settings.model_fields:
            dashed = {"batches": "train-batches"}.get(name, name.replace("_", "-"))
            assert f"--{dashed} " in out or f"--no-{dashed} " in out
    assert "Share of the channels that remain" in " ".join(out.split())


def test_asking_for_nothing_shows_the_help(capsys):
    assert main([]) == ExitCode.FINE
    assert "Usage: secateurs" in said(capsys)[0]


# -- run, report


def test_a_study_from_the_shell(place, capsys):
    assert main(["run", *SMALL, "--directory", "study", "--measure-speed"][:-1]) == 0
    out, error = said(capsys)
    assert error == ""
    lines = out.splitlines()
    assert lines[0].split()[:2] == ["round", "batch"]
    history = sec.History.load("study/history.jsonl")
    params = [history.last("dense")["params"], *history.of("prune")[:, "params"]]
    for number, line in enumerate(lines[1:4]):
        assert line.split()[0] == str(number)
        assert f"{100 * (1 - params[number] / params[0]):.1f} %" in line
    assert "Kept: round 2" in out
    assert "Report: study/report/report.html" in out
    page = Path("study/report/report.html").read_text()
    assert "secateurs run --model vanilla_cnn" in page
    loaded = sec.load(
        models.vanilla_cnn(10, in_channels=1, size=8, width=4, hidden=12), "study/best.safetensors"
    )
    assert sum(p.numel() for p in loaded.parameters()) == params[2]

    Path("study/report/report.html").unlink()
    assert main(["report", "study"]) == 0
    assert said(capsys)[0].strip() == "study/report/report.html"
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
    said(capsys)
    assert main(["run", "--resume", "killed"]) == 0
    out, _ = said(capsys)
    assert [line.split()[0] for line in out.splitlines()[1:4]] == ["0", "1", "2"]
    assert told("killed") == told("whole")
    # The result is the same to the bit (the order of a safetensors file's text is not).
    killed, whole = (load_file(f"{name}/best.safetensors") for name in ("killed", "whole"))
    assert killed.keys() == whole.keys()
    assert all(torch.equal(killed[name], whole[name]) for name in whole)


def test_the_command_in_the_report_repeats_the_study(place, without_drawing, capsys):
    main(["run", *SMALL, "--skip", "hidden", "--skip", "blocks.0*", "--until-recovered", "--quiet"])
    directory = Path("runs/vanilla_cnn-digits")
    first = Study.open(directory)
    assert first.configuration.pruning.skip == ("hidden", "blocks.0*")
    before = told(directory)
    out, _ = said(capsys)
    assert "round  " not in out
    program, *arguments = first.configuration.command
    assert program == "secateurs"
    assert main([*arguments, "--fresh"]) == 0
    again = Study.open(directory)
    assert again.configuration.differences(first.configuration) == []
    assert told(directory) == before


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_studies_of_five_percent_rounds(name, place, capsys, monkeypatch):
    chosen = {}
    monkeypatch.setattr(run, "run_configuration", lambda c, d, **_: chosen.update(one=c, place=d))
    assert main(["run", "--preset", name]) == ExitCode.FINE
    assert chosen["one"].pruning.step == 0.05
    assert chosen["one"].training.batches == PRESETS[name]["train_batches"]
    assert chosen["one"].task.model == "resnet18"
    assert chosen["place"] == Path("runs") / name


def test_a_preset_is_changed_by_options(monkeypatch):
    chosen = {}

    def carried_out(configuration, directory, **_):
        chosen.update(configuration=configuration, directory=directory)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_configuration", carried_out)
    main(["run", "--preset", "demo", "--width", "5", "--rounds", "3"])
    demo = PRESETS["demo"]
    assert chosen["configuration"].task.model_options["width"] == 5
    assert chosen["configuration"].stop.rounds == 3
    assert chosen["configuration"].training.batches == demo["train_batches"]
    assert chosen["configuration"].task.data_options["validation"] == demo["validation"]
    assert chosen["directory"] == Path("runs/demo")


def test_interrupting_says_how_to_go_on(monkeypatch, capsys, place):
    begun = []

    def interrupted(*_, **__):
        if begun:
            Path("study").mkdir()
            Path("study/config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_configuration", interrupted)
    assert main(["run", *SMALL, "--directory", "study"]) == ExitCode.INTERRUPTED
    assert said(capsys)[1] == "interrupted\n"  # there is nothing to go on with
    begun.append(True)
    assert main(["run", *SMALL, "--directory", "study"]) == ExitCode.INTERRUPTED
    assert "nothing is kept yet; go on with: secateurs run --resume study" in said(capsys)[1]


def test_a_fault_of_ours_shows_its_traceback(monkeypatch, capsys):
    def broken(*_, **__):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(run, "run_configuration", broken)
    assert main(["run", *SMALL]) == ExitCode.UNEXPECTED
    _, error = said(capsys)
    assert "Traceback" in error
    assert "please report it: ZeroDivisionError: oops" in error


def test_whoever_stops_reading_gets_no_traceback():
    with in_shell("criteria") as process:
        process.stdout.close()
        process.wait()
        assert process.stderr.read() == ""


# -- prune, inspect, criteria


def test_prune_writes_a_model_that_python_loads_as_it_says(place, capsys):
    arguments = ("vanilla_cnn", "--to", "params=0.5,macs=0.6", "--input", "1x3x16x16")
    assert main(["prune", *arguments, "-o", "width=8", "--output", "small.safetensors"]) == 0
    out, _ = said(capsys)
    assert "proof holds" in out
    size = Path("small.safetensors").stat().st_size
    assert f"small.safetensors: {size / 1e6:.2f} MB" in out
    assert "random" in out
    lines = out.partition("In Python:\n")[2].splitlines()[:3]
    found = {}
    exec("\n".join(line.strip() for line in lines), found)  # noqa: S102 - what users will do
    small = found["model"]
    dense = models.build("vanilla_cnn", in_channels=3, size=16, width=8)
    counts = [sum(p.numel() for p in model.parameters()) for model in (small, dense)]
    assert 0.4 < counts[0] / counts[1] <= 0.5
    assert small(torch.zeros(1, 3, 16, 16)).shape == dense(torch.zeros(1, 3, 16, 16)).shape


def test_prune_replaces_no_file_unasked(place, capsys):
    arguments = ["prune", "vanilla_cnn", "--to", "params=0.5", "--input", "1x3x16x16"]
    Path("vanilla_cnn-pruned.safetensors").write_text("mine")
    assert main(arguments) == ExitCode.BAD_INPUT
    assert Path("vanilla_cnn-pruned.safetensors").read_text() == "mine"
    assert "--overwrite" in said(capsys)[1]
    assert main([*arguments, "--overwrite"]) == 0


def test_prune_takes_weights_and_leaves_layers_alone(place, capsys):
    dense = models.vanilla_cnn(10, in_channels=1, size=8, width=4)
    torch.save(dense.state_dict(), "dense.pt")
    arguments = ["prune", "vanilla_cnn", "--to", "channels=0.8", "--input", "1x1x8x8"]
    arguments += ["-o", "width=4", "--weights", "dense.pt", "--skip", "blocks.0.*"]
    assert main([*arguments, "--output", "small.safetensors"]) == 0
    out, _ = said(capsys)
    assert "random" not in out
    small = sec.load(dense, "small.safetensors")
    assert torch.equal(small.blocks[0].conv.weight, dense.blocks[0].conv.weight)
    assert small.hidden.out_features < dense.hidden.out_features


class Beside(nn.Module):
    """Gives features beside its answer."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3), nn.Linear(8, 2)

    def forward(self, x):
        features = self.a(x).relu().mean((2, 3))
        return {"features": features, "logits": self.b(features)}


def test_prune_keeps_the_outputs_that_are_used(monkeypatch, place, capsys):
    monkeypatch.setitem(sys.modules, "beside", types.SimpleNamespace(Beside=Beside))
    files = ("--input", "1x1x8x8", "--output", "small.safetensors")
    arguments = ["prune", "beside:Beside", "--to", "channels=0.5", *files]
    assert main([*arguments, "--outputs", "logits"]) == 0
    assert sec.load(Beside(), "small.safetensors").a.out_channels == 4
    assert main([*arguments, "--overwrite", "--outputs", "logit"]) != 0
    assert "did you mean 'logits'" in said(capsys)[1]


def test_inspect_prints_the_network(capsys):
    assert main(["inspect", "resnet18", "-o", "width=4", "--input", "1x1x8x8"]) == 0
    torch.manual_seed(0)
    dense = models.resnet18(width=4, in_channels=1, stem="small")
    expected = str(sec.trace(dense, torch.zeros(1, 1, 8, 8)))
    assert said(capsys)[0].strip() == expected.strip()


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_network_fits_the_terminal(width):
    network = sec.trace(models.resnet50(width=4, stem="small"), torch.zeros(1, 3, 8, 8))
    out = io.StringIO()
    print_network(network, Console(file=out, width=width, force_terminal=True, no_color=True))
    text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    lines = text.splitlines()
    assert max(len(line.rstrip()) for line in lines[1:]) <= width
    first_words = {line.split()[0] for line in lines if line.strip()}
    assert {group.name for group in network.groups} <= first_words
    assert "it is the network's output" in " ".join(text.split())


def test_criteria_are_listed_and_explained(capsys):
    assert main(["criteria"]) == 0
    out, _ = said(capsys)
    for criterion in CRITERIA.values():
        assert f"{criterion.name} " in out
        assert criterion.summary in out
    assert main(["criteria", "l1"]) == 0
    assert CRITERIA["l1"].card in said(capsys)[0]


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
        r"--resume goes on with .*, but for when it stops; received --step too",
    ),
    "no model": (("run", "--data", "digits"), r"--model: expected a name; received none"),
    "no such option": ((*RUN, "--stap", "1"), r"No such option: --stap.*secateurs run --help"),
    "no such command": (("prun",), r"No such command 'prun'.* See: secateurs --help"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_writes_nothing(case, place, capsys):
    given_files(place)
    before = sorted(place.rglob("*"))
    arguments, expected = BAD[case]
    assert main(arguments) == ExitCode.BAD_INPUT
    out, error = said(capsys)
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
    assert "hidden.weight holds NaN" in said(capsys)[1]
    assert not Path("runs").exists()


def test_studies_that_cannot_go_on_are_left_as_they_are(place, without_drawing, capsys):
    assert main(["run", *SMALL, "--directory", "study"]) == 0
    before = {path: path.read_bytes() for path in Path("study").rglob("*") if path.is_file()}

    def refused(arguments, expected):
        assert main(arguments) == ExitCode.BAD_INPUT
        _, error = said(capsys)
        assert re.search(expected, error), error
        assert error.count("\n") == 1

    said(capsys)
    refused(
        ["run", *SMALL, "--directory", "study", "--seed", "3"],
        r"study: holds another study \(.*training\.seed: 0, not 3.*--fresh",
    )
    changed = json.loads(before[Path("study/config.json")])
    changed["task"]["by_name"] = False
    Path("study/config.json").write_text(json.dumps(changed))
    refused(["run", "--resume", "study"], r"values that it was written with .*remove \"checksum\"")
    del changed["checksum"]
    Path("study/config.json").write_text(json.dumps(changed))
    refused(["run", "--resume", "study"], r"was begun from Python")
    Path("study/config.json").write_bytes(before[Path("study/config.json")])
    checkpoint = Path("study/checkpoint.safetensors")
    checkpoint.write_bytes(b"damaged")
    refused(["run", "--resume", "study"], r"study/checkpoint\.safetensors: expected a safetensors")
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
    _, error = said(capsys)
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
    out, error = said(capsys)
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
