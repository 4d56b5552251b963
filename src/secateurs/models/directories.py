"""Models in directories saved by Transformers: ``transformers:DIRECTORY``, ``hf:DIRECTORY``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateurs.errors import ModelError, UnknownNameError

CONFIGURATION = "config.json"
_CUT, _PER_LAYER = "secateurs_cut", "per_layer_config"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def load_directory(place: Path, options: Mapping[str, Any] | None = None) -> Any:
    """Load the model in a directory that ``save_pretrained`` wrote, with its weights.

    Args:
        place: the directory. Nothing outside it is read, and nothing is downloaded.
        options: must be empty: the directory defines everything.

    Raises:
        UnknownNameError: there is no such directory, or Transformers is not installed.
        ModelError: it holds no model, or one whose code is not part of Transformers.
    """
    if options:
        raise ModelError(
            f"{place}: expected no options of a model that its directory describes; received "
            f"{', '.join(options)}"
        )
    kind = _architecture(place)
    plain = json.loads((place / CONFIGURATION).read_bytes())
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
    if _CUT in plain:
        return _load_cut(found, place, plain)
    try:
        return found.from_pretrained(place, local_files_only=True).eval()
    except Exception as error:  # its validators raise exceptions of their own
        raise ModelError(
            f"{place}: cannot be loaded as a {kind}: {' '.join(str(error).split())[:300]}"
        ) from error


def _load_cut(kind: Any, place: Path, fields: dict[str, Any]) -> Any:
    """Load a cut model: build the dense one, apply the cut, and load the weights."""
    from secateurs.backends import backend_named
    from secateurs.channels.cut import Cut
    from secateurs.channels.proof import keep_report_, report_of

    cut = Cut.from_json(fields[_CUT])
    dense = {name: value for name, value in fields.items() if name not in (_CUT, _PER_LAYER)}
    dense.pop("allow_global_per_layer_attribute_access", None)
    weights = place / _WEIGHTS[0]
    if not weights.exists():
        raise ModelError(f"{place}: expected the weights in one file, {weights.name}")
    try:
        model = kind(kind.config_class.from_dict(dense)).eval()
    except Exception as error:  # likewise
        raise ModelError(
            f"{place}: cannot be built: {' '.join(str(error).split())[:300]}"
        ) from error
    backend = backend_named("pytorch")
    small = backend.apply(model, cut, None, proof=False)
    loaded = backend.load(small, weights).eval()
    keep_report_(loaded, report_of(small))
    return loaded


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
