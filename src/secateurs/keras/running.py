"""Callables that time Keras models: eager, compiled, or exported to ONNX for another runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.deployment.sessions import onnx_session
from secateurs.errors import MeasurementError
from secateurs.keras.exporting import onnx_file
from secateurs.keras.model.example_inputs import as_arrays, check_model, pack_inputs
from secateurs.measurement.conditions import Conditions
from secateurs.training.memory import explain_no_room


def runner(
    model: keras.Model, example_inputs: object, conditions: Conditions
) -> Callable[[], object]:
    """A callable that runs the model once under these conditions and synchronises.

    Args:
        model: model to run, in inference mode; unchanged.
        example_inputs: inputs of the model.
        conditions: runtime and batch size. "eager" calls the model; "compile" uses the backend's
            compiled ``predict_on_batch``. Threads, device and dtype are those Keras is set to.

    Raises:
        MeasurementError: Keras cannot run the model under these conditions.
    """
    model = check_model(model)
    with explain_no_room(conditions.batch):
        arrays = [_repeat(one, conditions.batch) for one in as_arrays(example_inputs, model)]
    if conditions.runtime in ("onnxruntime", "openvino"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            names = onnx_file(model, path, arrays)
            session = onnx_session(path.read_bytes(), conditions)
        feeds = dict(zip(names, arrays, strict=True))
        return lambda: session(feeds)
    if conditions.runtime == "channels-last" or conditions.dtype != "float32":
        raise MeasurementError(
            f"{conditions}: expected runtime eager, compile, onnxruntime or openvino and dtype "
            "float32 for a Keras model, whose memory order and type are its own"
        )
    given = pack_inputs(model, arrays)
    if conditions.runtime == "compile":
        return lambda: model.predict_on_batch(given)
    tensors = keras.tree.map_structure(keras.ops.convert_to_tensor, given)
    call = _without_gradients(lambda: model(tensors, training=False))
    # Reading a number back synchronises backends that compute asynchronously.
    return lambda: [
        keras.ops.convert_to_numpy(one).ravel()[:1] for one in keras.tree.flatten(call())
    ]


def batch_size(example_inputs: object, conditions: Conditions) -> int:
    """Number of examples in one call under these conditions."""
    if conditions.batch is not None:
        return conditions.batch
    leaves = keras.tree.flatten(example_inputs)
    return int(np.shape(leaves[0])[0]) if leaves and np.ndim(leaves[0]) else 1


def _repeat(array: NDArray[np.generic], batch: int | None) -> NDArray[np.generic]:
    if batch is None or array.ndim == 0 or len(array) == batch:
        return array
    return np.concatenate([array] * -(-batch // len(array)))[:batch]


def _without_gradients(call: Callable[[], object]) -> Callable[[], object]:
    if keras.backend.backend() != "torch":
        return call
    import torch

    def run() -> object:
        with torch.no_grad():
            return call()

    return run
