"""ONNX files are folded and give the same outputs."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from secateurs.deployment import onnx_files


def in_onnxruntime(path, x):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def test_normalisations_are_folded_where_a_convolution_is_read_by_nothing_else(tmp_path):
    lots = np.random.default_rng(0)

    def tensor(name, *shape, low=-1.0):
        return numpy_helper.from_array(lots.uniform(low, 1, shape).astype(np.float32), name)

    def info(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)

    values = [tensor("w", 4, 3, 3, 3), tensor("b", 4)]
    norms = []
    for n in (1, 2):
        values += [tensor(f"{p}{n}", 4) for p in ("scale", "shift", "mean")]
        values.append(tensor(f"variance{n}", 4, low=0.1))
        norms.append([f"{p}{n}" for p in ("scale", "shift", "mean", "variance")])
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c1"]),
        helper.make_node("BatchNormalization", ["c1", *norms[0]], ["n1"], epsilon=1e-2),
        helper.make_node("Conv", ["x", "w"], ["c2"]),
        helper.make_node("BatchNormalization", ["c2", *norms[1]], ["n2"]),
        helper.make_node("Add", ["c2", "n2"], ["a"]),  # it reads what the normalisation does
        helper.make_node("Add", ["n1", "a"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [info("x")], [info("y")], values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    onnx.save(model, before)
    assert onnx_files.fold_(model) == 1
    onnx.save(model, after)
    x = torch.randn(2, 3, 6, 6)
    assert in_onnxruntime(after, x) == pytest.approx(in_onnxruntime(before, x), abs=1e-5)
    assert [n.op_type for n in model.graph.node].count("BatchNormalization") == 1
    assert "b" not in {one.name for one in model.graph.initializer}
