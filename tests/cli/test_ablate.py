import json

import numpy as np
import pytest

import secateurs as sec
from secateurs import data, formatting, models
from secateurs.cli import ExitCode, main

MODEL = ("--model", "vanilla_cnn", "--width", "4", "--option", "hidden=12", "--data", "digits")


SMALL = (*MODEL, "--limit", "200")


def dense():
    built = models.build("vanilla_cnn", width=4, hidden=12, classes=10, in_channels=1, size=8)
    return sec.load(built, "w.safetensors")


def test_ablate_says_what_the_public_call_says(place, weights, capsys):
    arguments = ["ablate", *SMALL, "--weights", "w.safetensors", "--images", "60", "--output", "a"]
    assert main(arguments) == ExitCode.FINE
    out, _ = capsys.readouterr()
    images, labels = data.load("digits", limit=200, seed=0).validation.batch(slice(0, 60))
    network = sec.trace(dense(), images[:1])
    expected = sec.ablate(network, (images, labels))
    found = json.loads((place / "a" / "ablation.json").read_text())
    assert found["images_by_class"] == np.bincount(labels, minlength=10).tolist()
    for group in network.groups:
        group_result = found["groups"][group.name]
        np.testing.assert_allclose(
            group_result["loss_change"], expected.estimate[group.name], atol=1e-6
        )
        losses = expected.accuracy_loss(group.name)
        np.testing.assert_allclose(group_result["accuracy_loss_by_class"], losses)
        assert f"{group.name} " in out
    assert (place / "a" / "critical.svg").exists()


def test_ablate_may_race(place, weights, capsys):
    arguments = [
        "ablate",
        *SMALL,
        "--weights",
        "w.safetensors",
        "--images",
        "60",
        "--mode",
        "racing",
    ]
    assert main([*arguments, "--output", "a"]) == ExitCode.FINE
    found = json.loads((place / "a" / "ablation.json").read_text())
    assert 0 < found["removed_for_real"] < 1
    share = formatting.percent(found["removed_for_real"])
    assert f"{share} of all removals, channel by channel and image by image" in (
        " ".join(capsys.readouterr().out.split())
    )
    lowest = sum(len(group_result["lowest"]) for group_result in found["groups"].values())
    channels = sum(len(group_result["loss_change"]) for group_result in found["groups"].values())
    assert lowest == round(0.2 * channels)
    assert not (place / "a" / "critical.svg").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--best", "-1"), "--best: expected a number of at least 1; received -1"),
        (("--best", "0"), "--best: expected a number of at least 1; received 0"),
        (("--best", "2", "--mode", "racing"), "--best: expected --mode exact"),
        (("--share", "0"), "share"),
    ],
)
def test_an_unwritable_figure_is_reported_before_measuring(
    options, message, place, monkeypatch, capsys
):
    monkeypatch.setattr(models, "build", None)
    assert main(["ablate", *SMALL, *options]) == ExitCode.BAD_INPUT
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(place.iterdir())
