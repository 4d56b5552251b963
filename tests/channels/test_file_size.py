"""Limits of file size, by format and precision, against the file that is written."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.channels.file_size import FORMATS, FileKind, count_stored_bytes
from secateurs.cli import ExitCode, main
from secateurs.deployment.targets import TARGETS


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3)]
    return nn.Sequential(
        *layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4)
    )


X = torch.randn(2, 3, 8, 8)


def test_formats_are_the_targets_of_export():
    assert set(FORMATS) == set(TARGETS)


def test_a_half_precision_file_is_known_to_the_byte(model, tmp_path):
    found = sec.prune(model, X, sec.Budget(size_mb="25 kB", precision="float16"))
    assert not found.trials
    made = sec.export(found.model, tmp_path / "small.safetensors", X, precision="float16")
    assert made.bytes == (tmp_path / "small.safetensors").stat().st_size
    assert 0.95 * 25_000 < made.bytes <= 25_000
    assert made.max_difference < 5e-3
    budget = sec.Budget(size_mb="25 kB", precision="float16")
    network = sec.trace(model, X)
    assert budget.units(network)["size_mb"].measure(network, found.cut) == made.bytes
    loaded = sec.load(model, tmp_path / "small.safetensors")  # and it is a model again
    with torch.no_grad():
        assert torch.allclose(loaded.eval()(X), found.model.eval()(X), atol=1e-2)
    # Of the same bytes in single precision, about half of the numbers are left.
    whole = sec.prune(model, X, sec.Budget(size_mb="25 kB")).report
    assert found.report.params_removed < whole.params_removed


def test_an_eight_bit_file_is_written_to_be_weighed(model, tmp_path):
    found = sec.prune(model, X, "size_mb=20 kB,precision=int8")
    images = torch.randn(40, 3, 8, 8).numpy()  # of which the size does not depend
    made = sec.export(found.model, tmp_path / "small.onnx", X, int8=images)
    size = (tmp_path / "small-int8.onnx").stat().st_size
    assert made.int8 is not None
    assert made.int8.bytes == size
    assert 0.9 * 20_000 < size <= 20_000
    assert found.trials[-1].measured["size_mb"] == pytest.approx(size, rel=1e-3)
    assert made.bytes > 1.5 * size  # the same model in single precision


def test_half_precision_onnx_computes_in_single_precision(model, tmp_path):
    path = tmp_path / "half.onnx"
    made = sec.export(model, path, X, precision="float16")
    numbers = sum(parameter.numel() for parameter in model.parameters())
    assert 2 * numbers < made.bytes < 2.6 * numbers
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert given.type == "tensor(float)"
    (found,) = session.run(None, {given.name: X.numpy()})
    with torch.no_grad():
        expected = model.eval()(X).numpy()
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < 1e-2 * np.abs(expected).max()


def test_bytes_of_tensors_by_hand(model):
    network = sec.trace(model, X)
    weights = 32 * 27 + 64 * 32 * 9 + 64 * 4
    rest = 32 + 64 + 4 + 4 * 32  # biases, the normalisation's four
    alive = network.alive()
    assert (
        count_stored_bytes(network, alive, FileKind()) == 4 * (weights + rest) + 8
    )  # and its counter
    assert (
        count_stored_bytes(network, alive, FileKind("onnx", "float16")) == 2 * (weights + rest) + 8
    )
    assert count_stored_bytes(network, alive, FileKind("onnx", "int8")) == weights + 4 * rest + 8


def test_the_file_of_a_model_that_was_cut_before_tells_of_both_cuts_and_keeps_the_limit(
    model, tmp_path
):
    once = sec.prune(model, X, sec.Budget(channels=0.7)).model
    for limit in ("29 kB", "27.5 kB", "26 kB"):
        twice = sec.prune(once, X, sec.Budget(size_mb=limit)).model
        sec.save(twice, tmp_path / "twice.safetensors")
        found = (tmp_path / "twice.safetensors").stat().st_size
        assert 0.95 * float(limit.split()[0]) * 1000 < found <= float(limit.split()[0]) * 1000
        network = sec.trace(twice, X)
        unit = sec.Budget(size_mb=limit).units(network)["size_mb"]
        assert unit.measure(network, sec.Cut()) == found


def test_curves_allocate_by_the_bytes_of_the_file(model):
    """Calibrated: channels go by curves, priced in half precision."""
    images = torch.randn(128, 3, 8, 8)
    found = sec.prune(
        model, X, sec.Budget(size_mb="25 kB", precision="float16"), calibration=images
    )
    network = sec.trace(model, X)
    unit = sec.Budget(size_mb="25 kB", precision="float16").units(network)["size_mb"]
    assert 0.9 * 25_000 < unit.measure(network, found.cut) <= 25_000


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size_mb": 1, "precision": "int4"}, "precision: expected float32, float16, int8; recei"),
        ({"size_mb": 1, "format": "gguf"}, "format: expected one of safetensors, onnx"),
        ({"size_mb": 1, "format": "pt2", "precision": "int8"}, "For int8: format=onnx"),
        ({"macs": 0.5, "precision": "int8"}, "precision: describes a file; expected size"),
    ],
)
def test_unknown_file_formats_are_refused(given, message):
    with pytest.raises(sec.BudgetError, match=message):
        sec.Budget(**given)


def test_an_unreachable_file_size_is_refused_with_the_smallest(model):
    with pytest.raises(sec.BudgetError, match=r"size_mb=1 kB; the nearest that can be met is size"):
        sec.prune(model, X, "size_mb=1 kB,precision=float16")


def test_the_command_line_writes_the_file_that_was_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["prune", "vanilla_cnn", "-o", "width=8", "--input", "1x1x8x8", "--to"]
    assert main([*arguments, "size_mb=8 kB,precision=float16", "--output", "a.safetensors"]) == 0
    assert 7_000 < (tmp_path / "a.safetensors").stat().st_size <= 8_000
    assert main([*arguments, "size_mb=30 kB,format=pt2", "--output", "b.safetensors"]) == 0
    assert (tmp_path / "b.pt2").stat().st_size <= 30_000
    capsys.readouterr()
    wrong = [
        *arguments,
        "size_mb=30 kB,format=pt2",
        "--output",
        "c.safetensors",
        "--export",
        "onnx",
    ]
    assert main(wrong) == ExitCode.BAD_INPUT
    assert "the format that the size limit is for, pt2" in capsys.readouterr().err
