"""Exported files give the model's outputs in their runtime, or are not written."""

import resource

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs.deployment import exporter, onnx_files
from support.onnx_runs import in_onnxruntime


def test_an_onnx_file_does_what_the_model_does_for_any_batch(small, onnx_file):
    made, path = onnx_file, onnx_file.path
    assert made.dynamic_batch
    assert made.max_difference < 1e-5
    assert made.bytes == path.stat().st_size
    for batch in (1, 5):
        x = torch.randn(batch, 3, 8, 8)
        with torch.no_grad():
            expected = small.model(x).numpy()
        assert in_onnxruntime(path, x) == pytest.approx(expected, abs=1e-5)
    model = onnx.load(path)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert onnx_files.cut_inside(path) == small.cut
    assert [one.name for one in path.parent.iterdir()] == ["small.onnx"]


@pytest.mark.parametrize("name", ["small.pt2", "small.safetensors"])
def test_other_files_are_read_back_and_compared(small, tmp_path, name):
    x = torch.randn(2, 3, 8, 8)
    made = sec.export(small.model, tmp_path / name, x)
    assert made.max_difference == 0
    assert made.dynamic_batch
    if name.endswith("pt2"):
        again = torch.export.load(tmp_path / name).module()
        assert torch.equal(again(x[:1].repeat(7, 1, 1, 1))[:1], again(x[:1].repeat(3, 1, 1, 1))[:1])


@pytest.mark.usefixtures("reuse_onnx_file")
def test_openvino_does_what_the_model_does(small, tmp_path):
    openvino = pytest.importorskip("openvino")
    x = torch.randn(2, 3, 8, 8)
    made = sec.export(small.model, tmp_path / "small.xml", x)
    assert made.max_difference < 1e-5
    assert {one.name for one in tmp_path.iterdir()} == {"small.xml", "small.bin"}
    compiled = openvino.compile_model(
        tmp_path / "small.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    with torch.no_grad():
        assert compiled(x.numpy())[0] == pytest.approx(small.model(x).numpy(), abs=1e-5)


def test_a_file_with_other_outputs_is_not_written(small, tmp_path, monkeypatch):
    from secateurs import pytorch

    def wrong(model, path, *rest):
        state = {name: tensor * 1.1 for name, tensor in model.state_dict().items()}
        sec.save(small.model, path)
        from safetensors.torch import save_file

        save_file(state, path)
        return True

    monkeypatch.setattr(pytorch, "write_file", wrong)
    with pytest.raises(sec.ExportError, match="expected outputs of safetensors within"):
        sec.export(small.model, tmp_path / "small.safetensors", torch.randn(1, 3, 8, 8))
    assert not list(tmp_path.iterdir())


def test_existing_files_are_kept_unless_overwriting_is_allowed(small, tmp_path):
    place = tmp_path / "small.safetensors"
    place.write_text("precious")
    x = torch.randn(1, 3, 8, 8)
    with pytest.raises(sec.ExportError, match="exists already; replace it with overwrite=True"):
        sec.export(small.model, place, x)
    assert place.read_text() == "precious"
    assert sec.export(small.model, place, x, overwrite=True).max_difference == 0


@pytest.mark.parametrize(
    ("name", "to", "message"),
    [
        ("small.tflite", None, r"needs the package 'litert_torch'.*pip install litert-torch"),
        ("small.pte", None, r"needs the package 'executorch'.*pip install executorch"),
        ("small.mlpackage", "coreml", r"needs the package 'coremltools'.*pip install coremltools"),
        ("small.keras", None, r"expected a model of keras; received one of pytorch"),
        ("small.bin", None, r"expected a name that ends in one of \.onnx"),
        ("small.onnx", "onyx", r"no target is called 'onyx'; did you mean 'onnx'"),
        ("small.pt", "pt2", r"expected a name that ends in \.pt2.*Call it small\.pt2"),
    ],
)
def test_impossible_exports_are_answered(small, tmp_path, monkeypatch, name, to, message):
    monkeypatch.setattr(
        "secateurs.deployment.targets.importlib.util.find_spec", lambda module: None
    )
    with pytest.raises(sec.ExportError, match=message):
        sec.export(small.model, tmp_path / name, torch.randn(1, 3, 8, 8), to=to)


def test_a_read_only_directory_is_reported(small, tmp_path, monkeypatch):
    def refuse(**options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(exporter.tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(sec.ExportError, match="cannot be written: Read-only file system"):
        sec.export(small.model, tmp_path / "a.pt2", torch.randn(1, 3, 8, 8))


@pytest.mark.parametrize("name", ["a.onnx", "a.xml", "a.pt2", "a.safetensors"])
@pytest.mark.parametrize("share", [0.01, 0.9])
def test_a_full_disk_is_reported_and_nothing_is_left(share, name, tmp_path):
    if name == "a.xml":
        pytest.importorskip("openvino")
    model = nn.Sequential(nn.Linear(50, 400), nn.ReLU(), nn.Linear(400, 100)).eval()
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * size), before[1]))
    try:
        with pytest.raises(sec.ExportError) as caught:
            sec.export(model, tmp_path / name, torch.randn(2, 50))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(caught.value).startswith(f"{tmp_path / name}: cannot be written: File too large")
    assert not list(tmp_path.iterdir())


class Deciding(nn.Module):
    """Gives one thing or another, by the sum of its input."""

    def forward(self, x):
        return x if x.sum() > 0 else 2 * x


@pytest.mark.parametrize("name", ["a.onnx", "a.pt2"])
def test_what_an_exporter_decided_for_the_example_inputs_is_not_written(tmp_path, name):
    """The older exporter to ONNX follows one run, and keeps what that decided."""
    model = nn.Sequential(nn.Identity(), Deciding()).eval()
    message = {
        "a.onnx": "on the same inputs with the opposite sign",
        "a.pt2": r"\(in the layer '1'\)",
    }
    with pytest.raises(sec.ExportError, match=message[name]):
        sec.export(model, tmp_path / name, torch.rand(2, 4))
    assert not list(tmp_path.iterdir())


def test_a_file_that_fails_where_the_model_does_not_is_not_written(tmp_path, monkeypatch):
    from secateurs import pytorch

    run_file = pytorch.run_file

    def fail_below_zero(model, path, inputs, target):
        if inputs.min() < 0:
            raise RuntimeError("a guard that was written down")
        return run_file(model, path, inputs, target)

    monkeypatch.setattr(pytorch, "run_file", fail_below_zero)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval()
    with pytest.raises(sec.ExportError, match="differs"):
        sec.export(model, tmp_path / "a.pt2", torch.rand(2, 4))
    assert not list(tmp_path.iterdir())


class Positive(nn.Module):
    """Wants numbers above 0, of which it takes the root."""

    def forward(self, x):
        if not torch.compiler.is_exporting():
            assert (x > 0).all()
        return x.sqrt()


def test_inputs_that_a_model_is_not_meant_for_say_nothing_of_its_file(tmp_path):
    made = sec.export(Positive().eval(), tmp_path / "a.pt2", torch.rand(2, 4) + 0.1)
    assert made.max_difference == 0


def test_the_sign_changes_of_broken_numbers_alone():
    given = {"x": [torch.tensor([1.5, -2.0])], "n": (np.array([3]), np.array([True]), None)}
    made = exporter.negate(given)
    assert made["x"][0].tolist() == [-1.5, 2.0]
    assert made["n"][0].tolist() == [3]
    assert made["n"][1:] == given["n"][1:]
