"""Exported PyTorch models; what an exporter lacks or refuses is named."""

import pytest
import torch
from torch import nn

import secateurs as sec
import torchvision_on_cpu
from support.detectors import batches, retina


def test_an_operation_that_no_exporter_takes_is_named(tmp_path):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return torch.linalg.eigvals(self.layer(x)).real

    with pytest.raises(sec.ExportError, match=r"linalg_eig"):
        sec.export(Odd(), tmp_path / "odd.onnx", torch.randn(4, 4))
    assert not list(tmp_path.iterdir())


class Bessel(nn.Module):
    """An operation of PyTorch's that no runtime has."""

    def forward(self, x):
        return torch.special.bessel_j0(x)


def test_the_layer_of_an_operation_that_an_exporters_message_names_is_found():
    from secateurs.pytorch.exporting import name_layer

    model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.ReLU(), Bessel()), nn.Linear(8, 2))
    message = "Exporting the operator 'aten::special_bessel_j0' is not supported"
    found = name_layer(model.eval(), (torch.rand(2, 4),), {}, message)
    assert found == " (special_bessel_j0 is in the layer '1.1')"
    assert name_layer(model, (torch.rand(2, 4),), {}, "no space left") == ""


def test_a_package_that_an_exporter_misses_is_answered_with_the_command(tmp_path, monkeypatch):
    """Executorch's own partitioner imports torchao, which an installation may lack."""
    from secateurs.pytorch import exporting

    def miss(*_):
        raise ModuleNotFoundError("No module named 'torchao'", name="torchao")

    monkeypatch.setattr("secateurs.deployment.targets.importlib.util.find_spec", lambda _: True)
    monkeypatch.setattr(exporting, "write_executorch", miss)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU()).eval()
    message = r"executorch: needs the package 'torchao'.*Install it: pip install executorch"
    with pytest.raises(sec.ExportError, match=message):
        sec.export(model, tmp_path / "a.pte", torch.rand(2, 4))


@pytest.fixture(params=[False, True], ids=["fresh", "after an export that left its log on"])
def onnx_log(request):
    was = torch._C._jit_is_onnx_log_enabled()
    torch._C._jit_set_onnx_log_enabled(request.param)
    yield
    torch._C._jit_set_onnx_log_enabled(was)


@pytest.mark.usefixtures("onnx_log")
@pytest.mark.parametrize(("name", "package"), [("odd.onnx", "onnx"), ("odd.xml", "openvino")])
def test_export_failures_are_one_line_and_print_nothing(name, package, tmp_path, capfd):
    pytest.importorskip(package, reason=f"pip install {package}")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Bessel())
    with pytest.raises(sec.ExportError, match=r"special_bessel_j0.*layer '1'") as caught:
        sec.export(model, tmp_path / name, torch.randn(1, 3, 8, 8))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_detector_is_exported_with_its_choice_of_boxes(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    torchvision_on_cpu.let_detectors_run()
    torch.manual_seed(0)
    model = retina().eval()
    model.score_thresh = 0.7
    for module in model.modules():  # heads start with weights that give equal scores everywhere
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    ((image, *others), _), *_ = batches(1)
    made = sec.export(model, tmp_path / "small.onnx", ([image],))
    assert made.max_difference < 1e-4
    assert not made.dynamic_batch
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx")
    for other in (image, *others, 0.3 * image):
        boxes, *_ = session.run(None, {session.get_inputs()[0].name: other.numpy()})
        (expected,) = model([other])
        assert boxes == pytest.approx(expected["boxes"].detach().numpy(), abs=1e-3)
