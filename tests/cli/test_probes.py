"""The commands that look: ``compare``, ``sensitivity``, ``ablate``; and ``prune`` with data."""

import json
import re

import numpy as np
import pytest

import secateurs as sec
from secateurs import data, formatting, models
from secateurs.cli import ExitCode, main

MODEL = ("--model", "vanilla_cnn", "--width", "4", "--option", "hidden=12", "--data", "digits")
SMALL = (*MODEL, "--limit", "200")
TRAINING = (
    *("--train-batches", "6", "--fine-tune-batches", "3", "--batch-size", "32"),
    *("--learning-rate", "0.02"),
)
COMPARE = (
    *("compare", *SMALL, *TRAINING, "--strategies", "l1,random", "--amounts", "0.3,0.6"),
    *("--seeds", "1"),
)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def weights(place):
    model = models.build("vanilla_cnn", width=4, hidden=12, classes=10, in_channels=1, size=8)
    sec.save(model, "w.safetensors")
    return model


def dense():
    built = models.build("vanilla_cnn", width=4, hidden=12, classes=10, in_channels=1, size=8)
    return sec.load(built, "w.safetensors")


def test_compare_prints_a_table_and_writes_what_it_found(place, capsys):
    assert main([*COMPARE, "--directory", "c"]) == ExitCode.FINE
    out, _ = capsys.readouterr()
    assert "4/4  random at 60 %, seed 0: " in out
    found = json.loads((place / "c" / "results.json").read_text())
    assert found["comparison"]["command"][:2] == ["secateurs", "compare"]
    for row in found["jobs"]:
        assert re.search(
            rf"{row['strategy']} at {100 * row['amount']:g} %, seed 0: "
            rf"{100 * row['before']:.1f} % -> {100 * row['accuracy']:.1f} %",
            out,
        )
    for name in ("accuracy-removed", "accuracy-size", "norms"):
        assert (place / "c" / f"{name}.svg").stat().st_size > 1000
        assert (place / "c" / f"{name}.png").exists()
    page = (place / "c" / "compare.html").read_text()
    assert page.count("<figure") == 3
    assert "http:" not in re.sub(r"data:image[^\"]*", "", page)


def test_compare_goes_on_and_takes_more_strategies(place, capsys):
    main([*COMPARE, "--directory", "c", "--quiet"])
    before = {path.name: path.stat().st_mtime_ns for path in (place / "c" / "jobs").iterdir()}
    more = [word.replace("l1,random", "l1,random,auto") for word in COMPARE]
    assert main([*more, "--directory", "c"]) == ExitCode.FINE
    assert "4 of 6 jobs are done already" in capsys.readouterr().out
    after = {path.name: path.stat().st_mtime_ns for path in (place / "c" / "jobs").iterdir()}
    assert len(after) == 6
    assert before.items() <= after.items()
    auto = json.loads((place / "c" / "jobs" / "auto-60-seed0.json").read_text())
    assert auto["criterion"] in ("l2", "whc", "fluctuation", "taylor", "fisher", "random")
    assert main(["compare", "--resume", "c"]) == ExitCode.FINE
    assert "6 of 6 jobs are done already" in capsys.readouterr().out


BAD = {
    "no model": (["compare", "--data", "digits"], "--model: expected a name; received none. Try"),
    "no strategy": ([*COMPARE, "--strategies", "l3"], "no criterion named 'l3'"),
    "amount": ([*COMPARE, "--amounts", "1.5"], r"amounts.*: expected a number less than 1"),
    "no number": ([*COMPARE, "--amounts", "half"], "--amounts: expected numbers with commas"),
    "jobs": ([*COMPARE, "--jobs", "0"], "--jobs: expected a number of at least 1; received 0"),
    "resume nothing": (["compare", "--resume", "x"], "expected a comparison's directory"),
    "resume and more": (["compare", "--resume", "x", "--seeds", "2"], "received --seeds too"),
    "images": (["ablate", *SMALL, "--images", "1"], "--images: expected a number of at least 2"),
    "share": (
        ["ablate", *SMALL, "--mode", "racing", "--share", "2"],
        r"expected share in \(0, 1\); received 2",
    ),
    "shares": (["sensitivity", *SMALL, "--amounts", "a"], "--amounts: expected shares"),
    "shares too large": (
        ["sensitivity", *SMALL, "--amounts", "2"],
        r"expected amounts in \(0, 1\)",
    ),
    "criterion": (["sensitivity", *SMALL, "--criterion", "l3"], "no criterion named 'l3'"),
    "needs data": (
        ["prune", "vanilla_cnn", "--to", "params=0.5", "--input", "1x1x8x8", "--criterion", "apoz"],
        "apoz: expected calibration data; received none",
    ),
    "auto needs data": (
        ["prune", "vanilla_cnn", "--to", "params=0.5", "--input", "1x1x8x8", "--criterion", "auto"],
        "auto: expected calibration data; received none",
    ),
    "no sensitivity": (
        ["prune", "vanilla_cnn", "--to", "params=0.5", "--sensitivity", "x.json"],
        "x.json: cannot be read as a sensitivity",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line(case, place, capsys):
    arguments, expected = BAD[case]
    assert main(arguments) == ExitCode.BAD_INPUT
    out, error = capsys.readouterr()
    assert re.search(expected, error), error
    assert error.count("\n") == 1
    assert out == ""
    assert list(place.iterdir()) == []


def test_ablate_says_what_the_public_call_says(place, weights, capsys):
    told = ["ablate", *SMALL, "--weights", "w.safetensors", "--images", "60", "--output", "a"]
    assert main(told) == ExitCode.FINE
    out, _ = capsys.readouterr()
    images, labels = data.load("digits", limit=200, seed=0).validation.batch(slice(0, 60))
    network = sec.trace(dense(), images[:1])
    expected = sec.ablate(network, (images, labels))
    found = json.loads((place / "a" / "ablation.json").read_text())
    assert found["images_by_class"] == np.bincount(labels, minlength=10).tolist()
    for group in network.groups:
        own = found["groups"][group.name]
        np.testing.assert_allclose(own["loss_change"], expected.estimate[group.name], atol=1e-6)
        losses = expected.accuracy_loss(group.name)
        np.testing.assert_allclose(own["accuracy_loss_by_class"], losses)
        assert f"{group.name} " in out
    assert (place / "a" / "critical.svg").exists()


def test_ablate_may_race(place, weights, capsys):
    told = ["ablate", *SMALL, "--weights", "w.safetensors", "--images", "60", "--mode", "racing"]
    assert main([*told, "--output", "a"]) == ExitCode.FINE
    found = json.loads((place / "a" / "ablation.json").read_text())
    assert 0 < found["removed_for_real"] < 1
    share = formatting.percent(found["removed_for_real"])
    assert f"{share} of all removals, channel by channel and image by image" in (
        " ".join(capsys.readouterr().out.split())
    )
    lowest = sum(len(own["lowest"]) for own in found["groups"].values())
    channels = sum(len(own["loss_change"]) for own in found["groups"].values())
    assert lowest == round(0.2 * channels)
    assert not (place / "a" / "critical.svg").exists()


def test_sensitivity_is_measured_once_and_planned_by(place, weights, capsys):
    told = ["sensitivity", *SMALL, "--weights", "w.safetensors", "--images", "60"]
    assert main([*told, "--amounts", "0.25,0.5", "--output", "s"]) == ExitCode.FINE
    out, _ = capsys.readouterr()
    assert "By how much the loss rises" in out
    first = (place / "s" / "sensitivity.json").stat().st_mtime_ns
    main([*told, "--amounts", "0.25,0.5", "--output", "s"])
    assert (place / "s" / "sensitivity.json").stat().st_mtime_ns == first
    assert (place / "s" / "sensitivity.png").exists()
    small = ["prune", "vanilla_cnn", "-o", "width=4", "-o", "hidden=12", "--data", "digits"]
    by = ["--weights", "w.safetensors", "--to", "params=0.5", "--output", "p.safetensors"]
    assert main([*small, *by, "--sensitivity", "s/sensitivity.json"]) == ExitCode.FINE
    network = sec.trace(dense(), np.zeros((1, 1, 8, 8), np.float32))
    measured = sec.Sensitivity.load("s/sensitivity.json")
    cut = sec.plan(network, sec.score(network, "l1"), sec.Budget(params=0.5), sensitivity=measured)
    assert sec.report_of(sec.load(dense(), "p.safetensors")).cut.channels == cut.channels


def test_prune_says_who_won(place, weights, capsys):
    small = ["prune", "vanilla_cnn", "-o", "width=4", "-o", "hidden=12", "--data", "digits"]
    by = ["--weights", "w.safetensors", "--to", "params=0.5", "--output", "p.safetensors"]
    assert main([*small, *by, "--criterion", "auto", "--images", "64"]) == ExitCode.FINE
    out, _ = capsys.readouterr()
    assert "has the lowest calibration loss after" in out
    assert "on 32 images" in out
