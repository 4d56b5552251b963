"""Preprocessing that a named model expects, from its own configuration; nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from secateurs.arguments import takes_as_annotated
from secateurs.data.normalisation import Preprocessing
from secateurs.errors import ModelError, SecateursError, UnknownNameError
from secateurs.models import names
from secateurs.models.keras_files import is_keras_file, preprocessing_in

_RESCALE = 1 / 255
_DIRECTORY_SOURCES = ("transformers", "hf")
_PREPROCESSOR = "preprocessor_config.json"


@takes_as_annotated(UnknownNameError)
def preprocessing_of(name: str) -> Preprocessing | None:
    """The normalisation, size and crop that a model of this name was trained with.

    Args:
        name: as ``build`` takes it.

    Returns:
        The preprocessing of torchvision's default weights, timm's configuration, a directory's
        ``preprocessor_config.json`` or a ``.keras`` file's first layer; None if there is none.

    Example:
        >>> preprocessing_of("resnet18") is None  # ours were trained on what you give them
        True
    """
    if is_keras_file(name):
        return preprocessing_in(name)
    source, colon, rest = name.partition(":")
    if not colon:
        return None
    try:
        if source == "torchvision":
            return _of_torchvision(rest)
        if source == "timm":
            return _of_timm(rest)
    except SecateursError:
        return None  # building the model reports what is wrong with its name
    if source in _DIRECTORY_SOURCES:
        return _of_directory(Path(rest))
    return None


def _of_torchvision(name: str) -> Preprocessing | None:
    models = names.import_torchvision(name)
    if name not in models.list_models():
        return None
    weights = getattr(models.get_model_weights(name), "DEFAULT", None)
    made: Any = None if weights is None else weights.transforms()
    if type(made).__name__ == "ObjectDetection":
        zeros, ones = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        return Preprocessing(zeros, ones, source="torchvision's detectors normalise images")
    if made is None or not all(hasattr(made, key) for key in ("mean", "std", "crop_size")):
        return None
    size, resized = made.crop_size[0], made.resize_size[0]
    return Preprocessing(
        tuple(made.mean), tuple(made.std), size, size / resized, f"torchvision's {weights}"
    )


def _of_timm(name: str) -> Preprocessing | None:
    found = names.import_timm(name).get_pretrained_cfg(name, allow_unregistered=True)
    if found is None or not found.mean:
        return None
    size = found.input_size[-1] if found.input_size else None
    crop = float(found.crop_pct or 1)
    return Preprocessing(
        tuple(found.mean), tuple(found.std), size, crop, f"timm's configuration of {name}"
    )


def _of_directory(place: Path) -> Preprocessing | None:
    path = place / _PREPROCESSOR
    if not path.exists():
        return None
    try:
        settings = json.loads(path.read_bytes())
        if not settings.get("do_normalize", True):
            mean, std = [0.0], [1.0]
        else:
            mean, std = settings["image_mean"], settings["image_std"]
        size = settings.get("crop_size") if settings.get("do_center_crop") else settings.get("size")
        pixels = _pixels(size)
        shortest = _pixels(settings.get("size")) if settings.get("do_center_crop") else pixels
        crop = 1.0 if not pixels or not shortest else min(1.0, pixels / shortest)
        if not settings.get("do_rescale", True):  # the mean refers to pixels of 0 to 255
            mean, std = [one * _RESCALE for one in mean], [one * _RESCALE for one in std]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path}: cannot be read as an image processor's configuration: {error}"
        ) from error
    return Preprocessing(tuple(mean), tuple(std), pixels, crop, str(path))


def _pixels(size: Any) -> int | None:
    if isinstance(size, int):
        return size
    if isinstance(size, dict):
        sides = [size.get(key) for key in ("height", "width", "shortest_edge")]
        return next((int(side) for side in sides if side), None)
    return None
