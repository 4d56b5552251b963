import numpy as np
import pytest

from secateurs.deployment.sessions import first_line, onnx_session
from secateurs.errors import MeasurementError
from secateurs.measurement.conditions import Conditions

onnx = pytest.importorskip("onnx")
RUNTIME = Conditions(runtime="onnxruntime", threads=1)


def build_onnx():
    """y = 2 x + 1, and z = -y, written node by node."""
    from onnx import TensorProto, helper, numpy_helper

    def info(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2])

    values = [
        numpy_helper.from_array(np.array(v, np.float32), name) for v, name in ((2, "a"), (1, "b"))
    ]
    nodes = [
        helper.make_node("Mul", ["x", "a"], ["t"]),
        helper.make_node("Add", ["t", "b"], ["y"]),
        helper.make_node("Neg", ["y"], ["z"]),
    ]
    graph = helper.make_graph(nodes, "g", [info("x")], [info("y"), info("z")], values)
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_file_or_its_content_is_run_by_the_names_of_its_inputs(runtime, tmp_path):
    pytest.importorskip(runtime)
    content = build_onnx()
    (tmp_path / "a.onnx").write_bytes(content)
    x = np.array([[1.0, -2.0], [0.5, 3.0]], np.float32)
    for source in (content, tmp_path / "a.onnx"):
        first, second = onnx_session(source, Conditions(runtime=runtime, threads=1))({"x": x})
        np.testing.assert_allclose(first, 2 * x + 1)
        np.testing.assert_allclose(second, -(2 * x + 1))


def test_what_cannot_be_run_is_told_in_one_line():
    pytest.importorskip("onnxruntime")
    with pytest.raises(MeasurementError, match="onnxruntime: cannot run the model: ") as raised:
        onnx_session(b"nothing", RUNTIME)
    assert "\n" not in str(raised.value)
    half = Conditions(runtime="onnxruntime", dtype="float16")
    with pytest.raises(MeasurementError, match="expected dtype float32; received float16"):
        onnx_session(build_onnx(), half)


def test_the_first_line_of_an_error():
    assert first_line(ValueError("\n  a b \nc")) == "a b"
    assert first_line(KeyError()) == "KeyError"
    assert first_line(ValueError("x" * 400)) == "x" * 300
