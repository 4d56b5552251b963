import numpy as np
import onnx
import pytest
import torch

import secateurs as sec
from support.onnx_runs import in_onnxruntime


@pytest.mark.usefixtures("reuse_onnx_file")
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
