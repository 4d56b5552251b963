"""Check that a ``.keras`` file loads back as the model that was saved."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.errors import CheckpointError, ModelError
from secateurs.keras.internals import Operation
from secateurs.keras.model.example_inputs import make_inputs, pack_inputs
from secateurs.keras.model.tensors import named_operations
from secateurs.keras.surgery.functions import holds_functions, own_objects
from secateurs.keras.surgery.rebuilding import keep_random_state
from secateurs.keras.surgery.state import find_lost_attributes, is_users


def check_comes_back(model: keras.Model, written: Path, path: Path) -> None:
    """Refuse a ``.keras`` file that would load as a different model.

    The configuration of a Keras layer is complete. A user-defined layer may keep learned state in
    plain attributes, which the file does not store, so a model that has such a layer is loaded back
    and compared with the original. Attributes that do not affect the outputs, such as counters,
    may differ.

    Args:
        model: model that was saved.
        written: temporary file that was written.
        path: final path of the file, for error messages.

    Raises:
        CheckpointError: the file cannot be loaded, or the loaded model gives other outputs.
    """
    mine = [
        (name, layer)
        for name, layer in named_operations(model)
        if is_users(layer) or holds_functions(layer)
    ]
    if not mine:
        return
    again = _read(mine, written, path)
    # Paired by order, not by name: a configuration without the name yields a layer with a new one.
    pairs = zip(named_operations(model), named_operations(again), strict=True)
    differ = [
        one for (name, layer), (_, made) in pairs for one in find_lost_attributes(layer, made, name)
    ]
    if differ and not _outputs_agree(model, again):
        raise CheckpointError(
            f"{path}: expected layers whose get_config() holds everything that their outputs "
            f"depend on; {differ[0]} is different after the file was read back, and so are the "
            "outputs. Return it from get_config(), make it a weight, or save the model as "
            f"{path.with_suffix('.safetensors').name}"
        )


def _read(mine: list[tuple[str, Operation]], written: Path, path: Path) -> keras.Model:
    """Load a written file, with the users' classes and functions known by name."""
    names: dict[str, object] = {}
    for _, layer in mine:
        names |= own_objects(layer)
    try:
        # This process has just written the file itself, so its lambdas can be trusted.
        with keras.saving.custom_object_scope(names), keep_random_state():
            return keras.saving.load_model(written, compile=False, safe_mode=False)
    except Exception as error:
        message = " ".join(str(error).split())[:200]
        kind = type(mine[0][1]).__name__
        remedy = (
            f"Give {kind} a complete get_config()"
            if is_users(mine[0][1])
            else "Use an activation that Keras knows by name"
        )
        raise CheckpointError(
            f"{path}: expected layers that Keras can rebuild from a .keras file; reading it back "
            f"raised {type(error).__name__}: {message}. {remedy}, or save the model as "
            f"{path.with_suffix('.safetensors').name}"
        ) from error


def _outputs_agree(model: keras.Model, again: keras.Model) -> bool:
    """Return whether both give the same outputs on generated inputs; False if none can be made."""
    try:
        arrays = make_inputs(model, {})
    except ModelError:
        return False
    ones, others = (_run(one, arrays) for one in (model, again))
    return all(
        np.allclose(
            one, other, rtol=1e-4, atol=1e-4 * max(np.abs(one).max(), 1e-30), equal_nan=True
        )
        for one, other in zip(ones, others, strict=True)
        if one.size
    )


def _run(model: keras.Model, arrays: list[NDArray[np.generic]]) -> list[NDArray[np.generic]]:
    given = [keras.ops.convert_to_tensor(array) for array in arrays]
    outputs = model(pack_inputs(model, given), training=False)
    return [
        np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(one, "float32")))
        for one in keras.tree.flatten(outputs)
    ]
