"""A user's criterion in every command, spelt the same."""

import json
import re

import numpy as np
import pytest
import torch

import secateurs as sec
from secateurs import data
from secateurs.cli import ExitCode, main
from secateurs.study.history import History

OWN = """
import numpy as np
from secateurs.calibration.needs import Need
from secateurs.criteria.registry import criterion
from secateurs.models import vanilla_cnn

def spread(group):
    \"\"\"The standard deviation of each filter's weights.\"\"\"
    return sum(weight.std(axis=1) for weight in group.filters)

def fails(group):
    return {}["nothing"]

def gives_text(group):
    return "high"
"""
SEEING = """
import numpy as np
from secateurs.calibration.needs import Need
from secateurs.criteria.registry import criterion

@criterion(Need.ACTIVATIONS)
def mean_read(group):
    \"\"\"The mean of what is read of each channel.\"\"\"
    one = group.gathered.readings[0]
    return np.zeros(len(group)) + one.count * (1 + np.arange(len(group)))
"""
MODEL = ("vanilla_cnn", "-o", "width=4", "-o", "hidden=8")
LONG = ("--model", "vanilla_cnn", "--width", "4", "--option", "hidden=8", "--data", "digits")
SHORT = ("--train-batches", "2", "--fine-tune-batches", "2", "--quiet", "--limit", "60")
SPELT = ("{folder}/own_rank.py:spread", "own_rank.py:spread", "own_rank:spread")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "own_rank.py").write_text(OWN)
    (tmp_path / "seeing.py").write_text(SEEING)
    monkeypatch.chdir(tmp_path)
    for name in ("own_rank", "seeing"):  # modules are imported once
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    return tmp_path


def list_kept_rows(model, layer, by):
    weight = dict(model.named_parameters())[f"{layer}.weight"].detach().flatten(1).numpy()
    return np.sort(np.argsort(by(weight))[len(weight) // 2 :])


@pytest.mark.parametrize("spelt", SPELT)
def test_prune_keeps_what_the_function_ranks_highest(spelt, folder):
    torch.manual_seed(0)
    model = sec.models.build("vanilla_cnn", width=4, hidden=8, in_channels=1, size=8)
    torch.save(model.state_dict(), "mine.pt")
    options = ("--weights", "mine.pt", "--input", "1x1x8x8", "--output", "small.safetensors")
    criterion = ("--criterion", spelt.format(folder=folder))
    assert main(["prune", *MODEL, *options, *criterion, "--to", "channels=0.5"]) == 0
    small = sec.load(model, "small.safetensors")
    first = next(name for name, one in model.named_modules() if isinstance(one, torch.nn.Conv2d))
    rows = list_kept_rows(model, first, lambda weight: weight.std(axis=1))
    found = dict(small.named_parameters())[f"{first}.weight"]
    assert torch.equal(found, dict(model.named_parameters())[f"{first}.weight"][rows])


def test_every_command_that_ranks_takes_the_same_spelling(folder, capsys):
    criterion = ("--criterion", "own_rank.py:spread")
    study = ("--directory", "s", "--rounds", "1", "--step", "0.3", "--tolerance", "0.9")
    assert main(["run", *LONG, *SHORT, *criterion, *study, "--no-measure-speed"]) == 0
    assert History.load(folder / "s" / "history.jsonl")[0]["criterion"] == criterion[1]
    assert main(["sensitivity", *LONG, *criterion, "--amounts", "0.5", "--images", "20"]) == 0
    kept = json.loads((folder / "sensitivity" / "sensitivity.json").read_text())
    assert kept["criterion"] == criterion[1]
    ranked = ("--strategies", f"{criterion[1]},l1", "--amounts", "0.4", "--seeds", "1")
    assert main(["compare", *LONG, *SHORT, *ranked, "--directory", "c"]) == 0
    jobs = json.loads((folder / "c" / "results.json").read_text())["jobs"]
    assert {job["strategy"] for job in jobs} == {criterion[1], "l1"}
    assert not any(job["failure"] for job in jobs)
    points = ("--shares", "0.5", "--images", "64", "--data", "digits")
    assert main(["frontier", *MODEL, *points, *criterion]) == 0
    capsys.readouterr()
    assert main(["criteria", criterion[1]]) == 0
    assert "standard deviation of each filter" in capsys.readouterr().out


def test_one_that_is_registered_is_shown_what_it_has_to_see(folder):
    torch.manual_seed(0)
    model = sec.models.build("vanilla_cnn", width=4, hidden=8, in_channels=1, size=8)
    network = sec.trace(model, torch.zeros(1, 1, 8, 8))
    images = data.load("digits").train.batch(slice(0, 20))
    scores = sec.score(network, "seeing.py:mean_read", data=images)
    assert all(np.ptp(scores[group.name]) > 0 for group in network.groups)
    with pytest.raises(sec.DataError, match=r"seeing\.py:mean_read: expected calibration data"):
        sec.score(network, "seeing.py:mean_read")
    assert np.array_equal(
        sec.score(network, "own_rank.py:spread")[network.groups[0].name],
        sec.score(network, "own_rank:spread")[network.groups[0].name],
    )


@pytest.mark.parametrize(
    ("spelt", "message"),
    [
        ("own_rank.py:spred", "did you mean 'spread'"),
        ("own_rank.py", "expected FILE:FUNCTION; received a file of"),
        ("nowhere.py:spread", "no such file"),
        ("nowhere:spread", "expected a module that can be imported"),
        ("broken.py:spread", r"it raised SyntaxError: invalid syntax \(broken.py, line 1\)"),
        ("own_rank.py:fails", r"raised KeyError: 'nothing' \(line \d+ of own_rank.py\)"),
        ("own_rank.py:gives_text", "expected 4 numbers"),
        ("spread", "no criterion named 'spread'.*FILE.py:FUNCTION"),
    ],
)
def test_an_invalid_criterion_is_refused_in_one_line(spelt, message, folder, capsys):
    (folder / "broken.py").write_text("def spread(:\n")
    given = ("--input", "1x1x8x8", "--to", "channels=0.5", "--criterion", spelt)
    assert main(["prune", *MODEL, *given]) == ExitCode.BAD_INPUT
    line = capsys.readouterr().err
    assert re.search(message, line)
    assert line.count("\n") == 1
    assert not list(folder.glob("*.safetensors"))
