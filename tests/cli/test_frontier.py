import re

import pytest
import torch

import secateurs as sec
from secateurs import models
from secateurs.cli import ExitCode, main

MODEL = (
    "vanilla_cnn",
    "-o",
    "width=4",
    "-o",
    "hidden=12",
    "--data",
    "digits",
    "--input",
    "1x1x8x8",
)
FEW = ("--images", "64", "--shares", "0.6,0.3", "--quiet")


@pytest.fixture
def weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = models.vanilla_cnn(10, in_channels=1, size=8, width=4, hidden=12)
    torch.save(model.state_dict(), "dense.pt")
    return model


def test_a_row_for_each_budget_and_the_model_that_was_asked_for(weights, tmp_path, capsys):
    arguments = ["frontier", *MODEL, *FEW[:4], "--weights", "dense.pt", "--keep", "macs=0.3"]
    assert main([*arguments, "--classes", "10", "--output", "found"]) == ExitCode.FINE
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if re.match(r"\s*(dense|macs=)", line)]
    assert [row.split()[0] for row in rows][:3] == ["dense", "macs=0.6", "macs=0.3"]
    assert list((tmp_path / "found").glob("*.png"))
    (kept,) = (tmp_path / "found").glob("*.safetensors")
    small = sec.load(weights, kept)
    macs = [sec.trace(model, torch.zeros(1, 1, 8, 8)).macs() for model in (weights, small)]
    assert macs[1] <= 0.3 * macs[0]


def test_shares_that_are_none_are_one_line(weights, capsys):
    arguments = ["frontier", *MODEL, "--shares", "0.5,x", "--weights", "dense.pt"]
    assert main(arguments) == ExitCode.BAD_INPUT
    assert capsys.readouterr().err.count("\n") == 1


def test_a_point_that_there_will_not_be_is_told_before_anything_is_measured(place, capsys):
    assert main(["frontier", "vanilla_cnn", "--data", "digits", "--keep", "macs=0.26"]) == 2
    assert "--keep: no point 'macs=0.26'; did you mean 'macs=0." in capsys.readouterr().err
    assert not list(place.glob("frontier*"))
