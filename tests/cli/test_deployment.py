"""profile, bench, export, and prune to what only a real model can tell, from the command line."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import secateurs as sec
from secateurs import models
from secateurs.cli import ExitCode, main
from secateurs.measurement.conditions import Conditions
from secateurs.measurement.latency_model import TERMS, LatencyModel

CNN = ("vanilla_cnn", "-o", "width=8", "--input", "1x1x8x8")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def said(capsys):
    caught = capsys.readouterr()
    return caught.out, caught.err


def test_a_pruned_model_is_exported_and_timed_beside_the_dense_one(place, capsys):
    arguments = ["prune", *CNN, "--to", "macs=0.3", "--output", "small.safetensors"]
    assert main([*arguments, "--export", "pt2"]) == 0
    out, _ = said(capsys)
    assert re.search(r"small\.pt2: .* any batch; largest difference in pt2 0\.0e\+00", out)
    small = sec.load(models.vanilla_cnn(10, in_channels=1, size=8, width=8), "small.safetensors")
    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        expected = small.eval()(x).numpy()
        assert torch.export.load("small.pt2").module()(x).numpy() == pytest.approx(expected)

    files = ("--json", "bench.json", "--figure", "bench.png")
    code = main(["bench", *CNN[:1], "small.safetensors", *CNN[1:], "--batch", "2", *files])
    out, error = said(capsys)
    if code != 0:  # a machine that is busy indeed
        assert "too noisy to time" in error
        pytest.skip(error)
    assert "eager, batch 2, 1 thread" in out
    plain = json.loads(Path("bench.json").read_text())
    assert [row["model"] for row in plain["rows"]] == ["vanilla_cnn", "small.safetensors"]
    assert plain["rows"][1]["macs_ratio"] > 3
    assert Path("bench.png").read_bytes()[:4] == b"\x89PNG"
    assert main(["bench", *CNN[:1], *CNN[1:], *files]) == ExitCode.BAD_INPUT
    assert "bench.json: exists already; replace it with --overwrite" in said(capsys)[1]


def test_export_writes_what_it_says(place, capsys):
    assert main(["export", *CNN, "--to", "safetensors"]) == 0
    assert "vanilla_cnn.safetensors: " in said(capsys)[0]
    assert main(["export", *CNN, "--to", "safetensors"]) == ExitCode.BAD_INPUT
    assert "--overwrite" in said(capsys)[1]
    assert main(["export", *CNN, "--to", "safetensors", "--overwrite"]) == 0


def test_profile_tells_what_was_measured(place, capsys, monkeypatch):
    costs = tuple(1.0 if term == "constant" else 0.0 for term in TERMS)
    asked = {}

    def profile(model, example, **given):
        asked.update(given)
        conditions = Conditions(runtime=given["runtime"], threads=given["threads"])
        return LatencyModel(conditions, 1, 4.0, costs, (0.03, -0.1), 8, {1: (1.25, 0.5)})

    monkeypatch.setattr("secateurs.planning.profiling.profile", profile)
    assert main(["profile", *CNN, "--runtime", "onnxruntime", "--threads", "0"]) == 0
    out, _ = said(capsys)
    assert asked["threads"] is None
    assert "onnxruntime, its own threads: 4 ms dense (250 a second)" in out
    assert "within 6.5% (median) and 10.0% (worst of 2 cuts" in out
    assert "a cut at any width is not faster than the dense model here" in out


def test_prune_to_a_drop_on_real_images(place, capsys):
    from secateurs import data

    torch.manual_seed(0)
    dense = models.vanilla_cnn(10, in_channels=1, size=8, width=8).eval()
    images, labels = data.load("digits").validation.batch(slice(0, 64))

    def accuracy(model):
        with torch.no_grad():
            return np.mean(model.eval()(torch.from_numpy(images)).argmax(1).numpy() == labels)

    # As few images are classified by chance, the last layer is fitted to them.
    features = []
    hook = dense.head.register_forward_hook(lambda _, given, __: features.append(given[0]))
    with torch.no_grad():
        dense(torch.from_numpy(images))
        hook.remove()
        wanted = torch.eye(10)[torch.from_numpy(labels)]
        inside = features[0].double()
        ridge = inside.T @ inside + 1e-6 * torch.eye(inside.shape[1])
        dense.head.weight.copy_(torch.linalg.solve(ridge, inside.T @ wanted.double()).T)
        dense.head.bias.zero_()
    assert accuracy(dense) > 0.8
    torch.save(dense.state_dict(), "dense.pt")
    arguments = ["prune", *CNN, "--weights", "dense.pt", "--to", "drop=0.6", "--data", "digits"]
    assert main([*arguments, "--images", "64", "--output", "s.safetensors"]) == 0
    out, _ = said(capsys)
    tried = [float(drop) for _, drop in re.findall(r"tried macs=([\d.]+): drop (-?[\d.]+)", out)]
    assert 3 <= len(tried) <= 9
    small = sec.load(dense, "s.safetensors")
    lost = accuracy(dense) - accuracy(small)
    assert lost <= 0.6
    assert any(lost == pytest.approx(drop, abs=1e-3) for drop in tried)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in dense.parameters())


BAD = {
    "runtime": (("prune", *CNN, "--to", "latency=0.5,runtime=onx"), r"no runtime is called 'onx'"),
    "milliseconds": (("prune", *CNN, "--to", "latency=5"), r"For milliseconds: latency_ms=5"),
    "drop without data": (("prune", *CNN, "--to", "drop=0.1"), r"drop: expected data"),
    "contradictory": (("prune", *CNN, "--to", "macs=0.5,threads=1"), r"where a time is meant for"),
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
    out, error = said(capsys)
    assert re.search(expected, error), error
    assert error.count("\n") == 1
    assert out == ""
    assert not list(place.iterdir())
