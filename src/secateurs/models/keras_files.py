"""Keras models in ``.keras`` files, as models by name."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateurs.arguments import takes_as_annotated
from secateurs.backends import backend_named
from secateurs.data.normalisation import Preprocessing
from secateurs.errors import CheckpointError, ModelError, UnknownNameError
from secateurs.files import KERAS_SUFFIX

_OF_BYTES = 1 / 255
_SCALE_OF_BYTES = 0.01
"""Largest scale of a rescaling that is for pixels of 0 to 255: it leaves them below three."""

_BACKENDS = ("tensorflow", "torch", "jax")
"""Keras's backends, its own default first."""


@takes_as_annotated(UnknownNameError)
def is_keras_file(name: str) -> bool:
    """Whether ``name`` is the path of a saved Keras model."""
    return name.endswith(KERAS_SUFFIX)


def open_keras_file(name: str, options: Mapping[str, Any]) -> Any:
    """Load the model in a ``.keras`` file, compiled as it was saved, with the cut inside it.

    Args:
        name: path of the file.
        options: options of the model, of which there must be none: it is built already.

    Raises:
        ModelError: there are options, Keras is not installed, or the file cannot be loaded.
        UnknownNameError: there is no such file.
    """
    if options:
        raise ModelError(
            f"{name}: expected no options of the model, which is built already; received "
            f"{', '.join(options)}"
        )
    if not Path(name).exists():
        raise UnknownNameError(f"{name}: no such file")
    _choose_backend()
    try:
        import keras  # noqa: F401 - tells whether it is there, before its models are opened
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{name}: needs Keras with one of {', '.join(_BACKENDS)} ({error.name!r} is not "
            "installed); pip install 'secateurs[keras]'"
        ) from error
    try:
        return backend_named("keras").load(None, name)
    except CheckpointError as error:
        raise ModelError(f"{name}: cannot be read as a Keras model: {error}") from error


def _choose_backend() -> None:
    """Name the backend that is installed, where Keras would look for one that is not."""
    if "KERAS_BACKEND" in os.environ or "keras" in sys.modules:
        return
    wished = (_configured_backend() or _BACKENDS[0], *_BACKENDS)
    found = next((name for name in wished if importlib.util.find_spec(name) is not None), None)
    if found is not None:
        os.environ["KERAS_BACKEND"] = found


def _configured_backend() -> str | None:
    """The backend that the user's ``keras.json`` names."""
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        named = json.loads((home / "keras.json").read_bytes()).get("backend")
    except (OSError, ValueError, AttributeError):
        return None
    return named if named in _BACKENDS else None


def preprocessing_in(name: str) -> Preprocessing | None:
    """The pixels that a model expects which begins by rescaling them from 0 to 255.

    Only the configuration in the file is read; no model is built.

    Args:
        name: path of the ``.keras`` file.

    Returns:
        The normalisation that leaves pixels between 0 and 255, and the images' size if the model
        has one; None for a model that does not rescale them, and for a file that cannot be read.
    """
    layers = _layers_in(name)
    try:
        first = layers[1]
        scale = float(first["config"]["scale"]) if first["class_name"] == "Rescaling" else 1.0
    except (ValueError, KeyError, IndexError, TypeError):
        return None  # building the model reports what is wrong with its file
    if scale > _SCALE_OF_BYTES:
        return None
    source = f"the rescaling that {name} begins with"
    return Preprocessing((0.0,), (_OF_BYTES,), image_size_in(name), 1.0, source)


def image_size_in(name: str) -> int | None:
    """The side of the square images that a model in a ``.keras`` file takes; None for others.

    Args:
        name: path of the ``.keras`` file, of which only the configuration is read.
    """
    inputs = [layer for layer in _layers_in(name) if layer.get("class_name") == "InputLayer"]
    try:
        (shape,) = (one["config"]["batch_shape"] for one in inputs)
        _, first, side, last = shape
    except (ValueError, KeyError, TypeError):
        return None
    # The second of three numbers is a side of the image in either layout.
    return side if side is not None and side in (first, last) else None


def _layers_in(name: str) -> list[Any]:
    """The configurations of a file's layers; none where it cannot be read."""
    try:
        with zipfile.ZipFile(name) as archive:
            layers = json.loads(archive.read("config.json"))["config"]["layers"]
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError):
        return []
    return [layer for layer in layers if isinstance(layer, dict)]
