"""Building the model and loading the data of a task from their names."""

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
"""Tasks whose data may be images with class labels."""
_SMALL, _MIDDLING, _LARGE = 64, 128, 224


def build_task(task: Task, seed: int) -> tuple[Any, Sources]:
    """Build the model and load the data of a task from its settings.

    Args:
        task: settings of the task.
        seed: seed of the model's initial weights.

    Raises:
        SecateursError: the model or the data is not available; the message says why.
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
    """Load the data that a task names: labelled images, or any batches for other tasks."""
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
    """Check that no split is a single array, which holds inputs without targets."""
    for split, one in zip(("train", "validation", "test"), splits, strict=False):
        if hasattr(one, "shape"):
            raise DataError(
                f"{name}: expected (train, validation) or (train, validation, test), each (inputs, "
                f"targets) or batches of both; received as {split} one array of shape "
                f"{tuple(one.shape)}. Of inputs x and targets y, return "
                "(x[:n], y[:n]), (x[n:], y[n:])"
            )


def _from_keras_file(task: Task) -> Any:
    """Load the model in a ``.keras`` file, compiled as it was saved."""
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
    """Explain in one line what went wrong while a model was built, and where.

    Raises:
        ModelError: instead of whatever the model's code raises.
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
    """Seed PyTorch's random generator, and Python's, from which Keras draws its seeds."""
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
    """Add the stem that fits this image size, for a built-in ResNet without one."""
    if not name.startswith("resnet") or "stem" in options:
        return options
    fitting = "small" if size < _SMALL else "small-stride2" if size < _MIDDLING else "imagenet"
    return options | {"stem": fitting}
