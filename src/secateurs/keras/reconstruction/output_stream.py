"""Outputs of Keras models as arrays, and copies of models that a repair may change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.calibration.batches import CalibrationBatch, iterate_batches
from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
from secateurs.channels.proof import keep_report_, report_of
from secateurs.keras.internals import without_gradients
from secateurs.keras.model.example_inputs import as_arrays, check_model
from secateurs.keras.model.tensors import list_tensors
from secateurs.keras.protocols import BackendTensor
from secateurs.keras.reconstruction.program import as_numbers
from secateurs.keras.statistics.cut_evaluation import recalibrate_
from secateurs.keras.surgery.rebuilding import cut_copy, finalize_
from secateurs.keras.tracing.interpreter import (
    CallSite,
    OpInterpreter,
    RunStep,
    as_it_is,
    call_layer,
    convert_arrays,
    first_tensor,
)
from secateurs.reconstruction.calibration import furthest_from_training

HALF = ("float16", "bfloat16")


def outputs(
    model: keras.Model, batches: Sequence[CalibrationBatch]
) -> Iterator[list[NDArray[np.float32]]]:
    """Floating-point outputs of a model in inference mode, batch by batch."""
    model = check_model(model)
    for batch in batches:
        found = _run(model, batch, as_it_is)
        yield [as_numbers(one) for one in found if keras.backend.is_float_dtype(one.dtype)]


def _run(model: keras.Model, batch: CalibrationBatch, step: RunStep) -> list[BackendTensor]:
    with without_gradients():
        tensors = convert_arrays(model, as_arrays(batch.images, model))
        return OpInterpreter(step).run(model, tensors)


def copy_of(model: keras.Model) -> keras.Model:
    """An independent copy, compiled alike, with the evidence of the model's cut."""
    new = cut_copy(model, Cut())
    keep_report_(new, report_of(model))
    return new


def arrays(model: keras.Model) -> dict[str, NDArray[np.generic]]:
    """Every tensor of a model by its first name; half precision becomes single."""
    return {leaf.name: leaf.array() for leaf in list_tensors(check_model(model))}


def working_copy(
    model: keras.Model,
    example_inputs: object,
    used: tuple[str, ...] | None = None,
    *,
    is_by_values: bool = False,
) -> tuple[keras.Model, object]:
    """(a private copy in at least single precision, the example inputs for it).

    ``used`` and ``is_by_values`` are ignored: all outputs of a Keras model are in use, and its
    graph does not depend on values.
    """
    del used, is_by_values
    return cut_copy(check_model(model), Cut(), compiled=False, dtype=_precise), example_inputs


def last_layers_of(model: keras.Model) -> tuple[str, ...]:
    """No names: a working copy returns the model's outputs."""
    del model
    return ()


def first_example(model: keras.Model, data: Any) -> tuple[Any, Any] | None:
    """None: a Keras model takes arrays."""
    del model, data
    return None


def read_images(network: Network, data: Any, caller: str) -> list[CalibrationBatch]:
    """Checked calibration batches in memory.

    Args:
        network: network of the dense model.
        data: data as for ``secateurs.calibration.batches.iterate_batches``.
        caller: name of what needs the data, for messages.

    Raises:
        DataError: the data cannot be used.
    """
    source: Any = network.source
    return list(iterate_batches(data, source.example_inputs, caller, labels=False))


def _precise(policy: str) -> str:
    """Return float32 in place of a dtype policy of half precision."""
    return "float32" if any(half in policy for half in HALF) else policy


def copy_weights_(source: keras.Model, target: keras.Model) -> None:
    """Copy a model's values into another model, in the other's dtypes."""
    theirs = {leaf.name: leaf for leaf in list_tensors(source)}
    for leaf in list_tensors(target):
        if keras.backend.is_float_dtype(leaf.variable.dtype):
            leaf.variable.assign(
                keras.ops.cast(theirs[leaf.name].variable.value, leaf.variable.dtype)
            )
    finalize_(target)


def reestimate_moments(
    model: keras.Model, batches: Sequence[CalibrationBatch]
) -> keras.Model | None:
    """A copy with re-estimated batch-normalisation statistics; None where there is none."""
    if not any(name.endswith(".moving_mean") for name in arrays(model)):
        return None
    twin = cut_copy(model, Cut(), compiled=False)
    keep_report_(twin, report_of(model))
    with without_gradients():
        recalibrate_(twin, batches)
    return twin


def unlike_calibration(
    model: keras.Model, batches: Sequence[CalibrationBatch]
) -> tuple[float, str] | None:
    """Distance of these images from what batch normalisation saw in training.

    Returns:
        (distance, layer) of the layer with the largest distance: the mean over channels of the
        squared difference of means, relative to the moving variance. None where no layer has
        moving means.
    """
    sums: dict[str, list[tuple[NDArray[np.float64], int]]] = {}
    norms: dict[str, keras.layers.BatchNormalization] = {}

    def watch(site: CallSite, arguments: Sequence[object], keywords: dict[str, object]) -> object:
        layer = site.operation
        if isinstance(layer, keras.layers.BatchNormalization):
            x = np.moveaxis(
                as_numbers(first_tensor(arguments, keywords)).astype(np.float64), layer.axis, -1
            )
            flat = x.reshape(-1, x.shape[-1])
            norms[site.path] = layer
            sums.setdefault(site.path, []).append((flat.sum(axis=0), len(flat)))
        return call_layer(layer, arguments, keywords)

    for batch in batches:
        _run(model, batch, watch)
    trained = {
        path: (
            as_numbers(norm.moving_mean).astype(np.float64),
            as_numbers(norm.moving_variance).astype(np.float64) + norm.epsilon,
        )
        for path, norm in norms.items()
    }
    return furthest_from_training(sums, trained)
