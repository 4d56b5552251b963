"""profile, bench, export, and prune to measured budgets, from the command line."""

import re

import pytest

from secateurs.cli import ExitCode, main
from support.shell import CNN, read_output

BAD = {
    "runtime": (("prune", *CNN, "--to", "latency=0.5,runtime=onx"), r"no runtime is called 'onx'"),
    "milliseconds": (("prune", *CNN, "--to", "latency=5"), r"For milliseconds: latency_ms=5"),
    "drop without data": (("prune", *CNN, "--to", "drop=0.1"), r"drop: expected data"),
    "contradictory": (
        ("prune", *CNN, "--to", "macs=0.5,threads=1"),
        r"describes how a model is timed",
    ),
    "target": (("prune", *CNN, "--to", "macs=0.5", "--export", "onx"), r"did you mean 'onnx'"),
    "target of export": (("export", *CNN, "--to", "tensorrt"), r"no target is called 'tensorrt'"),
    "int8 without data": (("export", *CNN, "--int8"), r"--int8: expected images"),
    "runtime of bench": (("bench", *CNN[:1], "--runtime", "x", *CNN[1:]), r"no runtime is called"),
    "figure": (("bench", *CNN[:1], "--figure", "a.pdf", *CNN[1:]), r"expected a \.png or \.svg"),
    "model of bench": (("bench", "vanila_cnn"), r"did you mean 'vanilla_cnn'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_writes_nothing(case, place, capsys):
    arguments, expected = BAD[case]
    assert main(arguments) == ExitCode.BAD_INPUT
    out, error = read_output(capsys)
    assert re.search(expected, error), error
    assert error.count("\n") == 1
    assert out == ""
    assert not list(place.iterdir())
