"""One small model, cut and exported once for all tests of a file."""

import shutil

import pytest
import torch
from torch import nn

import secateurs as sec


@pytest.fixture(scope="module")
def small():
    """A cut convolutional model, whose normalisations are not the identity."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    layers += [nn.Conv2d(16, 8, 3), nn.BatchNorm2d(8), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    model.train()(3 * torch.randn(32, 3, 8, 8) + 1)
    return sec.prune(model.eval(), torch.randn(1, 3, 8, 8), "macs=0.5")


@pytest.fixture(scope="module")
def onnx_file(small, tmp_path_factory):
    """The model as ONNX, exported once: that takes seconds."""
    folder = tmp_path_factory.mktemp("exported")
    return sec.export(small.model, folder / "small.onnx", torch.randn(1, 3, 8, 8))


@pytest.fixture
def reuse_onnx_file(onnx_file, monkeypatch):
    """Lets an ONNX file that is asked for again be a copy of that one."""
    from secateurs import pytorch

    def copy(model, path, *rest):
        shutil.copy(onnx_file.path, path)
        return True

    monkeypatch.setattr(pytorch, "write_file", copy)
