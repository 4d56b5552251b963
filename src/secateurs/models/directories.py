"""Models in directories that Transformers wrote: ``transformers:DIRECTORY``, ``hf:DIRECTORY``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateurs.errors import ModelError, UnknownNameError

CONFIGURATION = "config.json"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def load_directory(place: Path, options: Mapping[str, Any] | None = None) -> Any:
    """The model in a directory that ``save_pretrained`` wrote, with its weights.

    Args:
        place: the directory. Nothing is looked for anywhere else, and nothing is fetched.
        options: none are taken: the directory says all.

    Raises:
        UnknownNameError: there is no such directory, or Transformers is not installed.
        ModelError: it holds no model, or one whose code is not in Transformers.
    """
    if options:
        raise ModelError(
            f"{place}: expected no options of a model that its directory describes; received "
            f"{', '.join(options)}"
        )
    kind = _architecture(place)
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise UnknownNameError(f"{place}: needs Transformers; pip install transformers") from error
    found = getattr(transformers, kind, None)
    if found is None:
        raise ModelError(
            f"{place / CONFIGURATION}: expected an architecture of this Transformers "
            f"({transformers.__version__}); received {kind!r}. Code that comes with a checkpoint "
            "is not run: build the model yourself, and pass it from Python."
        )
    try:
        return found.from_pretrained(place, local_files_only=True).eval()
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise ModelError(
            f"{place}: cannot be loaded as a {kind}: {' '.join(str(error).split())[:300]}"
        ) from error


def _architecture(place: Path) -> str:
    path = place / CONFIGURATION
    if not path.is_file():
        raise UnknownNameError(
            f"{place}: expected a directory that save_pretrained wrote, with a {CONFIGURATION}; "
            f"received {'one without' if place.is_dir() else 'no directory'}. Models are not "
            "fetched from a hub: download it first, and give the directory."
        )
    if not any((place / name).exists() for name in _WEIGHTS):
        raise ModelError(
            f"{place}: expected weights ({', '.join(_WEIGHTS)}); received a directory without"
        )
    try:
        architectures = json.loads(path.read_bytes()).get("architectures")
        return str(architectures[0])
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise ModelError(
            f"{path}: expected the configuration of a model, with its architectures; {error}"
        ) from error
