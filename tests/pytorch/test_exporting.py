"""Exported PyTorch models; what an exporter lacks or refuses is named."""

import pytest
import torch
from torch import nn

import secateurs as sec


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


@pytest.mark.parametrize(("name", "package"), [("odd.onnx", "onnx"), ("odd.xml", "openvino")])
def test_export_failures_are_one_line_and_print_nothing(name, package, tmp_path, capfd):
    pytest.importorskip(package, reason=f"pip install {package}")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Bessel())
    with pytest.raises(sec.ExportError, match=r"special_bessel_j0.*layer '1'") as caught:
        sec.export(model, tmp_path / name, torch.randn(1, 3, 8, 8))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
