"""The inspecting commands ``compare``, ``sensitivity`` and ``ablate``, and ``prune`` with data."""

import re

import pytest

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


BAD = {
    "no model": (["compare", "--data", "digits"], "MODEL: expected a name; received none. Try"),
    "no strategy": ([*COMPARE, "--strategies", "l3"], "no criterion named 'l3'"),
    "amount": ([*COMPARE, "--amounts", "1.5"], r"amounts.*: expected a number less than 1"),
    "no number": ([*COMPARE, "--amounts", "half"], "--amounts: expected numbers separated by"),
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
