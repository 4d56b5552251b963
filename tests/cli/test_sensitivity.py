import numpy as np

import secateurs as sec
from secateurs import models
from secateurs.cli import ExitCode, main

MODEL = ("--model", "vanilla_cnn", "--width", "4", "--option", "hidden=12", "--data", "digits")


SMALL = (*MODEL, "--limit", "200")


def dense():
    built = models.build("vanilla_cnn", width=4, hidden=12, classes=10, in_channels=1, size=8)
    return sec.load(built, "w.safetensors")


def test_sensitivity_is_measured_once_and_planned_by(place, weights, capsys):
    arguments = ["sensitivity", *SMALL, "--weights", "w.safetensors", "--images", "60"]
    assert main([*arguments, "--amounts", "0.25,0.5", "--output", "s"]) == ExitCode.FINE
    out, _ = capsys.readouterr()
    assert "Rise of the loss" in out
    first = (place / "s" / "sensitivity.json").stat().st_mtime_ns
    main([*arguments, "--amounts", "0.25,0.5", "--output", "s"])
    assert (place / "s" / "sensitivity.json").stat().st_mtime_ns == first
    assert (place / "s" / "sensitivity.png").exists()
    small = ["prune", "vanilla_cnn", "-o", "width=4", "-o", "hidden=12", "--data", "digits"]
    by = ["--weights", "w.safetensors", "--to", "params=0.5", "--output", "p.safetensors"]
    assert main([*small, *by, "--sensitivity", "s/sensitivity.json"]) == ExitCode.FINE
    network = sec.trace(dense(), np.zeros((1, 1, 8, 8), np.float32))
    measured = sec.Sensitivity.load("s/sensitivity.json")
    cut = sec.plan(network, sec.score(network, "l1"), sec.Budget(params=0.5), sensitivity=measured)
    assert sec.report_of(sec.load(dense(), "p.safetensors")).cut.channels == cut.channels
