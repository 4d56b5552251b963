"""Write Keras models for the runtimes that they are deployed on, and run the files."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors

from secateurs.deployment.onnx_files import has_dynamic_batch
from secateurs.deployment.sessions import first_line
from secateurs.errors import ExportError
from secateurs.files import read_bytes, unpack_safetensors
from secateurs.keras.model.example_inputs import as_arrays, pack_inputs
from secateurs.keras.model.tensors import list_tensors
from secateurs.keras.saving import save


def onnx_file(model: keras.Model, path: Path, arrays: Sequence[NDArray[np.generic]]) -> list[str]:
    """Write a model as ONNX with Keras's exporter; return its input names in order.

    Args:
        model: model to export. It is called once, because Keras exports only models that were.
        path: output file.
        arrays: example inputs, in the order of ``model.inputs``.

    Raises:
        ExportError: Keras cannot export the model on this backend; the message gives the reason.
    """
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            model.predict_on_batch(pack_inputs(model, arrays))
            model.export(str(path), format="onnx", verbose=False)
    except Exception as error:
        raise ExportError(
            f"{model.name}: Keras cannot write it as ONNX on this backend: {first_line(error)}"
        ) from error
    import onnx

    return [one.name for one in onnx.load(path, load_external_data=False).graph.input]


def outputs(model: keras.Model, example_inputs: object) -> list[NDArray[np.generic]]:
    """Outputs of the model in inference mode on these inputs, as arrays."""
    arrays = as_arrays(example_inputs, model)
    found = model.predict_on_batch(pack_inputs(model, arrays))
    return [np.asarray(one) for one in keras.tree.flatten(found)]


def input_arrays(model: keras.Model, example_inputs: object) -> list[NDArray[np.generic]]:
    """The inputs as arrays, in the order in which the forward pass takes them."""
    return as_arrays(example_inputs, model)


def write_file(model: keras.Model, path: Path, example_inputs: object, target: str) -> bool:
    """Write the model for a target; return whether the batch size is left dynamic.

    Raises:
        ExportError: Keras cannot export the model on this backend; the message gives the reason.
    """
    if target == "onnx":
        onnx_file(model, path, as_arrays(example_inputs, model))
        return has_dynamic_batch(path)
    if target in ("safetensors", "keras"):
        save(model, path)
        return True
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            form = {"savedmodel": "tf_saved_model", "litert": "litert"}[target]
            model.export(str(path), format=form, verbose=False)
    except Exception as error:
        raise ExportError(
            f"{model.name}: Keras cannot write it for {target} on this backend: {first_line(error)}"
        ) from error
    return True


def run_file(
    model: keras.Model, path: Path, example_inputs: object, target: str
) -> list[NDArray[np.generic]]:
    """Run a written file on these inputs in its own runtime and return the outputs."""
    if target == "keras":
        return outputs(keras.saving.load_model(path), example_inputs)
    if target == "safetensors":
        return outputs(_copy_with_weights(model, path), example_inputs)
    import tensorflow as tf

    arrays = as_arrays(example_inputs, model)
    if target == "savedmodel":
        loaded = tf.saved_model.load(str(path))  # the reference keeps its variables alive
        found = loaded.serve(*arrays)
        return [np.asarray(one) for one in keras.tree.flatten(found)]
    interpreter = tf.lite.Interpreter(str(path))
    for detail, array in zip(interpreter.get_input_details(), arrays, strict=True):
        interpreter.resize_tensor_input(detail["index"], array.shape)  # any batch size
    interpreter.allocate_tensors()
    for detail, array in zip(interpreter.get_input_details(), arrays, strict=True):
        interpreter.set_tensor(detail["index"], array)
    interpreter.invoke()
    return [interpreter.get_tensor(one["index"]) for one in interpreter.get_output_details()]


def _copy_with_weights(model: keras.Model, path: Path) -> keras.Model:
    """Return a copy of the model with the weights in the file."""
    twin = keras.models.clone_model(model)
    state, _ = unpack_safetensors(read_bytes(path), load_tensors)
    for leaf in list_tensors(twin):
        leaf.variable.assign(state[leaf.name])
    return twin
