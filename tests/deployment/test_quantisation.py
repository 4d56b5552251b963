import shutil

import numpy as np
import onnx
import onnxruntime
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
def exported(small, tmp_path_factory):
    """The model as ONNX, exported once: that takes seconds."""
    folder = tmp_path_factory.mktemp("exported")
    return sec.export(small.model, folder / "small.onnx", torch.randn(1, 3, 8, 8))


@pytest.fixture
def written_already(exported, monkeypatch):
    """Lets an ONNX file that is asked for again be a copy of that one."""
    from secateurs import pytorch

    def copy(model, path, *rest):
        shutil.copy(exported.path, path)
        return True

    monkeypatch.setattr(pytorch, "write_file", copy)


def in_onnxruntime(path, x):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


@pytest.mark.usefixtures("written_already")
def test_eight_bits_are_smaller_and_nearly_the_same(small, tmp_path):
    images = np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)
    with torch.no_grad():
        labels = small.model(torch.from_numpy(images)).argmax(1).numpy()
    made = sec.export(small.model, tmp_path / "s.onnx", images[:1], int8=(images, labels))
    assert made.int8.path.name == "s-int8.onnx"
    kinds = {n.op_type for n in onnx.load(made.int8.path).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} & kinds or "QLinearConv" in kinds
    right = (in_onnxruntime(made.int8.path, torch.from_numpy(images)).argmax(1) == labels).mean()
    assert made.int8.accuracy == (1.0, pytest.approx(right))
    assert made.int8.agreement == pytest.approx(right)
    assert right > 0.8
    assert made.int8.timing.ratio > 0
    with pytest.raises(sec.ExportError, match=r"int8: expected an ONNX file"):
        sec.export(small.model, tmp_path / "s.pt2", images[:1], int8=images)
    with pytest.raises(sec.DataError, match="int8: expected images to calibrate with"):
        sec.export(small.model, tmp_path / "t.onnx", images[:1], int8=images[:0])
