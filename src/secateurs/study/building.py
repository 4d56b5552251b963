"""From what a task is called to its model and its data."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from secateurs.backends import backend_of
from secateurs.data.sets import Data
from secateurs.errors import (
    DataError,
    ModelError,
    SecateursError,
    UnknownNameError,
    describe_raised,
)
from secateurs.settings.study import Task
from secateurs.study.sources import Sources

_LABELLED = ("classification", "segmentation", "regression")
_OF_CLASSES = ("classification", "embedding")
"""Tasks that images and their classes are of."""
_SMALL, _MIDDLING, _LARGE = 64, 128, 224


def build_task(task: Task, seed: int) -> tuple[Any, Sources]:
    """The model and the data of a task that says all that is needed.

    Args:
        task: by name.
        seed: of the model's initial weights.

    Raises:
        SecateursError: the model or the data cannot be had; the message says why.
    """
    from secateurs import models

    loaded = load_data(task)
    images: dict[str, int] = {}
    if isinstance(loaded, Data):
        images = {
            "classes": len(loaded.classes),
            "in_channels": loaded.shape[0],
            "size": loaded.shape[1],
        }
    if models.is_keras_file(task.model):
        model = _from_keras_file(task)
    else:
        options = with_stem(task.model, images | task.model_options, images.get("size", _LARGE))
        with _seed_everything(seed), explain_build_errors(task.model):
            model = models.build(task.model, **options)
    if task.weights is not None:
        model = backend_of(model).load(model, Path(task.weights))
    if isinstance(loaded, Data):
        return model, Sources(loaded.train, loaded.validation, loaded.test)
    return model, Sources(*loaded)


def load_data(task: Task) -> Data | tuple[Any, ...]:
    """The data that a task names: images and their classes, or for a named task any batches."""
    from secateurs import data

    if task.learning is None:
        return data.load(task.data, **task.data_options)
    hides = task.learning == "masked-language-modelling" and task.data.startswith("text:")
    loaded = data.load_any(task.data, **task.data_options, **({"masked": True} if hides else {}))
    if isinstance(loaded, Data) and task.learning not in _OF_CLASSES:
        raise DataError(
            f"{task.data}: expected data for {task.learning}, (inputs, targets) for a split; "
            "received images and their classes. Leave --task out, or give --data MODULE:FUNCTION"
        )
    if not isinstance(loaded, Data) and task.learning in _LABELLED:
        _check_labelled(task.data, loaded)
    return loaded


def _check_labelled(name: str, splits: tuple[Any, ...]) -> None:
    """That none of the splits is one array: inputs without what should come of them."""
    for split, one in zip(("train", "validation", "test"), splits, strict=False):
        if hasattr(one, "shape"):
            raise DataError(
                f"{name}: expected (train, validation) or (train, validation, test), each (inputs, "
                f"targets) or batches of both; received as {split} one array of shape "
                f"{tuple(one.shape)}. Of inputs x and targets y, return "
                "(x[:n], y[:n]), (x[n:], y[n:])"
            )


def _from_keras_file(task: Task) -> Any:
    """The model in a ``.keras`` file, compiled as it was saved."""
    if task.model_options:
        raise ModelError(
            f"{task.model}: expected no options of the model, which is built already; received "
            f"{', '.join(task.model_options)}"
        )
    if not Path(task.model).exists():
        raise UnknownNameError(f"{task.model}: no such file")
    try:
        import keras
    except ModuleNotFoundError as error:
        raise ModelError(f"{task.model}: needs Keras; pip install 'secateurs[keras]'") from error
    try:
        return keras.saving.load_model(task.model)
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(
            f"{task.model}: cannot be read as a Keras model: {' '.join(str(error).split())}"
        ) from error


@contextmanager
def explain_build_errors(name: str) -> Iterator[None]:
    """Say in one line what went wrong while a model of this name was made, and where.

    Raises:
        ModelError: in place of whatever its code raises.
    """
    try:
        yield
    except SecateursError:
        raise
    except Exception as error:
        raise ModelError(
            f"{name}: expected a model that can be built with these options; its code raised "
            f"{describe_raised(error)}"
        ) from error


@contextmanager
def _seed_everything(seed: int) -> Iterator[None]:
    """Initial weights from a seed: PyTorch's own, and Python's, which Keras draws seeds from."""
    state = random.getstate()
    random.seed(seed)
    if importlib.util.find_spec("torch") is not None:
        import torch

        torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def with_stem(name: str, options: dict[str, Any], size: int) -> dict[str, Any]:
    """The options, with the stem for images of this size where a ResNet of ours has none given."""
    if not name.startswith("resnet") or "stem" in options:
        return options
    fitting = "small" if size < _SMALL else "small-stride2" if size < _MIDDLING else "imagenet"
    return options | {"stem": fitting}
