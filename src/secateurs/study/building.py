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
from secateurs.errors import DataError, ModelError, SecateursError, describe_raised
from secateurs.models.names import is_our_resnet
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
    options = with_stem(task.model, images | task.model_options, images.get("size", _LARGE))
    with _seed_everything(seed), explain_build_errors(task.model):
        model = models.build(task.model, **options)
    if task.weights is not None:
        model = backend_of(model).load(model, Path(task.weights))
    if isinstance(loaded, Data):
        loaded = in_layout_of(model, loaded)
        return model, Sources(loaded.train, loaded.validation, loaded.test)
    return model, Sources(*loaded)


def in_layout_of(model: Any, images: Data) -> Data:
    """The images in the layout that the model takes: its channels first, or last."""
    return images.arrange(channels_last=backend_of(model).has_channels_last(model, images.shape))


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
    if not is_our_resnet(name) or "stem" in options:
        return options
    fitting = "small" if size < _SMALL else "small-stride2" if size < _MIDDLING else "imagenet"
    return options | {"stem": fitting}
