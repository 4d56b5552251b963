import json
import re
from pathlib import Path

import pytest
import torch

import secateurs as sec
from secateurs import models
from secateurs.cli import ExitCode, main
from support.shell import CNN, read_output


def test_a_pruned_model_is_exported_and_timed_beside_the_dense_one(place, capsys):
    arguments = ["prune", *CNN, "--to", "macs=0.3", "--output", "small.safetensors"]
    assert main([*arguments, "--export", "pt2"]) == 0
    out, _ = read_output(capsys)
    assert re.search(r"small\.pt2: .* any batch; largest difference in pt2 0\.0e\+00", out)
    small = sec.load(models.vanilla_cnn(10, in_channels=1, size=8, width=8), "small.safetensors")
    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        expected = small.eval()(x).numpy()
        assert torch.export.load("small.pt2").module()(x).numpy() == pytest.approx(expected)

    files = ("--json", "bench.json", "--figure", "bench.png")
    code = main(["bench", *CNN[:1], "small.safetensors", *CNN[1:], "--batch", "2", *files])
    out, error = read_output(capsys)
    if code != 0:  # a machine that is busy indeed
        assert "too noisy to time" in error
        pytest.skip(error)
    assert "eager, batch 2, 1 thread" in out
    plain = json.loads(Path("bench.json").read_text())
    assert [row["model"] for row in plain["rows"]] == ["vanilla_cnn", "small.safetensors"]
    assert plain["rows"][1]["macs_ratio"] > 3
    assert Path("bench.png").read_bytes()[:4] == b"\x89PNG"
    assert main(["bench", *CNN[:1], *CNN[1:], *files]) == ExitCode.BAD_INPUT
    assert "bench.json: exists already; replace it with --overwrite" in read_output(capsys)[1]


def test_a_file_of_weights_that_is_not_there_is_no_model_of_that_name(place, capsys):
    assert main(["bench", *CNN[:1], "missing.safetensors", *CNN[1:]]) == ExitCode.BAD_INPUT
    assert read_output(capsys)[1] == (
        "secateurs: error: missing.safetensors: no such weight file; expected one of a cut "
        "vanilla_cnn\n"
    )
