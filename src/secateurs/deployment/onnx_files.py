"""Post-processing of ONNX files: folding batch normalisation, metadata, half precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.cut import Cut
from secateurs.channels.file_size import METADATA_KEY
from secateurs.errors import ExportError


def finish_(path: Path, cut: Cut, *, halve: bool = False) -> int:
    """Fold batch normalisation into convolutions, and write the cut into the metadata.

    Args:
        path: path of an ONNX file, which is changed.
        cut: what was removed from the model.
        halve: whether to store weights in half precision.

    Returns:
        Number of folded normalisations.
    """
    import onnx

    model = onnx.load(path)
    folded = fold_(model)
    if halve:
        halve_(model)
    for key, value in (("framework", METADATA_KEY), (METADATA_KEY, cut.to_json())):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    try:
        onnx.save(model, path)
    except ValueError as error:  # protobuf's size limit
        raise ExportError(
            f"{path.name}: a single ONNX file is limited to 2 GB; this model is larger"
        ) from error
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)  # external data is inlined now
    return folded


def halve_(model: Any) -> int:
    """Store weights in half precision, with casts where they are read; returns their number.

    Runtimes evaluate casts of constants once, when they load a file. So the file is half as large,
    while computation and its speed are those of single precision, on any processor.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    casts = []
    for one in list(graph.initializer):
        if one.data_type != TensorProto.FLOAT:
            continue
        array = numpy_helper.to_array(one)
        if array.ndim == 0 or not np.all(np.abs(array) <= np.finfo(np.float16).max):
            continue
        name = f"{one.name}_half"
        graph.initializer.append(numpy_helper.from_array(array.astype(np.float16), name))
        graph.initializer.remove(one)
        casts.append(helper.make_node("Cast", [name], [one.name], to=TensorProto.FLOAT))
    for place, node in enumerate(casts):  # nodes must precede their readers
        graph.node.insert(place, node)
    return len(casts)


def fold_(model: Any) -> int:
    """Fold each batch normalisation that alone follows a convolution; returns their number.

    y = scale (w x + b - mean) / sqrt(variance + epsilon) + shift is a convolution again.
    """
    from onnx import numpy_helper

    graph = model.graph
    values = {one.name: one for one in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(output.name for output in graph.output)
    makers = {name: node for node in graph.node for name in node.output}
    folded = 0
    for node in list(graph.node):
        source = makers.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if source is None or source.op_type != "Conv" or readers[node.input[0]] != 1:
            continue
        if any(name not in values for name in (*node.input[1:5], *source.input[1:])):
            continue
        names = [f"{source.input[1]}_folded_{folded}", f"{source.input[1]}_shift_{folded}"]
        for name, array in zip(names, _fold_nodes(source, node, values), strict=True):
            values[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
            graph.initializer.append(values[name])
        del source.input[1:]
        source.input.extend(names)
        source.output[0] = node.output[0]
        makers[node.output[0]] = source
        graph.node.remove(node)
        folded += 1
    _drop_unread(graph)
    return folded


def _fold_nodes(
    convolution: Any, norm: Any, values: Mapping[str, Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Weight and bias of a convolution with the normalisation behind it folded in."""
    from onnx import numpy_helper

    scale, shift, mean, variance = (numpy_helper.to_array(values[name]) for name in norm.input[1:5])
    epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
    weight = numpy_helper.to_array(values[convolution.input[1]])
    bias: NDArray[Any] = np.zeros(len(weight), weight.dtype)
    if len(convolution.input) > 2:
        bias = numpy_helper.to_array(values[convolution.input[2]])
    return _fold(weight, bias, scale, shift, mean, variance, epsilon)


def _fold(
    weight: NDArray[Any],
    bias: NDArray[Any],
    scale: NDArray[Any],
    shift: NDArray[Any],
    mean: NDArray[Any],
    variance: NDArray[Any],
    epsilon: float,
) -> tuple[NDArray[Any], NDArray[Any]]:
    factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
    shaped = factor.reshape(-1, *[1] * (weight.ndim - 1))
    return (
        (weight * shaped).astype(weight.dtype),
        ((bias - mean) * factor + shift).astype(weight.dtype),
    )


def _drop_unread(graph: Any) -> None:
    read = {name for node in graph.node for name in node.input}
    for one in list(graph.initializer):
        if one.name not in read:
            graph.initializer.remove(one)


def input_names(path: Path) -> list[str]:
    """Names of a file's inputs, in order."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    inside = {one.name for one in graph.initializer}
    return [one.name for one in graph.input if one.name not in inside]


def has_dynamic_batch(path: Path) -> bool:
    """Whether the first axis of every input is dynamic."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    inside = {one.name for one in graph.initializer}
    shapes = [one.type.tensor_type.shape for one in graph.input if one.name not in inside]
    return all(not shape.dim or not shape.dim[0].HasField("dim_value") for shape in shapes)


def cut_inside(path: Path) -> Cut:
    """Read the cut from an ONNX file's metadata; an empty cut if there is none."""
    import onnx

    metadata = {
        one.key: one.value for one in onnx.load(path, load_external_data=False).metadata_props
    }
    return Cut.from_json(metadata[METADATA_KEY]) if METADATA_KEY in metadata else Cut()
